"""How sure a model is against how often it is right: margins, expected calibration error, one temperature, intervals.

All intervals are percentiles of one bootstrap over rows (`resampled_means`). Two models, or one model before and after
its temperature, share the draws, so that their differences are paired.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from compressor.measurement.statistics import share_interval

HIGH_CONFIDENCE = 0.3
"""Margin above which an error counts as one of high confidence."""
BINS, LEAST_IN_BIN = 15, 20
"""Bins of equal mass at most (Guo et al. 2017 have 15), and rows that a bin should hold; few rows make fewer bins."""
DRAWS, CALIBRATED_DRAWS = 2000, 500
STATISTICS = "ece", "overconfidence", "nll", "high_confidence_share", "mean_margin"
"""What `measured` gives of every set of logits; the last two are means over its errors."""
TEMPERATURES = 0.05, 20.0
"""Smallest and largest temperature tried."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; both None where there is nothing to measure, such as a share of no errors."""

    value: float | None
    ci95: Interval | None


def margins(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return p(predicted) - p(gold) of every row, float64 [N], for logits [N, C] and gold int64 [N]; 0 where they agree."""
    p, rows = softmax(logits.astype(np.float64), axis=1), np.arange(len(gold))
    return p[rows, logits.argmax(1)] - p[rows, gold]


def nll(logits: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return -log p(gold) of every row in nats, float64 [N]."""
    return -log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(gold)), gold]


def fit_temperature(logits: np.ndarray, gold: np.ndarray) -> float:
    """Return the T within TEMPERATURES that minimises the mean NLL of logits / T (Guo et al. 2017, section 4.2).

    The NLL is convex in 1/T, so that the one minimum there is is found.
    """
    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(
        lambda power: nll(logits / np.exp(power), gold).mean(),
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(found.x))


