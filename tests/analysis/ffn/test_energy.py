"""What a change of states is made of: values by hand, the bias of sampling, its interval, the null."""

import numpy as np
import pytest
from ffn_cases import moments_of
from scipy.stats import kstest

from compressor.analysis.ffn.energy import (
    GroupMoments,
    cluster_variance,
    corrected,
    energies,
    mean_share,
    ratio_and_share,
    row_groups,
    row_variance,
    split,
    split_half,
)
from compressor.analysis.ffn.null import class_energies, permutation_nulls
from compressor.measurement.statistics import holm


def only(rows, labels, **options):
    """The split of one series."""
    return split(moments_of(rows, labels, **options), row_variance)[0][0]


def test_energies_are_those_worked_by_hand_and_add_up():
    # class 0: (2, 0), (4, 0), mean (3, 0); class 1: (1, 2), (1, 0), mean (1, 1); overall (2, 0.5)
    rows, labels = np.array([[2.0, 0], [4, 0], [1, 2], [1, 0]]), np.array([0, 0, 1, 1])
    moments = moments_of(rows, labels, groups=2)
    np.testing.assert_allclose(energies(moments)[:, 0], [4.25, 1.25, 1.0])
    assert energies(moments).sum() == pytest.approx(np.square(rows).sum(1).mean())
    # unbiased tr(Cov) is 2 in both classes, so V = 1 for each mean of two rows: bias 2 * (1/2) (1/2) of class and of common
    np.testing.assert_allclose(row_variance(moments), [[1.0, 1.0]])
    np.testing.assert_allclose(corrected(moments, row_variance)[:, 0], [3.75, 0.75, 2.0])


