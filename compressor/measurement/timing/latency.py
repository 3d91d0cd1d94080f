"""Latency of several models on equal terms, and speed-ups that are claimed only above the measured noise.

Rounds interleave all models, so that a machine that heats up or gets busy slows all of them alike; every model that
another is compared with is timed twice under two names, and the ratio of the two shows what differences mean nothing.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.data.batches import Encodings, pad
from compressor.measurement.timing.ratios import claimed, ratio, slower
from compressor.progress import Track, silent
from compressor.recipe.compression import BenchmarkSpec

Batch = dict[str, np.ndarray]
Subject = Callable[[Batch], object]
"""Runs a model once on a batch of inputs, each int64 [B, S], and returns when the result is there."""
WORKLOAD = "workload"
"""Length of the cell that replays real texts."""
MIN_ROUNDS = 5
ASKED = 50
"""Rounds between two looks at whether the intervals are narrow enough."""


@dataclass(frozen=True)
class Cell:
    """A point of the benchmark: `length` is a number of tokens or "workload", `batches` the inputs to cycle through."""

    batch: int
    length: int | str
    batches: Sequence[Batch]

    @property
    def texts(self) -> int:
        """Texts that one run answers: `batch`, or fewer where a workload has not so many."""
        return len(next(iter(self.batches[0].values())))


@dataclass(frozen=True)
class Benchmark:
    """Latency rows by model, the noise floor of each cell and opponent, and every raw value, as plain values for JSON."""

    latency: dict[str, list[dict]]
    noise_floor: list[dict]
    raw: list[dict]


def benchmark(
    subjects: Mapping[str, Subject],
    against: Mapping[str, str],
    providers: Mapping[str, str],
    cells: Sequence[Cell],
    *,
    min_seconds: float,
    min_runs: int,
    max_seconds: float,
    narrow: float | None = None,
    every_shape: bool = False,
    warmup: int = 5,
    seed: int = 0,
    track: Track = silent,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Benchmark:
    """Time every subject in every cell and compare each with `against[name]` (by default itself: no comparison).

    `providers` says in words what each runs on. Every opponent is timed twice, for the noise floor that its comparisons
    are held against; where nothing is compared the first subject is. The seconds are those of a cell, all subjects
    together; see `measure`. A cell also ends, after `min_runs`, once every compared ratio is known to +- `narrow` of itself.
    `every_shape` runs each subject once on every shape of a cell before that is timed: a GPU picks and loads kernels when it
    meets a shape for the first time, which would count for whichever subject is slowest at that.
    """
    rivals = dict.fromkeys(against[name] for name in subjects if against.get(name, name) != name)
    opponents = list(rivals) or [next(iter(subjects))]
    limits = {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds}
    rows: dict[str, list[dict]] = {name: [] for name in subjects}
    floors, raw = [], []
    for cell in cells:
        # batches of real texts differ: their mean is what a user waits for, a median would hide the slow ones
        average = np.mean if cell.length == WORKLOAD else np.median

        def settled(values: Mapping[str, Sequence[float]], average: Callable[..., Any] = average) -> bool:
            gains = [ratio(values[base], values[name], seed, average) for name, base in against.items() if base != name]
            return all(gain.hi - gain.lo < 2 * narrow * gain.value for gain in gains)

        for subject in subjects.values() if every_shape else ():
            settle(subject, cell.batches)
        values = measure(
            {**subjects, **{twin_of(name): subjects[name] for name in opponents}},
            cell.batches,
            **limits,
            settled=settled if narrow is not None else None,
            warmup=warmup,
            seed=seed,
            track=track,
            clock=clock,
            description=f"batch {cell.batch}, {cell.length}{'' if cell.length == WORKLOAD else ' tokens'}",
        )
        place = {"batch": cell.batch, "length": cell.length}
        noise = {name: ratio(values[name], values[twin_of(name)], seed, average) for name in opponents}
        floors += [
            {**place, "model": name, "ratio": found.value, "ci95": [found.lo, found.hi]}
            for name, found in noise.items()
        ]
        raw.append({**place, "values_ms": values})
        for name in subjects:
            base = against.get(name, name)
            gain = ratio(values[base], values[name], seed, average) if base != name else None
            row = {
                **place,
                "provider": providers[name],
                **summary(values[name], cell.texts),
                "speedup": gain.value if gain else 1.0,
                "speedup_ci95": [gain.lo, gain.hi] if gain else None,
                "against": base,
                "claimed": bool(gain) and claimed(gain, noise[base]),
                "slower": bool(gain) and slower(gain, noise[base]),
                "complete": len(values[name]) >= min_runs,  # else the time limit ended it before
            }
            rows[name].append(row)
    return Benchmark(rows, floors, raw)


def settle(subject: Subject, batches: Sequence[Batch]) -> None:
    """Run a subject once on every shape of its `batches`: what compiles or captures a shape does it before it is timed."""
    shapes = {tuple(batch["input_ids"].shape): batch for batch in reversed(batches)}
    for batch in shapes.values():
        subject(batch)


def summary(values_ms: Sequence[float], texts: int) -> dict[str, float]:
    """Return percentiles of a model's times in one cell, the texts answered in a second, and the number of runs.

    Each run answers `texts` texts; their rate is taken from the mean time, which the slow runs count in.
    """
    percentiles = {f"p{share}_ms": float(np.percentile(values_ms, share)) for share in (50, 90, 95, 99)}
    return {**percentiles, "texts_per_s": 1000 * texts / float(np.mean(values_ms)), "runs": len(values_ms)}


def twin_of(name: str) -> str:
    """Return what the second timing of an opponent is called among the raw values."""
    return f"A/A twin of {name}"


def measure(
    subjects: Mapping[str, Subject],
    batches: Sequence[Batch],
    *,
    min_seconds: float,
    min_runs: int,
    max_seconds: float,
    settled: Callable[[Mapping[str, Sequence[float]]], bool] | None = None,
    warmup: int = 5,
    seed: int = 0,
    track: Track = silent,
    clock: Callable[[], int] = time.perf_counter_ns,
    description: str = "latency",
) -> dict[str, list[float]]:
    """Return the milliseconds of every subject, one value a round, in the order of the rounds.

    A round runs each subject once on the same batch, in an order drawn anew; the next round takes the next batch.
    It ends when both `min_seconds` (of the whole, warm-up apart) and `min_runs` rounds are reached, or after
    `max_seconds`, but never before 5 rounds; with `settled`, asked every 50 rounds from `min_runs` on, also once that says
    so. Up to `warmup` rounds go before, at most a quarter of `max_seconds`. `clock` returns nanoseconds.
    """
    if not subjects or not batches:
        raise ValueError("latency needs at least one subject and one batch")
    names = list(subjects)
    values: dict[str, list[float]] = {name: [] for name in names}
    generator = np.random.default_rng(seed)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would count for whichever subject it happens to interrupt
    try:
        for index in _rounds(min(1, warmup), warmup, 0.0, max_seconds / 4, clock):
            for name in names:
                subjects[name](batches[index % len(batches)])
        rounds = _rounds(MIN_ROUNDS, min_runs, min_seconds, max_seconds, clock)
        for index in track(rounds, description, min_runs):
            if settled is not None and index and index >= min_runs and not index % ASKED and settled(values):
                break
            batch = batches[index % len(batches)]
            for position in generator.permutation(len(names)):
                name = names[position]
                started = clock()
                subjects[name](batch)
                values[name].append((clock() - started) / 1e6)
    finally:
        if collecting:
            gc.enable()
    return values


def grid_batches(
    batch: int, length: int, vocab_size: int, inputs: Sequence[str], *, count: int = 1, seed: int = 0
) -> list[Batch]:
    """Return `count` synthetic batches, int64 [batch, length]: random ids, no padding, token types 0.

    Ids come from the upper part of the vocabulary, away from the padding id, which RoBERTa's positions depend on.
    """
    generator = np.random.default_rng(seed)
    low = min(1000, vocab_size // 2)
    batches = []
    for _ in range(count):
        made = {
            "input_ids": generator.integers(low, vocab_size, size=(batch, length)),
            "attention_mask": np.ones((batch, length), dtype=np.int64),
            "token_type_ids": np.zeros((batch, length), dtype=np.int64),
        }
        batches.append({name: made[name] for name in inputs})
    return batches


def grid_cells(spec: BenchmarkSpec, vocab_size: int, inputs: Sequence[str], seed: int) -> list[Cell]:
    """Return the batch x length grid: random token ids, no padding."""
    return [
        Cell(size, length, grid_batches(size, length, vocab_size, inputs, seed=seed))
        for size in spec.batch_sizes
        for length in spec.lengths
    ]


def workload_batches(encodings: Encodings, batch_size: int, limit: int = 64, seed: int = 0) -> list[Batch]:
    """Return batches of consecutive rows at their real lengths, each padded to its longest row.

    With more than `limit` batches, that many are drawn and kept in order. A last batch that is not full is left out,
    unless it is the only one.
    """
    starts = np.arange(0, max(1, len(encodings) - batch_size + 1), batch_size)
    if len(starts) > limit:
        starts = np.sort(np.random.default_rng(seed).choice(starts, size=limit, replace=False))
    return [pad(encodings, np.arange(start, min(start + batch_size, len(encodings)))) for start in starts]


def _rounds(at_least: int, wanted: int, min_s: float, max_s: float, clock: Callable[[], int]) -> Iterator[int]:
    """Yield 0, 1, ... until `wanted` rounds and `min_s` are both reached, or `max_s` is, but `at_least` so many."""
    started, done = clock(), 0
    while True:
        elapsed = (clock() - started) / 1e9
        enough = done >= wanted and elapsed >= min_s
        if done >= at_least and (enough or elapsed >= max_s):
            return
        yield done
        done += 1
