"""Improvements, importance and verdict on figures worked by hand and on planted ones."""

import numpy as np
import pytest

from compressor.placement.importance import equal_shares, explained_shares, importances, ridge
from compressor.placement.results import MLM, improvement, mean_interval, relative_improvement, verdict
from compressor.placement.widths import equal_widths, placed_layers


def test_relative_improvement_has_the_sign_of_better():
    assert relative_improvement(1.9, 2.0, -1) == pytest.approx(0.05)
    assert relative_improvement(0.84, 0.8, 1) == pytest.approx(0.05)
    assert relative_improvement(-3.0, -2.0, 1) == pytest.approx(-0.5)


def test_improvements_are_paired_by_seed():
    table = {"uniform": {0: 4.0, 1: 5.0, 2: 8.0}, "middle-70": {0: 3.8, 1: 5.0, 2: 7.2, 3: 9.0}}
    found = improvement("middle-70", MLM, table)
    assert found.seeds == [0, 1, 2]
    assert found.values == pytest.approx([0.05, 0.0, 0.1])
    assert found.mean == pytest.approx(0.05)
    # deviation 0.05, t with two degrees of freedom 4.3027: 4.3027 x 0.05 / sqrt(3) = 0.12421
    assert found.ci95 == pytest.approx((0.05 - 0.12421, 0.05 + 0.12421), abs=1e-4)
    assert found.missing == [3]
    assert found.rows_ci95 is None
    assert mean_interval([0.1]) is None


def test_accuracies_have_an_interval_over_rows_as_well():
    base, other = np.array([True] * 60 + [False] * 40), np.array([True] * 80 + [False] * 20)
    table = {"uniform": {0: 0.6, 1: 0.6}, "first-30": {0: 0.8, 1: 0.6}}
    correct = {"uniform": {0: base, 1: base}, "first-30": {0: other, 1: base}}
    found = improvement("first-30", "sst2", table, correct)
    assert found.mean == pytest.approx(1 / 6)
    # gains of 1/2 in 20 of 100 rows: 0.1 with a deviation of 0.5 sqrt(0.2 x 0.8 / 100) = 0.02, over 0.6
    low, high = found.rows_ci95
    assert low == pytest.approx((0.1 - 1.96 * 0.02) / 0.6, abs=0.01)
    assert high == pytest.approx((0.1 + 1.96 * 0.02) / 0.6, abs=0.01)


def losses(means, noise, seeds=3):
    generator = np.random.default_rng(0)
    return {
        name: {seed: mean + 0.2 * seed + noise * generator.standard_normal() for seed in range(seeds)}
        for name, mean in means.items()
    }


MEANS = {"uniform": 3.0, "first-70": 3.05, "middle-70": 2.9, "last-70": 3.2}


def test_the_verdict_follows_the_differences():
    assert verdict(losses(MEANS, 0.001), MLM).outcome == "wins"
    assert verdict(losses({**MEANS, "first-70": 2.8}, 0.001), MLM).outcome == "behind"
    assert verdict(losses({**MEANS, "first-70": 2.899}, 0.03), MLM).outcome in {"ahead", "undecided"}
    assert verdict(losses({name: 3.0 for name in MEANS}, 0.05), MLM).outcome in {"ahead", "undecided"}
    assert verdict({"uniform": {0: 3.0}, "middle-70": {0: 2.0}}, MLM).outcome == "untested"
    assert verdict(losses({"uniform": 3.0, "last-30": 2.9}, 0.01), MLM).outcome == "untested"


def test_seeds_that_shift_all_placements_alike_are_no_error():
    found = verdict(losses(MEANS, 0.0), MLM)
    assert [contest.p_holm for contest in found.contests] == pytest.approx([0, 0, 0], abs=1e-9)
    # 3.0, 3.05 and 3.2 against 2.9, in shares of the uniform model's mean 3.2
    assert [contest.difference for contest in found.contests] == pytest.approx([0.1 / 3.2, 0.15 / 3.2, 0.3 / 3.2])


def test_the_pooled_error_by_hand():
    # two placements, two seeds: differences 0.1 and 0.3; the mean is 0.2, its error that of the two: 0.1
    table = {"uniform": {0: 1.0, 1: 1.0}, "middle-70": {0: 0.9, 1: 0.7}}
    contest = verdict(table, MLM).contests[0]
    assert contest.difference == pytest.approx(0.2)
    assert contest.ci95 == pytest.approx((0.2 - 12.7062 * 0.1, 0.2 + 12.7062 * 0.1), abs=1e-3)


def test_placements_without_all_seeds_are_named_not_compared():
    table = losses(MEANS, 0.01)
    del table["last-70"][1]
    found = verdict(table, MLM)
    assert found.missing == ["last-70"]
    assert {contest.other for contest in found.contests} == {"uniform", "first-70"}


def test_equal_shares_by_hand():
    off = np.array([[1, 1, 0, 0], [0, 1, 0, 0]], dtype=bool)
    shares = equal_shares(off, np.array([0.4, 0.1]))
    # layer 1: 0.4 / 2; layer 2: mean of 0.4 / 2 and 0.1
    assert shares[:2] == pytest.approx([0.2, 0.15])
    assert np.isnan(shares[2:]).all()