def bin_count(rows: int) -> int:
    """Return how many bins of equal mass `rows` rows are cut into."""
    return max(1, min(BINS, rows // LEAST_IN_BIN))


def equal_mass_bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Return the bin of every row, int64 [N], from the least to the most confident: as many rows in each as can be.

    Equal confidences share a bin, so that the order of the rows decides nothing.
    """
    edges = np.unique(np.sort(confidence)[[len(confidence) * cut // bins for cut in range(1, bins)]])
    return np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1]


def ece(logits: np.ndarray, gold: np.ndarray, bins: int | None = None) -> float:
    """Return the expected calibration error: over bins of equal mass, the mean |share right - mean p(predicted)|.

    Naeini et al. 2015, with the bins of Nguyen and O'Connor 2015; each bin weighs as much as it holds rows.
    """
    return float(_summary(columns(logits, gold, bins or bin_count(len(gold))).mean(0))["ece"])


def columns(logits: np.ndarray, gold: np.ndarray, bins: int) -> np.ndarray:
    """Return what every row adds to the statistics of `_summary`: float64 [N, bins + 5].

    First confidence - right in the column of the row's own bin, 0 in the others; then the same in one column, NLL, whether
    the row is an error, whether one of high confidence, and the margin of an error.
    """
    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    margin, wrong = margins(logits, gold), logits.argmax(1) != gold
    gap = confidence - ~wrong
    own_bin = equal_mass_bins(confidence, bins)
    by_bin = np.zeros((len(gold), own_bin.max() + 1))
    by_bin[np.arange(len(gold)), own_bin] = gap
    return np.column_stack([by_bin, gap, nll(logits, gold), wrong, margin > HIGH_CONFIDENCE, margin])


def _summary(means: np.ndarray) -> dict[str, np.ndarray]:
    """Return STATISTICS of column means [..., bins + 5], each [...]; those of errors are NaN where there is none."""
    overconfidence, loss, errors, *of_errors = np.moveaxis(means[..., -5:], -1, 0)
    of_errors = np.divide(of_errors, errors, out=np.full((2, *errors.shape), np.nan), where=errors > 0)
    return dict(zip(STATISTICS, (np.abs(means[..., :-5]).sum(-1), overconfidence, loss, *of_errors), strict=True))


def resampled_means(values: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """Return the column means [draws, K] of `values` [N, K] over rows drawn with replacement."""
    generator, rows = np.random.default_rng(seed), len(values)
    means = np.empty((draws, values.shape[1]))
    for draw in range(draws):
        means[draw] = np.bincount(generator.integers(rows, size=rows), minlength=rows) @ values
    return means / rows


def measured(
    variants: Mapping[str, np.ndarray], gold: np.ndarray, *, seed: int
) -> tuple[dict[str, dict[str, float | None]], dict[str, dict[str, np.ndarray]]]:
    """Return, for logits [N, C] by name, the statistics of `_summary` and their draws [DRAWS], which all names share."""
    bins = bin_count(len(gold))
    parts = {name: columns(logits, gold, bins) for name, logits in variants.items()}
    cuts = np.cumsum([part.shape[1] for part in parts.values()])[:-1]
    drawn = np.split(resampled_means(np.concatenate(list(parts.values()), axis=1), DRAWS, seed), cuts, axis=1)
    values = {
        name: {key: float(value) if np.isfinite(value) else None for key, value in _summary(part.mean(0)).items()}
        for name, part in parts.items()
    }
    return values, {name: _summary(means) for name, means in zip(parts, drawn, strict=True)}


def estimate(value: float | None, draws: np.ndarray, *, centred: bool = False, least: float = -np.inf) -> Estimate:
    """Return the value with the 95 % percentile interval of its bootstrap `draws`, nothing below `least`.

    `centred` shifts the draws so that their mean is the value. The ECE needs it: resampling adds noise to every bin, which
    the absolute value turns into a draw that is too high.
    """
    if value is None:
        return Estimate(None, None)
    low, high = np.nanquantile(draws, [0.025, 0.975]) - (np.nanmean(draws) - value if centred else 0.0)
    return Estimate(value, (max(float(low), least), max(float(high), least)))


def change(
    key: str, values: tuple[Mapping, Mapping], draws: tuple[Mapping[str, np.ndarray], Mapping[str, np.ndarray]]
) -> Estimate:
    """Return the second minus the first value of a statistic, paired: their draws must be shared."""
    first, second = values[0][key], values[1][key]
    value = None if first is None or second is None else second - first
    return estimate(value, draws[1][key] - draws[0][key], centred=key == "ece")


def ece_if_calibrated(logits: np.ndarray, gold: np.ndarray, seed: int) -> tuple[float, float]:
    """Return (mean ECE that the same confidences would have if they were true, p of the ECE that was found).

    Rows are right by chance with probability p(predicted) (Broecker and Smith 2007): the ECE of few rows is never 0.
    """
    confidence = softmax(logits.astype(np.float64), axis=1).max(1)
    own_bin = equal_mass_bins(confidence, bin_count(len(gold)))
    generator = np.random.default_rng(seed)
    drawn = np.empty(CALIBRATED_DRAWS)
    for draw in range(CALIBRATED_DRAWS):
        gap = confidence - (generator.random(len(gold)) < confidence)
        drawn[draw] = np.abs(np.bincount(own_bin, gap)).sum() / len(gold)
    found = ece(logits, gold)
    return float(drawn.mean()), float((1 + (drawn >= found).sum()) / (1 + CALIBRATED_DRAWS))


def reliability(logits: np.ndarray, gold: np.ndarray) -> list[dict[str, float | int | Interval]]:
    """Return {rows, confidence, accuracy, accuracy_ci95} of every bin of equal mass, the least confident first."""
    confidence, right = softmax(logits.astype(np.float64), axis=1).max(1), logits.argmax(1) == gold
    own_bin = equal_mass_bins(confidence, bin_count(len(gold)))
    made = []
    for number in range(own_bin.max() + 1):
        inside = own_bin == number
        count, rows = int(right[inside].sum()), int(inside.sum())
        made.append({"rows": rows, "confidence": float(confidence[inside].mean()), "accuracy": count / rows}
                    | {"accuracy_ci95": share_interval(count, rows)})  # fmt: skip
    return made
