"""All scores as one question: what would skipping layers a..b cost?

Every score reads what the scoring passes kept and what the weights say (`Evidence`); none looks at a trial. Low means: skip
this first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from compressor.selection.allowed import Kinds, allowed_sets, may_go
from compressor.selection.sensitivity import SENSITIVITIES
from compressor.selection.separability import SCORES
from compressor.selection.trie import SkipSet

KEPT = "pairs", "gradients"
"""Keys of scores.json beside its layers; the second is there where a score of `SENSITIVITIES` is asked for."""
BlockScore = Callable[["Evidence", int, int], float]
"""(evidence, first layer, last layer) -> predicted damage of skipping layers first..last, numbered from 1."""


@dataclass(frozen=True)
class Evidence:
    """What scores may look at: `states` [L+1] by state score, `pairs` [L+1, L+1] by measure, and a seed for chance.

    `passthrough` [L] is the score of that layer role, of the weights alone, and `gradients` [L] by score what
    `sensitivity` found; None and empty where nobody asks for them.
    """

    states: Mapping[str, np.ndarray]
    pairs: Mapping[str, np.ndarray]
    seed: int
    passthrough: np.ndarray | None = None
    gradients: Mapping[str, np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Mapping[str, Any], seed: int, passthrough: np.ndarray | None = None) -> "Evidence":
        """Return the evidence in the content of scores.json, and that of the weights."""
        names = ("separability", *SCORES)
        states = {name: np.array([entry[name] for entry in scores["layers"]]) for name in names}
        pairs, gradients = ({name: np.array(values) for name, values in scores.get(key, {}).items()} for key in KEPT)
        return cls(states, pairs, seed, passthrough, gradients)

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.states["separability"]) - 1


def _gain(name: str) -> BlockScore:
    """Return the rise of a state score over the block: what its layers add to the classes' distance."""
    return lambda evidence, first, last: float(evidence.states[name][last] - evidence.states[name][first - 1])


def _unlike(name: str) -> BlockScore:
    """Return 1 minus the similarity of the states before and behind the block."""
    return lambda evidence, first, last: float(1 - evidence.pairs[name][first - 1, last])


def _order(order: Callable[["Evidence"], Sequence[int]]) -> BlockScore:
    """Return a score from an order of dropping: the sum of the layers' places in it, 1 = dropped first."""

    def place(evidence: Evidence, first: int, last: int) -> float:
        places = {layer: index for index, layer in enumerate(order(evidence), 1)}
        return float(sum(places[layer] for layer in range(first, last + 1)))

    return place


def top_first(evidence: Evidence) -> list[int]:
    """Return the layers from the last to the first: top-layer dropping (Sajjad et al. 2023)."""
    return list(range(evidence.layers, 0, -1))


def every_other(evidence: Evidence) -> list[int]:
    """Return every second layer from the top, the last one kept, then the others: alternate dropping (Sajjad et al. 2023)."""
    return [*range(evidence.layers - 1, 0, -2), *range(evidence.layers, 0, -2)]


def shuffled(evidence: Evidence) -> list[int]:
    """Return the layers in an order that only the seed decides."""
    return (np.random.default_rng(evidence.seed).permutation(evidence.layers) + 1).tolist()


def _no_passthrough(evidence: Evidence, first: int, last: int) -> float:
    """Return the sum over the block of 1 - the passthrough score: a layer that hands its input on is a candidate."""
    if evidence.passthrough is None:
        raise ValueError("the score passthrough needs the weights: give Evidence.of the passthrough scores")
    return float((1 - evidence.passthrough[first - 1 : last]).sum())


def _sensitive(name: str) -> BlockScore:
    """Return the sum over the block of what gradients say of each of its layers."""

    def cost(evidence: Evidence, first: int, last: int) -> float:
        if name not in evidence.gradients:
            raise ValueError(f"the score {name} needs gradients: give Evidence.of scores that were made with them")
        return float(evidence.gradients[name][first - 1 : last].sum())

    return cost


def _negative_gain(evidence: Evidence, first: int, last: int) -> float:
    """Return the negative gains in the block, added up: layers after which the classes are less apart count as harmful."""
    return float(np.minimum(np.diff(evidence.states["separability"][first - 1 : last + 1]), 0).sum())


RANKINGS: dict[str, BlockScore] = {
    "separability": _gain("separability"),
    **{name: _gain(name) for name in SCORES},
    "negative_gain": _negative_gain,
    **{name: _sensitive(name) for name in SENSITIVITIES},
    # Men et al. 2024 (ShortGPT), eq. 1, over all tokens; and the same on the [CLS] state alone
    "block_influence": _unlike("token_cosine"),
    "cls_cosine": _unlike("cls_cosine"),
    # Gromov et al. 2024, eq. 8, at the token that the classifier reads
    "angular_distance": lambda evidence, first, last: float(evidence.pairs["cls_angle"][first - 1, last]),
    "cka": _unlike("cka"),
    "passthrough": _no_passthrough,
    "top_first": _order(top_first),
    "every_other": _order(every_other),
    "random": _order(shuffled),
}
"""Score name -> predicted damage of a block; keys = SelectionSpec.rank_by. `separability` is the recipe's own score."""

CONTIGUOUS = ("angular_distance",)
"""Scores whose authors drop one block of neighbouring layers instead of the lowest layers one by one."""


def importances(name: str, evidence: Evidence) -> list[float]:
    """Return the predicted damage of skipping each of the layers 1..L alone."""
    return [RANKINGS[name](evidence, layer, layer) for layer in range(1, evidence.layers + 1)]


def drop_order(name: str, evidence: Evidence, protect: Sequence[int] = ()) -> list[int]:
    """Return the layers that are not protected, the least important first; equal ones drop the later layer first."""
    values = importances(name, evidence)
    free = [layer for layer in range(1, evidence.layers + 1) if layer not in protect]
    return sorted(free, key=lambda layer: (values[layer - 1], -layer))


def ranked_set(name: str, evidence: Evidence, size: int, protect: Sequence[int] = (), kinds: Kinds = None) -> SkipSet:
    """Return the `size` layers that the score skips, without any trial.

    Scores in CONTIGUOUS take the block of `size` neighbours with the lowest value, where one is free of protected layers.
    Where not every set may go, the others take the set whose layers have the lowest sum.
    """
    if name in CONTIGUOUS and size:
        starts = range(1, evidence.layers - size + 2)
        blocks = [
            start
            for start in starts
            if not set(range(start, start + size)) & set(protect) and may_go(tuple(range(start, start + size)), kinds)
        ]
        if blocks:
            start = min(blocks, key=lambda start: (RANKINGS[name](evidence, start, start + size - 1), -start))
            return tuple(range(start, start + size))
    if kinds is not None:
        values = importances(name, evidence)
        sets = allowed_sets(evidence.layers, size, protect, kinds)
        return min(sets, key=lambda skip: (sum(values[layer - 1] for layer in skip), [-layer for layer in skip[::-1]]))
    return tuple(sorted(drop_order(name, evidence, protect)[:size]))
