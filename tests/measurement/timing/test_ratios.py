"""Ratios of paired rounds and what they claim: by hand, against the noise of their own opponent."""

import numpy as np
import pytest
from clock import Clock, run_benchmark

from compressor.measurement.timing.ratios import Ratio, claimed, ratio, slower


def test_ratio_by_hand():
    # medians 20 and 10; twice as fast in every round, so every draw gives 2
    assert ratio([10, 20, 30], [5, 10, 15], seed=0) == Ratio(2.0, 2.0, 2.0)
    # means 20 and 30: on the real workload the slow batch counts with all its time
    assert ratio([20, 20, 20], [10, 10, 70], seed=0, average=np.mean).value == pytest.approx(2 / 3)
    assert ratio([20, 20, 20], [10, 10, 70], seed=0).value == 2.0
    # one round: no spread to see
    assert ratio([3.0], [2.0], seed=0) == Ratio(1.5, 1.5, 1.5)


def test_ratio_pairs_the_rounds():
    generator = np.random.default_rng(0)
    load = generator.lognormal(0, 0.5, 300)  # a busy machine: both models slow down in the same rounds
    paired = ratio(1.2 * load, load * generator.normal(1, 0.01, 300), seed=1)
    unpaired = ratio(1.2 * load, generator.permutation(load), seed=1)
    assert 1.17 < paired.lo < 1.2 < paired.hi < 1.23
    assert unpaired.hi - unpaired.lo > 4 * (paired.hi - paired.lo)
    assert ratio(1.2 * load, load, seed=1) == ratio(1.2 * load, load, seed=1)


def test_ratio_of_many_rounds_fits_in_memory_and_refuses_unequal_ones():
    values = np.random.default_rng(0).uniform(1, 2, 9000)
    found = ratio(values, values[::-1], seed=0)
    assert found.lo < 1.0 < found.hi
    with pytest.raises(ValueError, match="2 and 1"):
        ratio([1.0, 2.0], [1.0], seed=0)
    with pytest.raises(ValueError, match="0 and 0"):
        ratio([], [], seed=0)


@pytest.mark.parametrize(
    ("found", "noise", "expected"),
    [
        (Ratio(1.2, 1.1, 1.3), Ratio(1.0, 0.98, 1.02), True),
        (Ratio(1.04, 1.01, 1.07), Ratio(1.0, 0.98, 1.02), False),  # within the noise above 1
        (Ratio(1.04, 1.03, 1.07), Ratio(0.97, 0.95, 0.99), False),  # the noise seen the other way round, 1.053
        (Ratio(1.04, 1.0, 1.07), Ratio(1.0, 1.0, 1.0), False),  # touches 1
        (Ratio(0.8, 0.7, 0.9), Ratio(1.0, 0.98, 1.02), False),  # slower
    ],
)
def test_claims_only_above_the_noise(found, noise, expected):
    assert claimed(found, noise) is expected


def test_every_opponent_has_its_own_noise_floor():
    clock = Clock()
    drawn = iter(np.random.default_rng(5).normal(10, 1, 4001))
    subjects = {"steady": clock.subject("steady", 10), "noisy": None, "gain": clock.subject("gain", 9.3)}
    subjects["noisy"] = clock.subject("noisy", *drawn)
    subjects["other gain"] = subjects["gain"]
    result = run_benchmark(clock, subjects, {"gain": "steady", "other gain": "noisy"})
    floors = [(floor["model"], floor["length"]) for floor in result.noise_floor]
    assert floors == [("steady", 4), ("noisy", 4), ("steady", "workload"), ("noisy", "workload")]
    (low, high), (noisy_low, noisy_high) = (floor["ci95"] for floor in result.noise_floor[:2])
    assert low == high == 1.0
    assert noisy_low < 1.0 < noisy_high
    # the same 7 % are a gain over the steady opponent, and nothing over the noisy one
    assert result.latency["gain"][0]["claimed"]
    assert not result.latency["other gain"][0]["claimed"]
    assert set(result.raw[0]["values_ms"]) == {*subjects, "A/A twin of steady", "A/A twin of noisy"}


def test_one_model_alone_still_has_a_noise_floor():
    clock = Clock()
    result = run_benchmark(clock, {"alone": clock.subject("alone", 4)}, {"alone": "alone"})
    assert [(floor["model"], floor["ratio"]) for floor in result.noise_floor] == [("alone", 1.0)] * 2
    row = result.latency["alone"][0]
    assert (row["speedup"], row["speedup_ci95"], row["claimed"], row["texts_per_s"]) == (1.0, None, False, 250.0)


def test_the_same_model_under_two_names_claims_nothing():
    clock = Clock()
    noisy = clock.subject("noisy", *np.random.default_rng(5).normal(10, 1, 997))
    rows = run_benchmark(clock, {"full": noisy, "copy": noisy}, {"copy": "full"}).latency["copy"]
    assert not any(row["claimed"] for row in rows)
    assert all(0.9 < row["speedup"] < 1.1 for row in rows)


def test_a_speed_up_below_the_noise_floor_is_not_claimed():
    clock = Clock()
    noisy = clock.subject("full", *np.random.default_rng(5).normal(10, 1, 997))
    result = run_benchmark(clock, {"full": noisy, "other": clock.subject("other", 9.3)}, {"other": "full"})
    row, (lo, hi) = result.latency["other"][0], result.noise_floor[0]["ci95"]
    assert 1 < row["speedup_ci95"][0] <= max(hi, 1 / lo)  # the interval alone would have let it pass
    assert not row["claimed"]


def test_a_slow_down_beyond_the_noise_is_called_one():
    clock = Clock()
    subjects = {"full": clock.subject("full", 10), "slow": clock.subject("slow", 13), "same": clock.subject("same", 10)}
    rows = run_benchmark(clock, subjects, {"slow": "full", "same": "full"}).latency
    assert [(rows[name][0]["claimed"], rows[name][0]["slower"]) for name in ("slow", "same")] == [
        (False, True),
        (False, False),
    ]
    assert not rows["full"][0]["slower"]
    # 0.74x [0.61, 0.89] against an opponent that is within 5 % of itself
    assert slower(Ratio(0.74, 0.61, 0.89), Ratio(1.0, 0.95, 1.04))
    assert not slower(Ratio(0.97, 0.93, 0.99), Ratio(1.0, 0.95, 1.04))


def test_intervals_hold_where_neighbouring_rounds_are_alike():
    # rounds whose log ratio is AR(1) with a correlation of 0.5 around a true ratio of 1.1
    generator, covered, runs = np.random.default_rng(3), 0, 150
    for run in range(runs):
        noise = generator.normal(0, 0.05, 120)
        for index in range(1, 120):
            noise[index] += 0.5 * noise[index - 1]
        found = ratio(11 * np.exp(noise), np.full(120, 10.0), run, np.mean)
        covered += found.lo <= 1.1 * np.exp(noise.var() / 2) <= found.hi
    # independent draws of rounds cover the truth in about three of four runs
    assert covered / runs >= 0.86