@pytest.mark.parametrize("classes", [2, 5])
def test_energies_of_merged_batches_equal_those_of_all_rows_at_once(classes):
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(211, 7)) + 3, generator.integers(classes, size=211)
    whole = moments_of(rows, labels, groups=1, batches=1)
    parts = moments_of(rows, labels, groups=13, batches=40)
    np.testing.assert_allclose(energies(parts), energies(whole), rtol=1e-12)
    np.testing.assert_allclose(corrected(parts, row_variance), corrected(whole, row_variance), rtol=1e-10)
    assert energies(parts).sum() == pytest.approx(np.square(rows).sum(1).mean(), rel=1e-12)
    assert corrected(parts, row_variance).sum() == pytest.approx(np.square(rows).sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_common_change_has_share_one_and_no_finite_ratio(classes):
    labels = np.arange(90) % classes
    found = only(np.tile([3.0, 4.0, 0.1], (90, 1)), labels)
    assert (found.common, found.share, found.share_corrected) == (pytest.approx(25.01), 1.0, 1.0)
    assert found.ratio is None and found.ratio_corrected is None
    assert found.share_ci95 == (1.0, 1.0)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_change_has_share_zero(classes):
    labels = np.arange(90) % classes
    centres = np.eye(classes) - 1 / classes  # their mean is 0
    found = only(centres[labels], labels)
    assert found.ratio == pytest.approx(0, abs=1e-6) and found.share_corrected == pytest.approx(0, abs=1e-6)
    assert found.class_corrected == pytest.approx(found.class_specific) == pytest.approx(1 - 1 / classes)


@pytest.mark.parametrize("classes", [2, 4])
def test_an_instance_change_is_what_chance_makes(classes):
    generator = np.random.default_rng(3)
    rows, labels = generator.normal(size=(400, 30)), np.arange(400) % classes
    found = only(rows, labels, groups=40)
    chance = (classes - 1) * 30 / 400  # sum pi (1 - pi) H / n_c
    assert found.class_specific == pytest.approx(chance, rel=0.5)
    assert abs(found.class_corrected) < 0.5 * chance
    null = permutation_nulls(rows[None].astype(np.float32), labels, permutations=400, seed=1)[0]
    assert null.p > 0.05
    assert null.class_null_mean == pytest.approx(chance, rel=0.1)  # the formula and the shuffles agree
    assert abs(split_half(moments_of(rows, labels, groups=40))[0]) < 0.5 * chance


def test_a_planted_class_part_is_found_by_all_three():
    generator = np.random.default_rng(1)
    labels = np.arange(600) % 2
    rows = generator.normal(size=(600, 20)) + 5.0
    rows[:, 0] += 0.6 * (2 * labels - 1)  # class energy 0.36
    found = only(rows, labels, groups=40)
    assert found.class_corrected == pytest.approx(0.36, abs=0.15)  # its error is 0.05
    assert split_half(moments_of(rows, labels, groups=40))[0] == pytest.approx(found.class_corrected, abs=0.02)
    assert permutation_nulls(rows[None].astype(np.float32), labels, permutations=200)[0].p == pytest.approx(1 / 201)
    low, high = found.ratio_ci95
    assert low < (20 * 25 / 0.36) ** 0.5 < high


def test_the_correction_holds_at_small_samples_where_the_measured_ratio_does_not():
    """R against sample size: the truth is 10 (common 100, class 1), in 40 dimensions of unit variance."""
    generator = np.random.default_rng(5)
    measured, mended = {}, {}
    for rows in (12, 24, 96, 1536):
        labels = np.arange(rows) % 2
        found = []
        for _ in range(60):
            drawn = generator.normal(size=(rows, 40))
            drawn[:, 0] += 10
            drawn[:, 1] += 2 * labels - 1
            moments = moments_of(drawn, labels, groups=2, batches=1)
            found.append(np.concatenate([energies(moments)[:2, 0], corrected(moments, row_variance)[:2, 0]]))
        plain_common, plain_class, common, class_part = np.mean(found, axis=0)
        measured[rows], mended[rows] = (plain_common / plain_class) ** 0.5, (common / class_part) ** 0.5
    assert mended[12] == pytest.approx(10, rel=0.15)
    assert all(mended[rows] == pytest.approx(10, rel=0.08) for rows in (24, 96, 1536))
    # bias of the class energy 40 / n: the measured ratio grows with the rows, as if the model had changed
    assert all(
        measured[rows] == pytest.approx(((100 + 40 / rows) / (1 + 40 / rows)) ** 0.5, rel=0.08) for rows in measured
    )
    assert measured[12] < 5.5 and list(measured.values()) == sorted(measured.values())


def test_the_interval_covers_the_true_ratio_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(6), 0
    labels = np.arange(120) % 2
    for _ in range(100):
        rows = generator.normal(size=(120, 10))
        rows[:, 0] += 6
        rows[:, 1] += 2 * labels - 1  # R = 6
        low, high = only(rows, labels, groups=20, batches=1).ratio_ci95
        hits += low <= 6 and (high is None or high >= 6)
    assert 88 <= hits <= 100


def test_tokens_of_one_text_do_not_count_as_independent():
    """Every text repeats one vector 50 times: the correction must see 80 texts, not 4,000 tokens."""
    generator = np.random.default_rng(7)
    labels = np.arange(80) % 2
    naive, clustered = [], []
    for _ in range(40):
        made = GroupMoments.empty(1, 20, 2, 6)
        made.add(
            generator.normal(size=(1, 80, 6)), np.zeros((1, 80)), np.full(80, 50.0), row_groups(labels, 20, 0), labels
        )
        naive.append(corrected(made, row_variance)[1, 0])
        clustered.append(corrected(made, cluster_variance)[1, 0])
    assert np.mean(naive) > 0.06 and abs(np.mean(clustered)) < 0.02  # 6 / 80 = 0.075 is chance


def test_p_values_of_changes_without_classes_are_uniform():
    generator = np.random.default_rng(8)
    labels = np.arange(24) % 3
    changes = generator.normal(size=(250, 24, 4)).astype(np.float32)
    # one call shares its shuffles between layers, so every data set gets a call of its own
    p_values = [
        permutation_nulls(one[None], labels, permutations=99, seed=seed)[0].p for seed, one in enumerate(changes)
    ]
    assert kstest(p_values, "uniform").pvalue > 0.01


def test_class_energies_of_chunks_equal_the_definition(monkeypatch):
    monkeypatch.setattr("compressor.analysis.ffn.null.CHUNK", 100)
    generator = np.random.default_rng(9)
    rows, labels = (
        generator.normal(size=(30, 5)),
        np.stack([generator.permutation(np.arange(30) % 3) for _ in range(7)]),
    )
    found = class_energies((rows - rows.mean(0))[None], labels, 3)
    for order, energy in zip(labels, found[0], strict=True):
        assert energy == pytest.approx(energies(moments_of(rows, order))[1, 0])


def test_holm_multiplies_step_by_step_and_never_falls():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []


def test_ratio_says_infinite_and_undefined_apart():
    assert ratio_and_share(4.0, 1.0, 5.0) == (2.0, pytest.approx(2 / 3))
    assert ratio_and_share(4.0, -0.1, 5.0) == (None, 1.0)
    assert ratio_and_share(0.0, 2.0, 5.0) == (0.0, 0.0)
    assert ratio_and_share(-1e-3, -1e-3, 5.0) == (None, None)


def test_mean_share_has_an_interval_or_says_that_there_is_none():
    generator = np.random.default_rng(10)
    labels = np.arange(100) % 2
    rows = generator.normal(size=(100, 3)) + 2
    rows[:, 0] += labels
    splits, left_out = split(moments_of(rows, labels), row_variance)
    mean, (low, high) = mean_share(splits, left_out)
    assert low < mean == splits[0].share_corrected < high
    assert mean_share(*split(moments_of(np.zeros((20, 3)), np.arange(20) % 2), row_variance)) == (None, None)


def test_groups_hold_every_class_evenly():
    labels = np.repeat([0, 1, 2], [40, 9, 4])
    groups = row_groups(labels, 10, seed=1)
    counts = np.array([[((groups == group) & (labels == label)).sum() for label in range(3)] for group in range(10)])
    assert (counts[:, 0] == 4).all() and counts[:, 1:].max() == 1
