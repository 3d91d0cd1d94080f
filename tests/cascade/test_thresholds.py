"""Thresholds: counts by hand, the sweep against a double loop, and what the certificate promises by simulation."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, binom

from compressor.cascade.plan import EncoderWork
from compressor.cascade.runtime import margin
from compressor.cascade.thresholds import (
    COARSE,
    GRID,
    Outcome,
    allowed_flips,
    certify,
    choose_exits,
    exit_sets,
    frontier,
    leaving,
    lowest_cost,
    rows_needed,
    threshold_path,
)
from compressor.model.units import Shape

INF = float("inf")
HAND = Outcome(
    margins=np.array([[3.0, 1.0, 2.0, 0.5], [5.0, 4.0, 1.0, 2.0]]),
    wrong=np.array([[False, True, False, True], [False, False, True, False]]),
    wrong_at_end=np.array([False, False, False, True]),
    costs=np.array([[1.0] * 4, [2.0] * 4, [4.0] * 4]),
)


def made_up(generator, rows, exits=2):
    """Rows whose exits are the likelier right the larger their margin is."""
    margins = generator.exponential(2, size=(exits, rows))
    wrong = generator.random((exits, rows)) < 0.4 * np.exp(-margins * np.arange(1, exits + 1)[:, None])
    costs = np.tile(np.append(np.arange(1.0, exits + 1), exits + 3.0)[:, None], rows)
    return Outcome(margins, wrong, np.zeros(rows, dtype=bool), costs)


def test_flips_cost_and_exits_by_hand():
    assert margin(np.array([[1.0, 4.0, 2.5], [0.0, -1.0, -5.0]])).tolist() == [1.5, 1.0]
    assert leaving(HAND.margins, (2.0, 2.0)).tolist() == [0, 1, 0, 1]
    assert leaving(HAND.margins, (INF, INF)).tolist() == [2, 2, 2, 2]
    assert (HAND.flips((2.0, 2.0)), HAND.cost((2.0, 2.0))) == (0, 1.5)
    assert (HAND.flips((INF, INF)), HAND.cost((INF, INF))) == (1, 4.0)
    assert (HAND.flips((0.0, 0.0)), HAND.cost((0.0, 0.0))) == (2, 1.0)


def test_work_by_hand():
    # width 2, one head; layers of s tokens cost s (8 * 4 + 4 * 2 f) + 8 s^2, without attention s (4 * 2 f)
    whole = EncoderWork(2, Shape((3, 0, 1), (1, 1, 0), 1))
    lengths = np.array([1, 10])
    layers = np.array([[32 + 24 + 8, 560 + 800], [32 + 8, 320 + 800], [8, 80]])
    # one row: 8 * 4 + 4 * 2 f + 8 s, without attention 4 * 2 f
    rows = np.array([[32 + 24 + 8, 32 + 24 + 80], [32 + 8, 32 + 80], [8, 8]])
    np.testing.assert_array_equal(whole.costs((), lengths), [layers.sum(0)])
    np.testing.assert_array_equal(
        whole.costs((1, 2), lengths),
        [layers[0] + rows[1], layers[0] + layers[1] + rows[1] + rows[2], layers.sum(0) + rows[1] + rows[2]],
    )
    tail = EncoderWork(2, Shape((3, 0), (1, 1), 1), tail=True)
    np.testing.assert_array_equal(tail.costs((1,), lengths), [layers[0] + rows[1], layers[0] + rows[1] + rows[1]])


def test_work_in_eight_bits_and_of_a_second_start_by_hand():
    # 4 layers' worth in float32 behind 2 layers at a quarter of the time, each of one text of 1 token: 32 + 24 + 8 = 64
    full = EncoderWork(2, Shape.even(4, 3, 1))
    work = EncoderWork(2, Shape.even(2, 3, 1), speed=0.25, full=full)
    one = np.array([1])
    assert work.costs((1,), one).ravel().tolist() == [16 + 64, 32 + 64]  # the exit reads one row in float32
    assert work.costs((1, 2), one).ravel().tolist() == [16 + 64, 32 + 64, 32 + 64 + 4 * 64]
    assert work.costs((2,), one).ravel().tolist() == [32, 32 + 4 * 64]
    assert replace(work, exit_work=10.0).costs((1, 2), one).ravel().tolist() == [16 + 10, 32 + 10, 32 + 10 + 4 * 64]


def test_frontier_by_hand():
    points = frontier(HAND)
    assert [point[:2] for point in points] == [(0, 1.5), (1, 1.25), (2, 1.0)]
    first = [point[2][0] for point in points]
    assert 1.0 < first[0] <= 2.0  # row 1, which the first exit answers wrongly, stays
    assert 0.5 < first[1] <= 1.0
    assert first[2] == 0.5


@settings(max_examples=40, deadline=None)
@given(rows=st.integers(1, 12), exits=st.integers(1, 2), seed=st.integers(0, 10_000))
def test_frontier_is_that_of_every_pair_of_thresholds(rows, exits, seed):
    check_frontier(rows, exits, seed, [GRID] * exits)


@pytest.mark.parametrize(("rows", "seed"), [(1, 0), (4, 1), (6, 2)])
def test_frontier_of_three_exits_is_that_of_every_triple(rows, seed):
    check_frontier(rows, 3, seed, [COARSE, COARSE, GRID])


def check_frontier(rows, exits, seed, counts):
    generator = np.random.default_rng(seed)
    outcome = Outcome(
        generator.integers(0, 6, size=(exits, rows)) / 2,
        generator.random((exits, rows)) < 0.3,
        generator.random(rows) < 0.1,
        np.sort(generator.integers(1, 30, size=(exits + 1, rows)), axis=0).astype(float),
    )
    assert rows <= GRID  # so that every margin is a threshold, or lies between two that are
    grids = [
        np.append(np.unique(np.quantile(row, np.linspace(0, 1, count))), INF)
        for row, count in zip(outcome.margins, counts, strict=True)
    ]
    points = {(outcome.flips(tried), round(outcome.cost(tried), 9)) for tried in product(*grids)}
    best = []
    for flips, cost in sorted(points):
        if not best or cost < best[-1][1] - 1e-9:
            best.append((flips, cost))
    found = frontier(outcome)
    assert [(flips, pytest.approx(cost)) for flips, cost, _ in found] == best
    for flips, cost, thresholds in found:
        assert (outcome.flips(thresholds), outcome.cost(thresholds)) == (flips, pytest.approx(cost))


@pytest.mark.parametrize(("rows", "share", "confidence"), [(50, 0.1, 0.95), (299, 0.01, 0.95), (2000, 0.01, 0.99)])
def test_allowed_flips_are_the_most_that_the_exact_bound_lets_pass(rows, share, confidence):
    most = allowed_flips(rows, share, confidence)
    assert beta.ppf(confidence, most + 1, rows - most) <= share < beta.ppf(confidence, most + 2, rows - most - 1)
    assert binom.cdf(most, rows, share) <= 1 - confidence < binom.cdf(most + 1, rows, share)


@pytest.mark.parametrize("share", [0.5, 0.25, 0.1, 0.01, 0.003])
@pytest.mark.parametrize("confidence", [0.75, 0.9, 0.95, 0.999])
def test_rows_needed_is_the_first_number_that_can_certify(share, confidence):
    needed = rows_needed(share, confidence)
    assert allowed_flips(needed, share, confidence) == 0
    assert needed == 1 or allowed_flips(needed - 1, share, confidence) == -1


def test_certify_stops_at_the_first_failure_and_keeps_the_last_that_passed():
    rows = 100
    outcome = Outcome(
        np.linspace(0.01, 1, rows)[None], np.arange(rows)[None] < 50, np.zeros(rows, bool), np.ones((2, rows))
    )
    path = [(INF,), (0.8,), (0.5,), (0.3,), (0.9,)]  # 0, 0, 1, 21 and 0 flips: the last is never looked at
    found = certify(path, outcome, max_flips=0.05, confidence=0.95)
    assert (found.met, found.thresholds, found.flips, found.tested, found.rows) == (True, (0.5,), 1, 4, 100)
    assert found.bound == pytest.approx(beta.ppf(0.95, 2, 99))


def test_where_nothing_passes_no_row_leaves_and_nothing_is_certified():
    wrong = np.arange(100) < 30
    bad = Outcome(np.ones((1, 100)), wrong[None], wrong, np.ones((2, 100)))
    found = certify(threshold_path(bad), bad, 0.05, 0.95)
    assert (found.met, found.thresholds, found.flips, found.tested) == (False, (INF,), 30, 1)
    assert found.bound > 0.3


def test_where_the_end_may_differ_the_path_starts_at_the_safest_exits_not_at_the_end():
    # a compressed model whose exit is right everywhere and whose last layer is wrong in three rows of ten
    outcome = Outcome(
        np.ones((1, 100)), np.zeros((1, 100), bool), np.arange(100) < 30, np.array([[1.0] * 100, [2.0] * 100])
    )
    found = certify(threshold_path(outcome), outcome, 0.05, 0.95)
    assert (found.met, found.thresholds, found.flips) == (True, (1.0,), 0)


def test_fewer_exits_win_where_they_cost_the_same_and_the_path_starts_with_nothing_leaving():
    costs = {(1,): lowest_cost(HAND, 0.25), (1, 2): lowest_cost(HAND, 0.25)}
    assert choose_exits(costs) == (1,)
    assert exit_sets([1, 2, 3]) == [(1,), (2,), (3,), (1, 2), (1, 3), (2, 3)]
    right = replace(HAND, wrong_at_end=np.zeros_like(HAND.wrong_at_end))
    path = threshold_path(right)
    assert path[0] == (INF, INF)
    assert path[-1] == frontier(right)[-1][2]


@pytest.mark.parametrize("exits", [1, 2])
def test_the_certificate_holds_as_often_as_it_promises_and_a_naive_choice_does_not(exits):
    draws, max_flips, confidence = 200, 0.05, 0.9
    generator = np.random.default_rng(0)
    population = made_up(generator, 100_000, exits)
    path = threshold_path(made_up(generator, 600, exits))
    truth = {thresholds: population.flips(thresholds) / 100_000 for thresholds in path}
    broken = naive = used = 0
    for _ in range(draws):
        rows = generator.choice(100_000, size=300, replace=False)
        sample = Outcome(
            population.margins[:, rows],
            population.wrong[:, rows],
            population.wrong_at_end[rows],
            population.costs[:, rows],
        )
        certified = certify(path, sample, max_flips, confidence)
        broken += truth[certified.thresholds] > max_flips
        used += np.isfinite(certified.thresholds).all()
        passing = [thresholds for thresholds in path if sample.flips(thresholds) <= max_flips * len(rows)]
        naive += truth[min(passing, key=sample.cost)] > max_flips
    # the promise is 1 - confidence of the draws; allow what a binomial count exceeds once in a thousand
    assert broken <= binom.ppf(0.999, draws, 1 - confidence)
    assert used > 0.9 * draws  # not for want of saving anything
    assert naive > 2 * binom.ppf(0.999, draws, 1 - confidence)
