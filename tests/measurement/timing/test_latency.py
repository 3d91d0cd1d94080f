"""The latency protocol under a clock that only the test moves: nothing here is timed for real."""

import gc
from collections import Counter

import numpy as np
import pytest
from clock import BATCHES, Clock, run_benchmark

from compressor.data.batches import Encodings
from compressor.measurement.timing.latency import Cell, benchmark, grid_batches, measure, summary, workload_batches

ENDLESS = {"min_seconds": 0, "max_seconds": 1e9, "warmup": 0}


def test_percentiles_by_hand():
    latency = summary([float(value) for value in range(1, 102)], 1)
    assert (latency["p50_ms"], latency["p90_ms"], latency["p99_ms"]) == (51.0, 91.0, 100.0)
    assert summary([7.0], 1)["p99_ms"] == 7.0


def test_rounds_interleave_all_subjects_on_the_same_batch():
    clock = Clock()
    subjects = {name: clock.subject(name, 1) for name in "abc"}
    measure(subjects, BATCHES, **ENDLESS, min_runs=60, seed=3, clock=clock)
    rounds = [clock.calls[start : start + 3] for start in range(0, len(clock.calls), 3)]
    assert len(rounds) == 60
    assert all(sorted(name for name, _ in calls) == ["a", "b", "c"] for calls in rounds)
    assert [{batch for _, batch in calls} for calls in rounds] == [{index % 3} for index in range(60)]
    before_a = Counter(calls[[n for n, _ in calls].index("a") - 1][0] for calls in rounds if calls[0][0] != "a")
    assert set(before_a) == {"b", "c"}
    assert min(before_a.values()) > 8


def test_values_are_those_of_the_clock_in_order_of_the_rounds():
    clock = Clock()
    subjects = {"slow": clock.subject("slow", 4, 5, 6), "fast": clock.subject("fast", 2)}
    values = measure(subjects, BATCHES, **ENDLESS, min_runs=6, seed=0, clock=clock)
    assert values == {"slow": [4, 5, 6, 4, 5, 6], "fast": [2] * 6}


@pytest.mark.parametrize(
    ("min_seconds", "min_runs", "max_seconds", "rounds"),
    [
        (0, 7, 1e9, 7),  # enough runs
        (0.1, 7, 1e9, 50),  # enough runs, but 2 ms a round make 0.1 s only after 50
        (0, 1000, 0.05, 25),  # the limit ends it
        (0, 1000, 0.001, 5),  # but never before five rounds
        (0, 1, 1e9, 5),
    ],
)
def test_stopping(min_seconds, min_runs, max_seconds, rounds):
    clock = Clock()
    subjects = {"a": clock.subject("a", 1), "b": clock.subject("b", 1)}
    limits = {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds}
    assert len(measure(subjects, BATCHES, **limits, warmup=0, seed=0, clock=clock)["a"]) == rounds


@pytest.mark.parametrize(("warmup", "milliseconds", "expected"), [(3, 1, 3), (0, 1, 0), (50, 1000, 3)])
def test_warm_up_is_not_recorded_and_takes_a_quarter_of_the_limit_at_most(warmup, milliseconds, expected):
    clock = Clock()
    values = measure(
        {"a": clock.subject("a", milliseconds)},
        BATCHES,
        min_seconds=0,
        min_runs=5,
        max_seconds=10,
        warmup=warmup,
        seed=0,
        clock=clock,
    )
    assert len(clock.calls) - len(values["a"]) == expected


def test_garbage_collection_rests_while_timing_and_comes_back_after_an_error():
    seen = []

    def fail(batch):
        seen.append(gc.isenabled())
        raise MemoryError

    with pytest.raises(MemoryError):
        measure({"a": fail}, BATCHES, **ENDLESS, min_runs=5, seed=0)
    assert seen == [False]
    assert gc.isenabled()


def test_measure_refuses_nothing_to_do():
    with pytest.raises(ValueError, match="at least one subject"):
        measure({}, BATCHES, **ENDLESS, min_runs=5, seed=0)
    with pytest.raises(ValueError, match="one batch"):
        measure({"a": print}, [], **ENDLESS, min_runs=5, seed=0)


