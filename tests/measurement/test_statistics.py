"""Paired comparisons and costs, worked by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.measurement.cost import shape_flops, weight_bytes
from compressor.measurement.predictions import fingerprint, flipped_examples
from compressor.measurement.statistics import (
    TIERS,
    compare,
    delta_interval,
    metrics,
    paired_lower_bound,
    rate_upper_bound,
    tier,
)
from compressor.model.units import Shape


def logits_of(predictions, classes=2):
    return np.eye(classes)[np.asarray(predictions)]


def test_metrics_by_hand():
    # labels 1 1 1 0 0, predicted 1 1 0 1 0: tp 2, fn 1, fp 1, tn 1
    found = metrics(logits_of([1, 1, 0, 1, 0]), np.array([1, 1, 1, 0, 0]))
    assert found.accuracy == 3 / 5
    assert found.f1 == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found.mcc == pytest.approx((2 * 1 - 1 * 1) / (3 * 3 * 2 * 2) ** 0.5)
    low, high = found.accuracy_ci95
    assert low < 3 / 5 < high


def test_comparison_by_hand():
    labels = np.zeros(100, dtype=np.int64)
    full, other = np.zeros(100, dtype=np.int64), np.zeros(100, dtype=np.int64)
    full[:2] = 1  # the full model errs on rows 0 and 1, the other on rows 2 to 8
    other[2:9] = 1
    found = compare(logits_of(full), logits_of(other), labels)
    assert (found.flips, found.gained, found.lost) == (9, 2, 7)
    assert found.agreement == pytest.approx(0.91)
    assert found.accuracy_delta == pytest.approx(-0.05)
    # two-sided binomial over 9 discordant rows: 2 * (1 + 9 + 36) / 512
    assert found.mcnemar_p == pytest.approx(2 * 46 / 512)
    assert found.ci95[0] < -0.05 < found.ci95[1]
    assert found.ci95[0] < found.lower_bound
    assert found.tier == "lossy"


def test_equal_models_are_exact_and_small_samples_prove_little():
    labels = np.arange(100) % 2
    same = compare(logits_of(labels), logits_of(labels), labels)
    assert (same.tier, same.mcnemar_p, same.flips) == ("exact", 1.0, 0)
    # nothing lost in 100 rows still allows losses of 1 - 0.05 ** (1 / 100) at 95 %
    assert same.lower_bound == pytest.approx(-(1 - 0.05 ** (1 / 100)))
    shifted = compare(logits_of(labels), 2 * logits_of(labels), labels)
    assert shifted.tier == "undecided"  # 100 rows without a flip do not show a loss below two points
    many = np.arange(1000) % 2
    assert compare(logits_of(many), 2 * logits_of(many), many).tier == "lossless"


def test_lower_bound_by_hand():
    # nothing changed: Tango's score bound would be -z^2 / (n + z^2), the exact binomial one is lower and is taken
    assert paired_lower_bound(0, 0, 100) == pytest.approx(-(1 - 0.05 ** (1 / 100)))
    assert paired_lower_bound(0, 0, 100, 0.999999) < -(4.7534**2) / (100 + 4.7534**2) + 1e-4
    # many changes, large n: the score bound meets the normal one, delta - z * sqrt(share - delta^2) / sqrt(n)
    wald = -0.01 - 1.6449 * ((0.05 - 0.0001) / 100_000) ** 0.5
    assert paired_lower_bound(2000, 3000, 100_000) == pytest.approx(wald, abs=2e-5)
    assert paired_lower_bound(0, 100, 100) == -1.0
    assert paired_lower_bound(100, 0, 100) > 0.9


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(61, 500), st.sampled_from([0.9, 0.95, 0.999]))
def test_lower_bound_is_ordered(gained, lost, rows, confidence):
    bound = paired_lower_bound(gained, lost, rows, confidence)
    assert -1 <= bound < (gained - lost) / rows + 1e-9
    assert paired_lower_bound(gained, lost + 1, rows, confidence) < bound
    assert paired_lower_bound(gained, lost, rows, (1 + confidence) / 2) < bound


@pytest.mark.parametrize(("delta", "changed"), [(-0.01, 0.0101), (-0.01, 0.02), (-0.03, 0.035), (0.0, 0.02)])
@pytest.mark.parametrize("rows", [277, 1000])
def test_lower_bound_is_above_the_truth_in_at_most_5_percent_of_samples(delta, changed, rows):
    shares = [(changed + delta) / 2, (changed - delta) / 2, 1 - changed]
    counts = np.random.default_rng(1).multinomial(rows, shares, size=4000)
    pairs, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    wrong = [paired_lower_bound(int(gained), int(lost), rows) > delta for gained, lost in pairs]
    assert times[wrong].sum() / 4000 <= 0.05 + 0.006  # 0.006: two standard errors of the simulation


def test_without_labels_flips_bound_the_loss():
    full, other = np.zeros(1000, dtype=np.int64), np.zeros(1000, dtype=np.int64)
    other[:3] = 1
    found = compare(logits_of(full), logits_of(other), None)
    assert (found.gained, found.accuracy_delta, found.ci95, found.mcnemar_p) == (None, None, None, None)
    assert -0.01 < found.lower_bound < -0.003
    assert found.tier == "lossless"


@pytest.mark.parametrize(
    ("flip_rate", "max_abs", "bound", "wanted"),
    [
        (0.0, 1e-4, -0.5, "exact"),
        (0.0, 1e-2, -0.009, "lossless"),
        (0.01, 1.0, -0.0099, "lossless"),
        (0.011, 1.0, -0.0099, "near"),
        (0.0, 1.0, -0.02, "undecided"),
        (0.03, 1.0, -0.04, "lossy"),
    ],
)
def test_tiers(flip_rate, max_abs, bound, wanted):
    assert tier(flip_rate, max_abs, bound, -flip_rate) == wanted
    assert wanted in TIERS


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(61, 500))
def test_interval_holds_the_delta_has_width_and_mirrors(gained, lost, rows):
    low, high = delta_interval(gained, lost, rows)
    assert low < (gained - lost) / rows < high
    assert delta_interval(lost, gained, rows) == (-high, -low)


def test_interval_by_hand():
    # nothing changed: Tango's bound z^2 / (n + z^2) with z = 1.96 is wider here than the exact binomial 1 - 0.025^(1 / n)
    bound = 1.959964**2 / (277 + 1.959964**2)
    assert delta_interval(0, 0, 277) == pytest.approx((-bound, bound), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "shares"),
    [(277, (0.0, 0.004)), (872, (0.0, 0.002)), (500, (0.04, 0.06)), (1000, (0.001, 0.001)), (277, (0.02, 0.02))],
)
def test_interval_covers_the_truth_as_often_as_it_says_also_near_no_change(rows, shares):
    # with a bootstrap the first two are covered in 68 % and 81 % of the samples: where no row changed it has no width
    counts = np.random.default_rng(5).multinomial(rows, [*shares, 1 - sum(shares)], size=4000)
    pairs, times = np.unique(counts[:, :2], axis=0, return_counts=True)
    intervals = [delta_interval(int(gained), int(lost), rows) for gained, lost in pairs]
    covered = [low <= shares[0] - shares[1] <= high for low, high in intervals]
    assert times[covered].sum() / 4000 >= 0.95 - 0.0105  # three standard errors of the simulation


@pytest.mark.parametrize(
    ("gained", "lost", "rows", "level"),
    [
        (0, 0, 100, "undecided"),
        (5, 3, 100, "undecided"),
        (0, 3, 100, "lossy"),
        (0, 2, 100, "lossy"),
        (1, 2, 100, "undecided"),
    ],
)
def test_too_few_rows_are_undecided_and_say_how_many_would_do(gained, lost, rows, level):
    labels = np.zeros(rows, dtype=np.int64)
    full, other = labels.copy(), labels.copy()
    full[:gained] = 1
    other[rows - lost :] = 1
    found = compare(logits_of(full), 2 * logits_of(other), labels)
    assert found.tier == level
    if level == "lossy":
        assert found.rows_to_decide is None
        return
    scale = found.rows_to_decide / rows
    assert paired_lower_bound(gained * scale, lost * scale, found.rows_to_decide) > -0.02
    fewer = found.rows_to_decide - 1
    assert paired_lower_bound(gained * fewer / rows, lost * fewer / rows, fewer) <= -0.02


def test_unlabelled_rows_are_undecided_by_their_changed_predictions():
    full, other = np.zeros(100, dtype=np.int64), np.zeros(100, dtype=np.int64)
    other[:1] = 1
    found = compare(logits_of(full), logits_of(other), None)
    assert (found.tier, found.lower_bound < -0.02) == ("undecided", True)
    assert rate_upper_bound(found.rows_to_decide / 100, found.rows_to_decide) < 0.02
    other[:2] = 1
    assert compare(logits_of(full), logits_of(other), None).tier == "lossy"


def test_flipped_examples_name_their_outcome_and_come_most_confident_first():
    full = np.array([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    other = np.array([[0.0, 2.0], [5.0, 0.0], [1.0, 0.0]])
    texts, ids = [("a",), ("b",), ("c",)], ["r:0", "r:1", "r:2"]
    found = flipped_examples(full, other, np.array([0, 0, 0]), texts, ids, ["no", "yes"])
    assert [(entry["id"], entry["outcome"]) for entry in found] == [("r:1", "gained"), ("r:0", "lost")]
    assert found[0]["full"]["label"] == "yes"
    assert found[0]["full"]["confidence"] == pytest.approx(1 / (1 + np.exp(-5)))
    assert flipped_examples(full, other, None, texts, ids, ["no", "yes"], limit=1)[0]["outcome"] == "unlabelled"


def test_fingerprint_follows_the_labels_alone():
    assert fingerprint(np.array([[0.1, 0.9]])) == fingerprint(np.array([[-3.0, 2.0]]))
    assert fingerprint(np.array([[0.1, 0.9]])) != fingerprint(np.array([[0.9, 0.1]]))


def test_flops_of_bert_base():
    # 24 s d^2 + 4 s^2 d a layer; 22.35 GF for 12 layers of BERT-base at 128 tokens
    assert shape_flops(Shape.even(1, 3072, 12), 768, 128) == 24 * 128 * 768**2 + 4 * 128**2 * 768
    assert shape_flops(Shape.even(12, 3072, 12), 768) / 1e9 == pytest.approx(22.35, abs=0.01)


def test_weight_bytes_prefers_safetensors(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"123456")
    (tmp_path / "training_args.bin").write_bytes(b"1" * 99)
    assert weight_bytes(tmp_path) == 6
    (tmp_path / "model.safetensors").write_bytes(b"1234")
    assert weight_bytes(tmp_path) == 4
