"""Metrics of one model and paired comparisons of two, with their uncertainty."""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, binomtest, norm

from compressor.data.answers.kinds import MANY_LABELS, RANKING, SCORE, SINGLE, TOKENS, Task
from compressor.data.answers.within import need_within
from compressor.measurement.ranking import likeness, ndcg, ranking_metrics
from compressor.measurement.scores import score_metrics, spearman_delta, spearman_interval
from compressor.measurement.tokens import token_delta, token_metrics

EXACT_LOGITS = 1e-3
LOSSLESS_FLIPS, LOSSLESS_DROP = 0.01, -0.01
NEAR_DROP = -0.02
TIERS: dict[str, str] = {
    "exact": f"no changed prediction and all logits within {EXACT_LOGITS:g}",
    "lossless": "at most 1 % changed predictions, and the one-sided 95 % bound of the accuracy delta above -1 point",
    "near": "the one-sided 95 % bound of the accuracy delta above -2 points",
    "undecided": "too few rows: the accuracy measured would be near, its bound is not",
    "lossy": "the accuracy measured is more than 2 points below",
}


@dataclass(frozen=True)
class Metrics:
    """The figures of one model.

    `accuracy` is the task's own metric (`Kind.metric`) with its 95 % interval: of one label the share of right answers, of many
    labels that of rows whose set is right (Wilson), of scores Spearman's correlation, of rankings the mean NDCG, of tokens the
    F1 of entities or the share of right words. `f1` is
    that of class 1 for two classes, else the mean over the classes or labels, `mcc` Matthews' correlation; None where there is
    none. `more` has the others.
    """

    accuracy: float
    accuracy_ci95: tuple[float, float]
    f1: float | None
    mcc: float | None
    more: dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A model against the full one on the same rows. Shares and deltas are fractions; positive delta = better.

    Rows are what is `counted` (see `Kind`): the queries of rankings, the texts of tokens, which are right as a whole.

    `lower_bound` is the one-sided 95 % bound of the accuracy delta; where `tier` is undecided, `rows_to_decide` is how many
    rows with the same shares of gained and lost predictions would show it to be near, else None. Without labels `gained`,
    `lost`, `accuracy_delta`, `ci95` and `mcnemar_p` are None and the bound is minus the upper bound of the flip rate,
    which no delta can pass. `metric` is what `accuracy_delta` is a difference of. Scores are not counted: theirs has the
    normal interval of a paired bootstrap, and the counts and p are None. Of rankings the counts are those of queries with
    the best row on top, and the delta is the mean over the queries (`mean_delta`). `more` has other figures of how alike the
    two are.
    """

    rows: int
    agreement: float
    flips: int
    flip_rate: float
    gained: int | None
    lost: int | None
    accuracy_delta: float | None
    ci95: tuple[float, float] | None
    lower_bound: float
    mcnemar_p: float | None
    max_abs_logit: float
    tier: str
    rows_to_decide: int | None
    metric: str = SINGLE.row.metric
    counted: str = SINGLE.row.counted
    more: dict[str, float] = field(default_factory=dict)


def metrics(logits: np.ndarray, labels: np.ndarray, task: Task = SINGLE) -> Metrics:
    """Return the metrics of logits [N, C] against labels as the task has them."""
    from sklearn.metrics import (  # a search for layers needs none of them
        f1_score,
        label_ranking_average_precision_score,
        matthews_corrcoef,
    )

    predicted = task.answers(logits)
    if task.kind == SCORE:
        found = score_metrics(predicted, labels)
        interval = spearman_interval(found["spearman"], len(labels))
        return Metrics(found["spearman"], interval, None, None, found)
    if task.kind == RANKING:
        mean, interval, found = ranking_metrics(predicted, labels, need_within(task.within))
        return Metrics(mean, interval, None, None, {**found, "top": float(task.right(logits, labels).mean())})
    if task.kind == TOKENS:
        value, interval, found = token_metrics(task, predicted, labels)
        return Metrics(value, interval, None, None, {**found, "whole_texts": float(task.right(logits, labels).mean())})
    correct, many = int(task.right(logits, labels).sum()), task.kind == MANY_LABELS
    average = "binary" if logits.shape[1] == 2 and not many else "macro"
    more = {}
    if many:
        more["micro_f1"] = float(f1_score(labels, predicted, average="micro", zero_division=0))
        more["lrap"] = float(label_ranking_average_precision_score(labels, logits))
    return Metrics(
        accuracy=correct / len(labels),
        accuracy_ci95=share_interval(correct, len(labels)),
        f1=float(f1_score(labels, predicted, average=average, zero_division=0)),
        mcc=None if many else float(matthews_corrcoef(labels, predicted)),
        more=more,
    )


def compare(
    full: np.ndarray, other: np.ndarray, labels: np.ndarray | None, *, task: Task = SINGLE, confidence: float = 0.95
) -> Comparison:
    """Compare logits [N, C] of a model with those of the full model, row by row; labels as the task has them.

    The interval is that of `delta_interval`, the one-sided bound that of `paired_lower_bound`; p is the exact McNemar test
    (binomial over the discordant rows). `confidence` is that of the one-sided bound alone; the tier always uses 95 %.
    """
    changed = task.changed(full, other)
    rows, flips = len(changed), int(changed.sum())
    max_abs = float(np.abs(full - other).max())
    gained = lost = delta = interval = p_value = error = None
    if labels is not None and task.row.countable:
        gained, lost = gained_and_lost(task.right(full, labels), task.right(other, labels))
        p_value = mcnemar_p(gained, lost)
    if labels is None:
        bounds = {level: -rate_upper_bound(flips, rows, level) for level in (confidence, 0.95)}
        observed = -flips / rows  # each changed prediction may be one that was right
    elif task.kind in DELTAS:
        delta, error = DELTAS[task.kind](task, task.answers(full), task.answers(other), labels)
        observed, interval = delta, (delta - norm.ppf(0.975) * error, delta + norm.ppf(0.975) * error)
        bounds = {level: delta - norm.ppf(level) * error for level in (confidence, 0.95)}
    else:
        observed = delta = (gained - lost) / rows
        interval = delta_interval(gained, lost, rows)
        bounds = {level: paired_lower_bound(gained, lost, rows, level) for level in (confidence, 0.95)}
    if task.kind == TOKENS and not delta and labels is not None:  # a bootstrap of nothing that moved has no width
        bounds = {level: min(bound, -rate_upper_bound(0, rows, level)) for level, bound in bounds.items()}
        reach = max(interval[1], rate_upper_bound(0, rows, 0.975))
        interval = -reach, reach
    level = tier(flips / rows, max_abs, bounds[0.95], observed)
    return Comparison(
        rows=rows,
        agreement=1 - flips / rows,
        flips=flips,
        flip_rate=flips / rows,
        gained=gained,
        lost=lost,
        accuracy_delta=delta,
        ci95=interval,
        lower_bound=bounds[confidence],
        mcnemar_p=p_value,
        max_abs_logit=max_abs,
        tier=level,
        rows_to_decide=rows_to_decide(gained, lost, flips, rows, (observed, error)) if level == "undecided" else None,
        metric=task.metric,
        counted=task.row.counted,
        more=likeness(full[:, 0], other[:, 0], need_within(task.within)) if task.kind == RANKING else {},
    )


def mean_delta(full: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of paired values in 0..1 [N] (NaN in both: not counted), and its standard error.

    Two pairs that differ by 1, one in either direction, are added with half a weight each: for values of 0 and 1 that is the
    interval of Agresti and Min (2005, Statistics in Medicine 24, 729-740), which holds where few pairs differ. The error is
    at least such that the 95 % bound is the exact binomial one of no pair that differs: what small differences say of rare
    large ones is no more than what none would say.
    """
    differences = (other - full)[~np.isnan(full)]
    count, delta = len(differences), float(differences.mean())
    squares = np.square(differences).sum() + 1 - count * delta**2
    return delta, max(float(np.sqrt(max(squares, 0))) / count, rate_upper_bound(0, count) / norm.ppf(0.95))


