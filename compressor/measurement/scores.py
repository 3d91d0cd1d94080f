"""Figures of scores: correlations, errors, and the paired difference of two rank correlations with its uncertainty."""

import numpy as np
from scipy.stats import norm, pearsonr, rankdata, spearmanr

DRAWS, ROWS_AT_ONCE = 1000, 2_000_000
"""Bootstrap draws, and values that are ranked at a time."""


def spearman(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return Spearman's rank correlation of scores [N] and labels [N]; 0 where one of the two does not vary."""
    if np.ptp(scores) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(spearmanr(scores, labels).statistic)


def spearman_interval(correlation: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a rank correlation of so many rows, by Fisher's z.

    Its standard error is `sqrt((1 + r^2 / 2) / (N - 3))` (Bonett and Wright 2000, Psychometrika 65, equation 9). Three rows
    or fewer say nothing.
    """
    if rows <= 3:
        return -1.0, 1.0
    reach = norm.ppf(0.975) * ((1 + correlation**2 / 2) / (rows - 3)) ** 0.5
    middle = np.arctanh(np.clip(correlation, -1 + 1e-12, 1 - 1e-12))
    return float(np.tanh(middle - reach)), float(np.tanh(middle + reach))


def spearman_delta(full: np.ndarray, other: np.ndarray, labels: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return how much higher the rank correlation of `other` [N] with the labels [N] is than that of `full` [N], and its error.

    The error is the standard deviation of the paired bootstrap: rows are drawn with replacement, the same for both models, so
    that what both have in common falls out (Efron and Tibshirani 1993, chapter 6). 0 where the scores are the same.
    """
    delta, rows = spearman(other, labels) - spearman(full, labels), len(labels)
    if np.array_equal(full, other):
        return delta, 0.0
    generator, found = np.random.default_rng(seed), []
    for start in range(0, DRAWS, step := max(1, ROWS_AT_ONCE // rows)):
        drawn = generator.integers(rows, size=(min(step, DRAWS - start), rows))
        wanted, *ranked = (_standard_ranks(values[drawn]) for values in (labels, full, other))
        of_full, of_other = ((ranks * wanted).sum(1) for ranks in ranked)
        found.append(of_other - of_full)
    return delta, float(np.concatenate(found).std(ddof=1))


def score_metrics(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Return Pearson's and Spearman's correlation of scores [N] with labels [N], and the mean absolute error."""
    varied = np.ptp(scores) > 0 and np.ptp(labels) > 0
    return {
        "pearson": float(pearsonr(scores, labels).statistic) if varied else 0.0,
        "spearman": spearman(scores, labels),
        "mae": float(np.abs(scores - labels).mean()),
    }


def _standard_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks of each row of [D, N], centred and of length 1, so that products of two are correlations."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    length = np.sqrt(np.square(ranks).sum(1, keepdims=True))
    return ranks / np.where(length > 0, length, 1)
