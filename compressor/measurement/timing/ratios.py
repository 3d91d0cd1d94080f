"""Ratios of latencies with their intervals, and what may be said of one: faster, slower, or within the noise."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
CHUNK = 4_000_000
"""Largest number of resampled values held at once."""


@dataclass(frozen=True)
class Ratio:
    """A speed-up (base time over other time) with its 95 % interval."""

    value: float
    lo: float
    hi: float


def ratio(
    base_ms: Sequence[float], other_ms: Sequence[float], seed: int, average: Callable[..., Any] = np.median
) -> Ratio:
    """Return average(base) / average(other) with a percentile interval from 2,000 block bootstrap draws over rounds.

    `average` is np.median, which a slow round does not move, or np.mean where rounds do different work. Both are [R]
    with the same round at the same place; a draw takes the same rounds from both, so what slowed a round down cancels
    out. Raises ValueError for lengths that differ or R = 0.
    """
    base, other = np.asarray(base_ms, dtype=np.float64), np.asarray(other_ms, dtype=np.float64)
    if base.shape != other.shape or not len(base):
        raise ValueError(f"a paired ratio needs equally many rounds, not {len(base)} and {len(other)}")
    generator, draws = np.random.default_rng(seed), []
    size = max(1, CHUNK // len(base))
    for start in range(0, DRAWS, size):
        rounds = drawn_rounds(len(base), min(size, DRAWS - start), generator)
        draws.append(average(base[rounds], axis=1) / average(other[rounds], axis=1))
    lo, hi = np.percentile(np.concatenate(draws), [2.5, 97.5])
    return Ratio(float(average(base) / average(other)), float(lo), float(hi))


def drawn_rounds(rounds: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """Return which rounds each draw takes, int64 [draws, rounds]: runs of ceil(rounds ** (1 / 3)) neighbours.

    The circular block bootstrap (Politis and Romano 1992), in which the first round follows the last. Rounds that follow
    each other in time are alike: on two cores the ratio of one and of the next correlated by up to 0.5, for up to five
    rounds, and single rounds drawn at random would make intervals too narrow.
    """
    block = math.ceil(rounds ** (1 / 3))
    starts = generator.integers(rounds, size=(draws, -(-rounds // block), 1))
    return ((starts + np.arange(block)) % rounds).reshape(draws, -1)[:, :rounds]


def claimed(ratio: Ratio, noise: Ratio) -> bool:
    """Return whether a speed-up may be claimed: its whole interval above 1 and above the A/A noise, either way round."""
    return ratio.lo > max(1.0, noise.hi, 1 / noise.lo)


def slower(ratio: Ratio, noise: Ratio) -> bool:
    """Return whether it is a slow-down: the whole interval below 1 and below the A/A noise, either way round."""
    return ratio.hi < min(1.0, noise.lo, 1 / noise.hi)