def test_benchmark_rows():
    clock = Clock()
    subjects = {"full": clock.subject("full", 6, 6, 7), "compressed": clock.subject("compressed", 3)}
    result = run_benchmark(clock, subjects, {"compressed": "full"})
    full, compressed = result.latency["full"], result.latency["compressed"]
    assert [row["length"] for row in compressed] == [4, "workload"]
    assert full[0] == {
        "batch": 1,
        "length": 4,
        "provider": "fake",
        "p50_ms": 6.0,
        "p90_ms": 7.0,
        "p95_ms": 7.0,
        "p99_ms": 7.0,
        "texts_per_s": 1000 / np.mean(result.raw[0]["values_ms"]["full"]),
        "runs": 40,
        "speedup": 1.0,
        "speedup_ci95": None,
        "against": "full",
        "claimed": False,
        "slower": False,
        "complete": True,
    }
    assert compressed[0].keys() == full[0].keys()
    assert (compressed[0]["speedup"], compressed[0]["against"], compressed[0]["claimed"]) == (2.0, "full", True)
    assert [(floor["batch"], floor["length"]) for floor in result.noise_floor] == [(1, 4), (1, "workload")]
    assert result.noise_floor[0]["ratio"] == 1.0
    assert [floor["model"] for floor in result.noise_floor] == ["full", "full"]
    assert set(result.raw[0]["values_ms"]) == {"full", "compressed", "A/A twin of full"}
    assert all(len(values) == 40 for values in result.raw[0]["values_ms"].values())


def test_throughput_counts_the_texts_of_a_run_and_all_its_time():
    # 8 texts in 10, 10 and 40 ms: 20 ms on average, though the median is 10
    assert summary([10.0, 10.0, 40.0], 8)["texts_per_s"] == pytest.approx(400)
    assert Cell(8, "workload", [{"input_ids": np.ones((3, 7))}]).texts == 3


def test_a_cell_cut_short_says_so():
    clock = Clock()
    result = run_benchmark(clock, {"full": clock.subject("full", 10)}, {}, min_runs=100, max_seconds=0.2)
    assert (result.latency["full"][0]["runs"], result.latency["full"][0]["complete"]) == (10, False)


def test_grid_batches():
    made = grid_batches(2, 5, 30522, ["input_ids", "attention_mask"], count=3, seed=1)
    assert len(made) == 3
    assert set(made[0]) == {"input_ids", "attention_mask"}
    assert made[0]["input_ids"].shape == (2, 5)
    assert made[0]["input_ids"].dtype == np.int64
    assert all(batch["input_ids"].min() >= 1000 and batch["input_ids"].max() < 30522 for batch in made)
    assert made[0]["attention_mask"].sum() == 10
    assert not np.array_equal(made[0]["input_ids"], made[1]["input_ids"])
    small = grid_batches(4, 50, 8, ["input_ids", "token_type_ids"])[0]
    assert set(np.unique(small["input_ids"])) == {4, 5, 6, 7}
    assert small["token_type_ids"].sum() == 0


def encodings(*lengths):
    return Encodings([list(range(1, length + 1)) for length in lengths], None, 0)


def test_workload_batches_keep_the_order_and_pad_to_the_longest():
    made = workload_batches(encodings(2, 5, 3, 3, 9), 2)
    assert [batch["input_ids"].shape for batch in made] == [(2, 5), (2, 3)]
    assert made[0]["attention_mask"].sum(1).tolist() == [2, 5]
    drawn = workload_batches(encodings(*range(1, 41)), 1, limit=6, seed=2)
    widths = [batch["input_ids"].shape[1] for batch in drawn]
    assert len(set(widths)) == 6
    assert widths == sorted(widths)
    assert [batch["input_ids"].shape for batch in workload_batches(encodings(4, 6), 8)] == [(2, 6)]


@pytest.mark.parametrize(("slow", "narrow", "rounds"), [((4,), 0.03, 50), ((4,), None, 375), ((4, 40), 0.001, 375)])
def test_a_cell_ends_early_once_its_ratios_are_known(slow, narrow, rounds):
    clock = Clock()
    subjects = {"slow": clock.subject("slow", *slow), "fast": clock.subject("fast", 2)}
    seconds = 375 * (np.mean(slow) + np.mean(slow) + 2) / 1000  # of slow, its twin and fast
    measured = benchmark(
        subjects,
        {"fast": "slow"},
        dict.fromkeys(subjects, "x"),
        [Cell(1, "workload", BATCHES)],
        **{**ENDLESS, "min_seconds": seconds},
        min_runs=20,
        narrow=narrow,
        clock=clock,
    )
    assert measured.latency["fast"][0]["runs"] == pytest.approx(rounds, abs=1)


def test_every_shape_is_run_once_before_it_is_timed():
    shapes = []
    batches = [{"input_ids": np.zeros(shape, dtype=np.int64)} for shape in ((1, 3), (1, 5), (1, 3))]
    subjects = {"only": lambda batch: shapes.append(batch["input_ids"].shape)}
    for every, before in ((False, 0), (True, 2)):
        shapes.clear()
        benchmark(
            subjects, {}, {"only": "fake"}, [Cell(1, "workload", batches)],
            min_seconds=0, min_runs=1, max_seconds=1e9, warmup=0, every_shape=every,
        )  # fmt: skip
        assert len(shapes) == before + 2 * 5, "the subject and its twin, five rounds at least"
        assert sorted(shapes[:before]) == [(1, 3), (1, 5)][:before]
