"""Rankings by hand and against scikit-learn; the paired difference of means."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import ndcg_score

from compressor.data.answers.kinds import RANKING, Task
from compressor.measurement.ranking import likeness, ndcg, ranking_metrics, reciprocal_ranks
from compressor.measurement.statistics import compare, mean_delta, metrics, paired_lower_bound, rate_upper_bound

WITHIN = np.array([0, 1, 0, 1, 0, 1])
SCORES = np.array([3.0, 0.0, 2.0, 1.0, 1.0, 2.0])
LABELS = np.array([0.0, 0.0, 2.0, 0.0, 1.0, 0.0])
"""Query 0 has its documents of relevance 2 and 1 at the second and third place, query 1 has no relevant one."""


def test_gains_by_hand():
    best = 2 + 1 / math.log2(3)
    found = ndcg(SCORES, LABELS, WITHIN)
    assert found[0] == pytest.approx((2 / math.log2(3) + 1 / 2) / best)
    assert np.isnan(found[1])
    assert reciprocal_ranks(SCORES, LABELS, WITHIN)[0] == 1 / 2
    mean, interval, more = ranking_metrics(SCORES, LABELS, WITHIN)
    assert (mean, more) == (pytest.approx(found[0]), {"mrr": 1 / 2, "queries": 1})
    assert interval == (0, 1)  # one query says nothing


def test_what_lies_below_the_tenth_place_does_not_count():
    scores, labels, within = -np.arange(12.0), np.zeros(12), np.zeros(12, dtype=np.int64)
    labels[10] = 1
    assert ndcg(scores, labels, within)[0] == 0
    assert reciprocal_ranks(scores, labels, within)[0] == 0


@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 15))
def test_gains_are_those_of_scikit_learn(seed, queries, documents):
    chance = np.random.default_rng(seed)
    scores, labels = chance.permutation(queries * documents) * 1.0, chance.integers(0, 4, queries * documents) * 1.0
    within = np.repeat(np.arange(queries), documents)
    order = chance.permutation(len(within))
    found = ndcg(scores[order], labels[order], within[order])
    for query in range(queries):
        own = within == query
        if labels[own].any():
            assert found[query] == pytest.approx(ndcg_score([labels[own]], [scores[own]], k=10))


def test_likeness_by_hand():
    other = np.array([3.0, 2.0, 1.0, 1.0, 2.0, 0.0])  # query 0: one pair of three swapped; query 1: all
    assert likeness(SCORES, other, WITHIN)["kendall_tau"] == pytest.approx((1 / 3 - 1) / 2)
    flat = np.zeros(6)
    assert likeness(flat, flat, WITHIN)["kendall_tau"] == 1
    assert likeness(SCORES, flat, WITHIN)["kendall_tau"] == 0


def test_the_difference_of_means_by_hand():
    # Agresti and Min (2005): half a pair is added to each cell; 3 of 100 lost, 1 gained
    full, other = np.zeros(100), np.zeros(100)
    full[:3], other[3] = 1, 1
    delta, error = mean_delta(full, other)
    assert delta == pytest.approx(-0.02)
    assert error == pytest.approx(math.sqrt(4 + 1 - 4 / 100) / 100)
    assert mean_delta(np.array([np.nan, 1.0, 0.5]), np.array([np.nan, 0.5, 0.5]))[0] == -0.25


def test_where_nothing_differs_the_bound_is_the_exact_one():
    same = np.linspace(0, 1, 50)
    delta, error = mean_delta(same, same)
    assert delta == 0
    assert delta - norm.ppf(0.95) * error == pytest.approx(-rate_upper_bound(0, 50))
    moved = same + np.where(np.arange(50) == 7, 1e-3, 0)
    assert mean_delta(same, moved)[1] == error  # hardly anything differs, and no more is known


@given(st.integers(20, 500), st.integers(0, 9), st.integers(0, 9))
def test_of_values_of_0_and_1_the_bound_is_near_that_of_counting(rows, gained, lost):
    full, other = np.zeros(rows), np.zeros(rows)
    full[:lost] = 1
    other[lost : lost + gained] = 1
    delta, error = mean_delta(full, other)
    bound = paired_lower_bound(gained, lost, rows)
    assert delta - norm.ppf(0.95) * error == pytest.approx(bound, abs=2.1 / rows + 0.01)


def test_comparison_of_rankings_counts_queries():
    task = Task(RANKING, within=WITHIN)
    other = np.array([[1.0], [0.0], [2.0], [1.0], [0.0], [2.0]])  # query 0 now has its best document on top
    found = compare(SCORES[:, None], other, LABELS, task=task)
    assert (found.rows, found.flips, found.gained, found.lost) == (2, 1, 1, 0)
    assert (found.counted, found.metric) == ("queries", "NDCG@10")
    assert found.accuracy_delta == pytest.approx(ndcg(other[:, 0], LABELS, WITHIN)[0] - ndcg(SCORES, LABELS, WITHIN)[0])
    assert found.more["kendall_tau"] == pytest.approx((1 / 3 + 1) / 2)
    assert compare(SCORES[:, None], other, None, task=task).accuracy_delta is None
    assert metrics(other, LABELS, task).more["top"] == 1.0