def ranking_delta(task: Task, full: np.ndarray, other: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the mean difference of the NDCG of scores [N] over the queries, and its error."""
    return mean_delta(*(ndcg(scores, labels, need_within(task.within)) for scores in (full, other)))


DELTAS: dict[str, Callable[[Task, np.ndarray, np.ndarray, np.ndarray], tuple[float, float]]] = {
    SCORE: lambda _task, full, other, labels: spearman_delta(full, other, labels),
    RANKING: ranking_delta,
    TOKENS: token_delta,
}
"""Kind of task whose metric is no share of right answers -> the difference of two models' answers and its error."""


def discordant(full: np.ndarray, other: np.ndarray, labels: np.ndarray) -> tuple[int, int]:
    """Return how many rows the other model (predicted labels [N]) gained and lost against the full one."""
    return gained_and_lost(full == labels, other == labels)


def gained_and_lost(right_full: np.ndarray, right: np.ndarray) -> tuple[int, int]:
    """Return how many rows the other model (bool [N], where it is right) gained and lost against the full one."""
    return int((right & ~right_full).sum()), int((right_full & ~right).sum())


def mcnemar_p(gained: int, lost: int) -> float:
    """Return the p of the exact McNemar test: binomial over the discordant rows."""
    return float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by the step-down of Holm (1979): no false alarm among all at 95 %."""
    order = np.argsort(p_values, kind="stable")
    stepped = np.maximum.accumulate(np.array(p_values)[order] * np.arange(len(order), 0, -1)) if len(order) else order
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected.tolist()


def share_interval(count: int, rows: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a share, `count` out of `rows`."""
    interval = binomtest(count, rows).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def delta_interval(gained: int, lost: int, rows: int) -> tuple[float, float]:
    """Return the two-sided 95 % interval of the accuracy delta: `paired_lower_bound` from either side.

    A score interval and no bootstrap: with no row changed a bootstrap draws nothing but zeros, and its interval has no
    width however few the rows are.
    """
    return paired_lower_bound(gained, lost, rows, 0.975), -paired_lower_bound(lost, gained, rows, 0.975)


def percentile_interval(draws: np.ndarray) -> tuple[float, float]:
    """Return the 95 % percentile interval of bootstrap draws [D]."""
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


def tier(flip_rate: float, max_abs_logit: float, lower_bound: float, observed: float) -> str:
    """Return the best tier whose definition (TIERS) holds, for the `observed` accuracy delta and its bound."""
    if flip_rate == 0 and max_abs_logit <= EXACT_LOGITS:
        return "exact"
    if flip_rate <= LOSSLESS_FLIPS and lower_bound > LOSSLESS_DROP:
        return "lossless"
    if lower_bound > NEAR_DROP:
        return "near"
    return "undecided" if observed > NEAR_DROP else "lossy"


def rows_to_decide(
    gained: int | None, lost: int | None, flips: int, rows: int, measured: tuple[float, float | None] = (0.0, None)
) -> int | None:
    """Return how many rows, with the same shares of them gained and lost, would have a bound that is near.

    Without labels (None) the shares are those of the changed predictions; where the delta was `measured` with an error, that
    error falls with the root of the rows. None where a thousand million do not.
    """

    def near(wanted: int) -> bool:
        scale = wanted / rows
        if measured[1] is not None:
            return measured[0] - norm.ppf(0.95) * measured[1] / scale**0.5 > NEAR_DROP
        if gained is None or lost is None:
            return -rate_upper_bound(flips * scale, wanted) > NEAR_DROP
        return paired_lower_bound(gained * scale, lost * scale, wanted) > NEAR_DROP

    high = rows
    while not near(high):
        high *= 2
        if high > 1e9:
            return None
    return bisect_left(range(high), True, lo=high // 2, key=near)


def paired_lower_bound(gained: float, lost: float, rows: int, confidence: float = 0.95) -> float:
    """Return the one-sided lower bound of the accuracy delta of paired predictions: `gained` and `lost` out of `rows`.

    The score bound of Tango (1998, Statistics in Medicine 17, 891-908): the delta at which the test of non-inferiority
    just rejects. It needs no draws, so that it holds at the extreme levels that many candidates ask for. Where no
    row changed it is at most the exact binomial bound: there the score test trusts too few rows too far.
    """
    if gained == rows:
        return 1 - rate_upper_bound(0, rows, confidence)
    z = norm.ppf(confidence)

    def excess(delta: float) -> float:
        # `share`: the likeliest share of lost rows if the true delta were `delta` (Tango's equation for q21)
        linear = -gained - lost + (2 * rows - gained + lost) * delta
        root = np.sqrt(max(linear**2 + 8 * rows * lost * delta * (1 - delta), 0))
        share = (root - linear) / (4 * rows)
        spread = np.sqrt(max(rows * (2 * share + delta * (1 - delta)), 1e-300))
        return (gained - lost - rows * delta) / spread - z

    observed = (gained - lost) / rows
    bound = float(brentq(excess, -1 + 1e-12, observed, xtol=1e-9)) if excess(-1 + 1e-12) > 0 else -1.0
    return bound if gained + lost else min(bound, -rate_upper_bound(0, rows, confidence))


def rate_upper_bound(count: float, rows: int, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of a rate, `count` out of `rows` (Clopper and Pearson 1934)."""
    return 1.0 if count == rows else float(beta.ppf(confidence, count + 1, rows - count))
