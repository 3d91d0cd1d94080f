"""Search that a score leads and trials correct: a tenth of the sets of a size, the most promising first."""

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations
from math import comb

import numpy as np

from compressor.selection.trials import Trial
from compressor.selection.trie import SkipSet

SHARE, LEAST = 10, 3
"""One set of so many is tried, but not fewer than `LEAST` of a size."""
BATCH = 4
"""Trials between two looks at what they say."""
SLOPE = 0.1
"""What the next place in the score's order is thought to add to the log of the KL, before any trial."""
RIDGE = 1.0
"""Trials of as many sets with a layer as without it weigh as much as the score's word on that layer."""
CURIOSITY = 0.3
"""How much a set gains by what is not known of it yet, in posterior deviations (as in LinUCB: Li et al. 2010)."""
LOWEST = 1e-6
"""KL in nats below which sets are not told apart."""


def guided_sets(free: int, size: int) -> int:
    """Return how many of the sets of `size` layers out of `free` are tried."""
    return tenth(comb(free, size))


def tenth(total: int) -> int:
    """Return how many of `total` sets of one size are tried."""
    return min(total, max(LEAST, total // SHARE))


def guided_search(
    evaluate: Callable[[Sequence[SkipSet], str], list[Trial]],
    order: Sequence[int],
    sizes: Sequence[int],
    sets_of: Callable[[int], Iterable[SkipSet]] | None = None,
) -> None:
    """Try the sets of each of `sizes` that promise the lowest KL; `order` holds the layers, the least important first.

    `sets_of(size)` gives the sets that there are, of layers in `order`; None: all.

    The log of a set's KL is modelled as a sum over its layers. A layer begins with its place in the order; after every batch
    its value is what ridge regression, drawn to that place, makes of all trials of the size. Sets unlike those that were tried
    are a little more welcome, so that a layer that all of them share is put to the test as well.
    """
    places = SLOPE * np.arange(1, len(order) + 1)
    for size in sizes:
        sets = [tuple(sorted(chosen)) for chosen in (sets_of(size) if sets_of else combinations(order, size))]
        members = np.array([[layer in chosen for layer in order] for chosen in sets], dtype=float)
        promise, tried, costs = members @ places, [], []
        while len(tried) < tenth(len(sets)):
            left = tenth(len(sets)) - len(tried)
            known = set(tried)
            by_promise = np.argsort(promise, kind="stable").tolist()
            new = [index for index in by_promise if index not in known][: min(BATCH, left)]
            found = evaluate([sets[index] for index in new], f"guided search, {size} skipped")
            tried += new
            costs += [np.log(max(trial.kl, LOWEST)) for trial in found]
            promise = _promise(members, tried, np.array(costs), places)


def _promise(members: np.ndarray, tried: Sequence[int], costs: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Return of every set [M] the log of its KL as the trials have it, less what curiosity grants; lower is better.

    `members` [M, L] says which layers are in which set, `costs` are those of the sets `tried`. Ridge regression of what the
    places leave, on centred data: a constant counts for nothing.
    """
    centred = members - members[tried].mean(axis=0)
    seen = centred[tried]
    spread = np.linalg.inv(seen.T @ seen + RIDGE * np.eye(len(places)))
    values = places + spread @ seen.T @ (costs - costs.mean() - seen @ places)
    unknown = np.sqrt(np.einsum("nl,lm,nm->n", centred, spread, centred))
    return centred @ values - CURIOSITY * unknown