def test_ridge_by_hand():
    off = np.array([[1, 0], [1, 1]])
    assert ridge(off, np.array([0.2, 0.5]), 1e-9) == pytest.approx([0.2, 0.3], abs=1e-6)
    # X'X + 1 = [[3, 1], [1, 2]], X'y = [0.7, 0.5]
    assert ridge(off, np.array([0.2, 0.5]), 1.0) == pytest.approx([0.18, 0.16])


PLANTED = np.array([0.08, 0.01, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.02, 0.03])


def planted(noise=0.0):
    """Return widths and improvements of many placements whose losses are the planted ones of the layers off."""
    generator = np.random.default_rng(1)
    chosen = {
        f"{place}-{ratio}": placed_layers(12, ratio, place)
        for ratio in (30, 50, 70)
        for place in ("first", "middle", "last")
    }
    chosen |= {f"own-{number}": sorted(generator.permutation(12)[:7] + 1) for number in range(12)}
    widths = {name: equal_widths(12, 64, layers) for name, layers in chosen.items()} | {"uniform": (64,) * 12}
    improvements = {
        name: {seed: -PLANTED[np.array(each) == 0].sum() + noise * generator.standard_normal() for seed in range(3)}
        for name, each in widths.items()
    }
    return widths, improvements


def test_the_regression_finds_unequal_shares_where_equal_shares_do_not():
    found = importances(MLM, *planted(0.001))
    regression = np.array([row.regression for row in found.layers])
    equal = np.array([row.equal for row in found.layers])
    assert np.abs(regression - PLANTED).max() < 0.004
    assert np.abs(equal - PLANTED).max() > 0.04  # the loss of layer 1 is shared with whoever is off beside it
    assert found.rank == 12
    assert found.alike == []
    assert found.explained > 0.99
    assert found.explained_by_noise < 0.7
    first = found.layers[0]
    assert first.regression_ci95[0] > 0.06
    assert all(row.regression_ci95[0] <= value + 0.004 and value - 0.004 <= row.regression_ci95[1]
               for row, value in zip(found.layers, PLANTED, strict=True))  # fmt: skip


def test_pure_noise_is_not_explained(monkeypatch):
    monkeypatch.setattr("compressor.placement.importance.DRAWS", 10)  # the intervals are not looked at here
    generator = np.random.default_rng(0)
    off = np.array([[row >> layer & 1 for layer in range(4)] for row in (1, 2, 4, 8, 3, 6, 12)], dtype=bool)
    groups = np.repeat(np.arange(7), 2)
    # 200 cases at once: once, the best of all strengths on the same errors was above 0 in more than a third of them
    shares = explained_shares(off[groups], generator.standard_normal((14, 200)), groups)
    assert np.median(shares) < 0
    assert (shares > 0).mean() < 0.3
    widths = {f"placement-{row}": tuple(0 if gone else 8 for gone in each) for row, each in enumerate(off)}
    above = 0
    for _ in range(40):
        noise = {name: dict(enumerate(generator.standard_normal(2))) for name in widths}
        found = importances(MLM, widths, noise)
        above += found.explained > max(found.explained_by_noise, 0)
    assert above / 40 <= 0.05 + 3 * (0.05 * 0.95 / 40) ** 0.5


def test_a_share_explained_by_hand():
    # placements that lack layer 1, layer 2 and both lose 1, 1 and 2. Without the first, the second and the last remain, of
    # which either alone foretells the other best with the weakest ridge; (0, 1) and (1, 1) then give 1 to each layer
    off = np.array([[1, 0], [0, 1], [1, 1]], dtype=bool)
    assert explained_shares(off, np.array([[1.0], [1.0], [2.0]]), np.arange(3))[0] == pytest.approx(1.0, abs=1e-2)


def test_layers_that_no_placement_tells_apart_are_named():
    widths, improvements = planted()
    grid = {name: each for name, each in widths.items() if not name.startswith("own")}
    found = importances(MLM, grid, improvements)
    assert found.placements == 9
    # first, middle and last of 4, 6 and 8 layers: layers 1 and 2 are on and off together, and so on
    assert found.alike == [[1, 2], [5, 6], [7, 8], [11, 12]]
    one, two = found.layers[0], found.layers[1]
    assert one.regression == pytest.approx(two.regression)
    assert one.determined == pytest.approx(two.determined)
    assert one.determined <= 0.5  # what is told of the two is told of both together
    assert found.rank <= 8
    assert found.condition > 1


def test_too_few_placements_give_no_regression():
    widths = {"uniform": (8, 8, 8), "first-30": (24, 0, 0)}
    found = importances(MLM, widths, {"uniform": {0: 0.0}, "first-30": {0: -0.2}})
    assert [row.regression for row in found.layers] == [None, None, None]
    assert [row.equal for row in found.layers] == [None, pytest.approx(0.1), pytest.approx(0.1)]
    assert found.explained is None
    nothing = importances(MLM, {"uniform": (8, 8)}, {"uniform": {}})
    assert nothing.placements == 0
    assert [row.equal for row in nothing.layers] == [None, None]
