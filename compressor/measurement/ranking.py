"""Figures of rankings: how good the order of the documents of each query is, and how alike two orders are."""

import numpy as np
from scipy.stats import kendalltau, norm

from compressor.data.answers.within import ranked

DEPTH = 10
"""Documents from the top that count."""


def ndcg(scores: np.ndarray, labels: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return the NDCG@10 of each query [Q], from scores [N], labels [N] (0 or more) and the query of each row, int64 [N].

    The gain of a document is its label and the discount `1 / log2(rank + 1)`, as trec_eval and pytrec_eval have it (Järvelin and
    Kekäläinen 2002, ACM TOIS 20, 422-446, with linear gains). NaN for queries without a relevant document. Of equal scores the
    first row is on top.
    """
    gained, best = (_discounted(values, labels, within) for values in (scores, labels))
    with np.errstate(invalid="ignore"):
        return np.where(best > 0, gained / best, np.nan)


def reciprocal_ranks(scores: np.ndarray, labels: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return 1 / rank of the first relevant document (label above 0) of each query [Q], 0 below rank 10.

    NaN for queries without a relevant document.
    """
    found = np.zeros(within.max() + 1)
    ranks = _ranks(scores, within)
    counted = (labels > 0) & (ranks <= DEPTH)
    np.maximum.at(found, within[counted], 1 / ranks[counted])
    return np.where(np.bincount(within, labels > 0) > 0, found, np.nan)


def ranking_metrics(
    scores: np.ndarray, labels: np.ndarray, within: np.ndarray
) -> tuple[float, tuple[float, float], dict[str, float]]:
    """Return the mean NDCG@10 of the queries with a relevant document, its normal 95 % interval, and MRR@10."""
    values = ndcg(scores, labels, within)
    values = values[~np.isnan(values)]
    mean = float(values.mean())
    reach = norm.ppf(0.975) * float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 1.0
    more = {"mrr": float(np.nanmean(reciprocal_ranks(scores, labels, within))), "queries": len(values)}
    return mean, (max(mean - reach, 0.0), min(mean + reach, 1.0)), more


def likeness(one: np.ndarray, other: np.ndarray, within: np.ndarray) -> dict[str, float]:
    """Return Kendall's tau-b of two scorings [N] inside a query, the mean over the queries; 1 where neither orders anything."""
    order, starts = ranked(one, within)
    parts = np.split(order, starts[1:])
    return {"kendall_tau": float(np.mean([_tau(one[rows], other[rows]) for rows in parts]))}


def _tau(one: np.ndarray, other: np.ndarray) -> float:
    flat = [np.ptp(values) == 0 for values in (one, other)]
    return float(all(flat)) if any(flat) else float(kendalltau(one, other).statistic)


def _ranks(scores: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return the rank of each row [N] inside its query, 1 for the top."""
    order, starts = ranked(scores, within)
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[order] = np.arange(len(scores)) - starts[within[order]] + 1
    return ranks


def _discounted(scores: np.ndarray, labels: np.ndarray, within: np.ndarray) -> np.ndarray:
    ranks = _ranks(scores, within)
    return np.bincount(within, np.where(ranks <= DEPTH, labels / np.log2(ranks + 1), 0))
