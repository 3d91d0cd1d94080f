"""Margins, bins, temperature and calibration error, worked by hand."""

import numpy as np
import pytest
from error_cases import calibrated

from compressor.analysis.errors.calibration import (
    ece,
    ece_if_calibrated,
    equal_mass_bins,
    estimate,
    fit_temperature,
    margins,
    nll,
    reliability,
)
from compressor.analysis.errors.confidence import curve
from compressor.measurement.statistics import holm

LOG3 = np.log(3)


def logits_of(*probabilities):
    return np.log(np.array(probabilities, dtype=np.float64))


def test_margins_are_of_errors_alone():
    logits = logits_of((0.9, 0.1), (0.6, 0.4), (0.2, 0.8), (0.35, 0.65))
    found = margins(logits, np.array([1, 1, 1, 0]))
    np.testing.assert_allclose(found, [0.8, 0.2, 0.0, 0.3], atol=1e-12)
    three = margins(logits_of((0.5, 0.3, 0.2), (0.5, 0.3, 0.2)), np.array([2, 0]))
    np.testing.assert_allclose(three, [0.3, 0.0], atol=1e-12)


def test_curve_counts_margins_above_each_threshold():
    rows = {round(row["margin"], 2): row for row in curve(np.array([0.8, 0.2, 0.35, 0.97]))}
    assert [rows[at]["count"] for at in (0.0, 0.2, 0.3, 0.8, 0.95)] == [4, 3, 3, 1, 1]
    assert rows[0.3]["share"] == 0.75
    low, high = rows[0.3]["share_ci95"]
    assert 0.25 < low < 0.75 < high < 1
    assert curve(np.array([])) == []


def test_equal_mass_bins_ignore_the_order_and_keep_ties_together():
    confidence = np.array([0.9, 0.5, 0.7, 0.6, 0.8, 1.0])
    assert equal_mass_bins(confidence, 3).tolist() == [2, 0, 1, 0, 1, 2]
    assert equal_mass_bins(np.array([0.9, 0.9, 0.9, 0.5]), 2).tolist() == [1, 1, 1, 0]
    assert set(equal_mass_bins(np.ones(10), 5)) == {0}


def test_ece_by_hand():
    # the two least sure rows: mean confidence 0.65, one of two right; the others: 0.85, both right
    logits = logits_of((0.6, 0.4), (0.7, 0.3), (0.8, 0.2), (0.1, 0.9))
    gold = np.array([0, 1, 0, 1])
    assert ece(logits, gold, bins=2) == pytest.approx(0.5 * 0.15 + 0.5 * 0.15)
    assert ece(logits, gold, bins=1) == pytest.approx(0.0)  # 0.75 sure, 0.75 right
    (row,) = reliability(logits, gold)
    assert row["rows"] == 4
    assert (row["confidence"], row["accuracy"]) == (pytest.approx(0.75), 0.75)


def test_ece_of_three_classes_uses_the_predicted_one():
    logits = logits_of((0.5, 0.3, 0.2), (0.5, 0.3, 0.2))
    assert ece(logits, np.array([0, 1]), bins=1) == pytest.approx(0.0)


def test_ece_that_chance_gives_true_confidences():
    expected, p = ece_if_calibrated(*calibrated(400), seed=0)
    assert 0.01 < expected < 0.08
    assert p > 0.01
    assert ece_if_calibrated(*calibrated(400, scale=4), seed=0)[1] == pytest.approx(1 / 501)


def test_temperature_of_logits_scaled_by_three_is_three():
    logits, gold = np.tile([LOG3, 0.0], (4, 1)), np.array([0, 0, 0, 1])  # says 0.75, right three times in four
    assert fit_temperature(logits, gold) == pytest.approx(1.0, abs=1e-4)
    assert fit_temperature(3 * logits, gold) == pytest.approx(3.0, abs=1e-4)
    three, gold = np.tile(logits_of((0.5, 0.25, 0.25)), (4, 1)), np.array([0, 0, 1, 2])
    assert fit_temperature(3 * three, gold) == pytest.approx(3.0, abs=1e-4)
    assert nll(logits, np.zeros(4, int)) == pytest.approx(np.full(4, -np.log(0.75)))


def test_intervals_of_an_absolute_value_hold_the_value():
    draws = np.random.default_rng(0).normal(0.05, 0.01, 4000)
    found = estimate(0.02, draws, centred=True, least=0.0)
    assert found.ci95[0] == pytest.approx(0.0, abs=2e-3)
    assert found.ci95[1] == pytest.approx(0.04, abs=2e-3)
    assert estimate(None, draws).ci95 is None


def test_holm_on_known_p_values():
    # 0.01 * 4, 0.03 * 3 and 0.04 * 2 (not below the one before), 0.05 (not below 0.09)
    assert holm([0.01, 0.04, 0.03, 0.05]) == pytest.approx([0.04, 0.09, 0.09, 0.09])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
