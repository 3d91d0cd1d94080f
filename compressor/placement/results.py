"""What a placement experiment shows: improvements over the uniform model, paired by seed, and whether one placement wins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from compressor.measurement.statistics import holm, percentile_interval, rate_upper_bound
from compressor.placement.widths import UNIFORM

MLM = "mlm_loss"
"""The metric of pre-training; every other one is the accuracy of a task."""
CANDIDATE = "middle-70"
"""The placement that decoders are said to gain most from."""
LEVEL = 0.05

Table = Mapping[str, Mapping[int, float]]
"""Placement -> seed -> value of one metric; runs that did not end well are missing."""


@dataclass(frozen=True)
class Improvement:
    """A placement against the uniform model of the same seed, in one metric; shares of the uniform model's value.

    `ci95` is the t interval over seeds (None below two), `rows_ci95` for accuracies the bootstrap interval over evaluation
    rows with these models fixed, `missing` the seeds without a pair.
    """

    placement: str
    metric: str
    seeds: list[int]
    values: list[float]
    mean: float | None
    ci95: tuple[float, float] | None
    rows_ci95: tuple[float, float] | None
    missing: list[int]


@dataclass(frozen=True)
class Contest:
    """The candidate against one other placement: mean difference over the seeds in shares of the uniform model's value."""

    other: str
    difference: float
    ci95: tuple[float, float]
    p_holm: float


@dataclass(frozen=True)
class Verdict:
    """Whether the candidate wins in one metric.

    `outcome`: wins (better than every other beyond doubt), ahead (the best mean, some differences in doubt), behind (some
    other is better beyond doubt), undecided (another has the best mean, in doubt), untested. `missing`: placements that
    could not be compared for every seed.
    """

    metric: str
    candidate: str
    outcome: str
    best: str | None
    seeds: list[int]
    contests: list[Contest]
    missing: list[str]


def sign(metric: str) -> int:
    """Return -1 for a loss, 1 for an accuracy."""
    return -1 if metric == MLM else 1


def relative_improvement(value: float, base: float, direction: int) -> float:
    """Return `direction` (value - base) / |base|: positive is better, whichever way the metric goes."""
    return direction * (value - base) / abs(base)


def improvement(
    placement: str, metric: str, table: Table, correct: Mapping[str, Mapping[int, np.ndarray]] | None = None
) -> Improvement:
    """Compare a placement with the uniform model of the same seeds.

    `correct` holds for every placement and seed which evaluation rows were right, bool [N], for an accuracy.
    """
    own, base = table.get(placement, {}), table.get(UNIFORM, {})
    seeds = sorted(set(own) & set(base))
    missing = sorted((set(own) | set(base)) - set(seeds))
    values = [relative_improvement(own[seed], base[seed], sign(metric)) for seed in seeds]
    rows = None
    if correct is not None and seeds:
        gains = [correct[placement][seed].astype(float) - correct[UNIFORM][seed] for seed in seeds]
        rows = _rows_interval(np.mean(gains, axis=0), float(np.mean([base[seed] for seed in seeds])))
    mean = float(np.mean(values)) if values else None
    return Improvement(placement, metric, seeds, values, mean, mean_interval(values), rows, missing)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of the mean, None for fewer than two values."""
    if len(values) < 2:
        return None
    half = student.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values) - half), float(np.mean(values) + half)


def verdict(table: Table, metric: str, candidate: str = CANDIDATE) -> Verdict:
    """Return whether `candidate` is better than every other placement, the uniform one included.

    Placements times seeds are a two-way table without repetitions: seeds shift all placements alike, and what is left
    beside both means is the error, pooled over placements, with (P - 1)(S - 1) degrees of freedom. P-values are
    corrected by Holm for the number of comparisons; intervals are not.
    """
    seeds = sorted(table.get(UNIFORM, {}))
    whole = [name for name, row in table.items() if all(seed in row for seed in seeds)]
    missing = [name for name in table if name not in whole]
    if candidate not in whole or len(seeds) < 2 or len(whole) < 2:
        return Verdict(metric, candidate, "untested", None, seeds, [], missing)
    values = np.array([[table[name][seed] for seed in seeds] for name in whole])
    values = sign(metric) * values / abs(np.mean(values[whole.index(UNIFORM)]))
    means = values.mean(1)
    left = values - means[:, None] - values.mean(0)[None] + values.mean()
    freedom = (len(whole) - 1) * (len(seeds) - 1)
    error = np.sqrt((left**2).sum() / freedom * 2 / len(seeds))
    mine = means[whole.index(candidate)]
    others = [name for name in whole if name != candidate]
    differences = [float(mine - means[whole.index(name)]) for name in others]
    p_values = [_two_sided(difference, error, freedom) for difference in differences]
    half = float(student.ppf(0.975, freedom) * error)
    contests = [
        Contest(name, difference, (difference - half, difference + half), p)
        for name, difference, p in zip(others, differences, holm(p_values), strict=True)
    ]
    best = whole[int(np.argmax(means))]
    certain = [contest for contest in contests if contest.p_holm < LEVEL]
    if any(contest.difference < 0 for contest in certain):
        outcome = "behind"
    elif best != candidate:
        outcome = "undecided"
    else:
        outcome = "wins" if len(certain) == len(contests) else "ahead"
    return Verdict(metric, candidate, outcome, best, seeds, contests, missing)


def _two_sided(difference: float, error: float, freedom: int) -> float:
    if error == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * student.sf(abs(difference) / error, freedom))


def _rows_interval(gains: np.ndarray, base: float) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the mean of gains [N] over the rows, as a share of `base`.

    Rows take few different values, so drawing rows is drawing the counts of these values.
    """
    if not gains.any():  # draws of nothing but zeros would have no width; so few rows may still have missed a change
        bound = rate_upper_bound(0, len(gains), 0.975) / base
        return -bound, bound
    values, counts = np.unique(gains, return_counts=True)
    drawn = np.random.default_rng(0).multinomial(len(gains), counts / len(gains), size=10_000)
    return percentile_interval(drawn @ values / len(gains) / base)
