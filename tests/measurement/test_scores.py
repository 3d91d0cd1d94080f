"""Rank correlations and their paired difference: values by hand, against scipy, and an interval that covers."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from compressor.data.answers.kinds import SCORE, Task
from compressor.measurement.scores import score_metrics, spearman, spearman_delta, spearman_interval
from compressor.measurement.statistics import compare, metrics

TASK = Task(SCORE, tolerance=0.1)


def scores(rows=200, noise=0.5, seed=0):
    """Return labels and the scores of two models that share most of their noise."""
    generator = np.random.default_rng(seed)
    labels = generator.normal(size=rows)
    full = labels + generator.normal(size=rows)
    return labels, full, full + noise * generator.normal(size=rows)


def test_spearman_by_hand():
    # ranks 1 2 3 against 1 3 2: 1 - 6 (0 + 1 + 1) / (3 * 8)
    assert spearman(np.array([0.1, 0.2, 0.9]), np.array([5.0, 9.0, 8.0])) == pytest.approx(0.5)
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0
    found = score_metrics(np.array([1.0, 2.0]), np.array([2.0, 4.0]))
    assert found == pytest.approx({"pearson": 1, "spearman": 1, "mae": 1.5})


def test_the_interval_of_a_correlation_by_hand():
    # atanh 0 = 0; the reach is 1.96 / sqrt(97) at 100 rows
    low, high = spearman_interval(0.0, 100)
    assert (low, high) == pytest.approx((-np.tanh(1.959964 / 97**0.5), np.tanh(1.959964 / 97**0.5)), abs=1e-6)
    assert spearman_interval(0.5, 3) == (-1.0, 1.0)


def test_the_difference_is_that_of_scipy_and_its_error_is_paired():
    labels, full, other = scores()
    delta, error = spearman_delta(full, other, labels)
    assert delta == pytest.approx(spearmanr(other, labels).statistic - spearmanr(full, labels).statistic)
    independent = spearman_delta(full, other[::-1], labels)[1]
    assert 0 < error < independent / 2
    assert spearman_delta(full, full, labels) == (0.0, 0.0)
    assert spearman_delta(full, other, labels) == (delta, error)  # no chance from call to call


def test_the_bound_covers_the_truth_as_often_as_it_says():
    truth = np.subtract(*[spearmanr(part, scores(200_000)[0]).statistic for part in scores(200_000)[2:0:-1]])
    found = [
        compare(full[:, None], other[:, None], labels, task=TASK)
        for labels, full, other in map(lambda seed: scores(150, seed=seed), range(100))
    ]
    below = sum(versus.lower_bound <= truth for versus in found)
    inside = sum(versus.ci95[0] <= truth <= versus.ci95[1] for versus in found)
    assert below >= 89  # 95 expected; 88 or fewer have a chance of 0.3 %
    assert inside >= 89


def test_scores_are_compared_by_tolerance_and_rank():
    labels, full, other = scores()
    versus = compare(full[:, None], other[:, None], labels, task=TASK)
    assert versus.flips == int((np.abs(full - other) > 0.1).sum())
    assert (versus.metric, versus.gained, versus.lost, versus.mcnemar_p) == ("Spearman correlation", None, None, None)
    assert versus.lower_bound < versus.accuracy_delta < versus.ci95[1]
    exact = compare(full[:, None], full[:, None] + 1e-5, labels, task=TASK)
    assert (exact.tier, exact.flips) == ("exact", 0)
    measured = metrics(full[:, None], labels, TASK)
    assert measured.accuracy == pytest.approx(spearmanr(full, labels).statistic)
    assert measured.f1 is None


def test_too_few_rows_are_undecided_and_say_how_many_would_do():
    labels, full, other = scores(40, noise=0.15, seed=1)
    versus = compare(full[:, None], other[:, None], labels, task=TASK)
    assert versus.tier == "undecided"
    error = (versus.accuracy_delta - versus.lower_bound) * (40 / versus.rows_to_decide) ** 0.5
    assert versus.accuracy_delta - error == pytest.approx(-0.02, abs=1e-3)
