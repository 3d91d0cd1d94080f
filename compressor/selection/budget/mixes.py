"""Search for the mix of parts that changes the answer least within a budget.

The damage of every part is known from one pass (`compensation/refits/shifts.py`): half the mean square of its shift of the
answer, in nats. Taken as a sum over parts, the best mix is solved for exactly (`cheapest_mix`; sums of damages over layers as in
Frantar and Alistarh 2022, SPDY, and Kurtic et al. 2023, ZipLM). Shifts of several parts also meet: the damage of a mix is a
quadratic form in them, in which exchanges of one or two parts lead on from there. Real trials on the selection split have
the last word, on the mixes that the form likes best.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from compressor.model.units import Shape, pieces, shape_left
from compressor.recipe.compression import SelectionSpec
from compressor.selection.budget.units import (
    ROUNDING,
    Key,
    Savings,
    cheapest_mix,
    check_budget,
    count_mixes,
    free_parts,
    gain_of,
    keys_of,
    mix_of,
    ranked_mix,
    saved_by,
    shared_mixes,
)
from compressor.selection.search import Mix, Part, Search, SkipPlan
from compressor.selection.trials import Trials
from compressor.selection.trie import SkipSet

ROUNDS = 3
"""Rounds of trials around the best mix so far; each tries `beam_width` mixes."""
FEASIBLE = 1e-6
"""How far the solver may miss what is to be saved (HiGHS's tolerance)."""
EXCHANGES = 1000
"""Exchanges after which an improvement ends, far more than it has ever taken."""


@dataclass(frozen=True)
class Damages:
    """The products of all parts' shifts: `gram` [n, n], nats, for `keys` [n]; a mix does the sum over its rows and columns."""

    keys: tuple[Key, ...]
    gram: np.ndarray

    @classmethod
    def of(cls, shifts: Mapping[Key, np.ndarray]) -> "Damages":
        """Return the products of shifts [N, K], each a row's shift of the answer."""
        table = np.stack([shift.astype(np.float64).ravel() for shift in shifts.values()])
        rows = len(next(iter(shifts.values())))
        return cls(tuple(shifts), 0.5 * table @ table.T / rows)

    def alone(self) -> dict[Key, float]:
        """Return what each part does by itself."""
        return dict(zip(self.keys, self.gram.diagonal().tolist(), strict=True))

    def together(self, mix: SkipSet) -> float:
        """Return what a mix does."""
        places = [self.keys.index(key) for key in keys_of(mix)]
        return float(self.gram[np.ix_(places, places)].sum())


def improved(mix: SkipSet, savings: Savings, damages: Damages, need: float, layers: int) -> SkipSet:
    """Return the mix to which exchanges of one or two parts lead, the best one each time, until none does less damage."""
    for _ in range(EXCHANGES):
        found = next(exchanges(mix, savings, damages, need, layers), None)
        if found is None or found[0] > -ROUNDING * max(damages.together(mix), ROUNDING):
            break
        mix = found[1]
    return mix


def exchanges(
    mix: SkipSet, savings: Savings, damages: Damages, need: float, layers: int
) -> Iterator[tuple[float, SkipSet]]:
    """Yield (change of the damage, mix) for every exchange of one or two parts that still saves `need`, the best first.

    A part that goes or comes back is exchanged for nothing; a whole layer stands for both of its blocks.
    """
    keys, has = list(savings), keys_of(mix)
    places = {key: place for place, key in enumerate(damages.keys)}
    moves = _moves(keys, has)
    signs = np.zeros((len(moves), len(damages.keys)))
    saves = np.zeros((len(moves), len(next(iter(savings.values())))))
    for row, (gone, come) in enumerate(moves):
        for key, sign in [(key, -1.0) for key in gone] + [(key, 1.0) for key in come]:
            signs[row, places[key]] += sign
            saves[row] += sign * savings[key]
    now = np.zeros(len(damages.keys))
    now[[places[key] for key in has]] = 1.0
    crossed = signs @ damages.gram
    alone = 2 * crossed @ now + (crossed * signs).sum(1)
    spare = saved_by(mix, savings) - need
    blocks = np.array([_touches(move, layers) for move in moves])
    whole = np.array([sum(not part for _, part in come) - sum(not part for _, part in gone) for gone, come in moves])
    room = layers - 1 - sum(not part for _, part in has)
    # the diagonal stands for one exchange alone
    change = alone[:, None] + alone[None, :] + 2 * crossed @ signs.T
    np.fill_diagonal(change, alone)
    both = saves[:, None] + saves[None, :]
    both[np.arange(len(moves)), np.arange(len(moves))] = saves
    wholes = whole[:, None] + whole[None, :]
    np.fill_diagonal(wholes, whole)
    apart = ~(blocks.astype(float) @ blocks.T.astype(float)).astype(bool)
    np.fill_diagonal(apart, True)
    allowed = np.triu(apart & (spare + both >= 0).all(-1) & (wholes <= room))
    change[~allowed] = np.inf
    for place in np.argsort(change, axis=None, kind="stable"):
        first, second = np.unravel_index(place, change.shape)
        if not np.isfinite(change[first, second]):
            return
        gone, come = (set(moves[first][side]) | set(moves[second][side]) for side in (0, 1))
        yield float(change[first, second]), mix_of([key for key in has if key not in gone] + sorted(come))


def _moves(keys: Sequence[Key], has: Sequence[Key]) -> list[tuple[list[Key], list[Key]]]:
    """Return (what comes back, what goes) of every change of one block, or of a layer from or to being gone."""
    moves = []
    for layer in dict.fromkeys(layer for layer, _ in keys):
        own = [key for key in has if key[0] == layer]
        if (layer, "") in own:
            moves.append((own, []))
        moves += [(own, [key]) for key in keys if key[0] == layer and not key[1] and key not in own]
        for block in (0, 1):
            lost = [key for key in own if not key[1] or pieces(key[1])[block]]
            options = [key for key in keys if key[0] == layer and key[1] and pieces(key[1])[block] and key not in lost]
            moves += [(lost, [key]) for key in options]
            if lost and lost[0][1]:
                moves.append((lost, []))
    return moves


def _touches(move: tuple[list[Key], list[Key]], layers: int) -> np.ndarray:
    """Return which blocks an exchange changes, bool [2 layers]."""
    touched = np.zeros((layers, 2), dtype=bool)
    for layer, part in [*move[0], *move[1]]:
        touched[layer - 1] |= [not part or bool(piece) for piece in pieces(part)]
    return touched.ravel()


def find_mix(
    trials: Trials,
    savings: Savings,
    damages: Damages,
    spec: SelectionSpec,
    full: Shape,
    gains: Mapping[Key, float] | None = None,
) -> SkipPlan:
    """Choose the mix of parts that keeps the most predictions within `spec.budget`.

    `trials` has the stand-ins for every part in `savings`, `damages` what each does; `full` is the shape of the model.
    Trials judge the mix that is best where damages add up, the one that exchanges lead to, the one that `gains` (see
    `score_parts`) alone would name, and in each of `ROUNDS` the `beam_width` best exchanges around the best so far. Of layers
    that are one, all mixes are known, and those of least damage are tried. Raises UserError where no mix can meet the budget.
    """
    search, layers, one = Search(trials), len(trials.layers), None in (trials.kinds or ())
    check_budget(spec, savings, layers, one=one)
    free, need = free_parts(spec, savings), 1 - spec.budget.keep - ROUNDING
    alone = damages.alone()
    by_gain = ranked_mix(free, gains, need, layers) if gains and not one else None
    if one:
        shared = shared_mixes(free, layers)
        enough = [mix for mix in shared if saved_by(mix, free).min() >= need]
        search(sorted(enough, key=damages.together)[: ROUNDS * spec.beam_width], "mixes for the budget")
    else:
        _try_around(search, free, damages, need, spec, by_gain)
    meeting = [trial for mix, trial in search.tried.items() if saved_by(mix, free).min() >= need - FEASIBLE]
    chosen = min(meeting, key=lambda trial: trial.cost)
    left = shape_left(chosen.skip, full)
    parts = tuple(
        Part(layer, part or "layer", float(saved.min()), gain_of(gains, layer, part), alone[layer, part])
        for (layer, part), saved in free.items()
    )
    mix = Mix(
        units=tuple(spec.units),
        keep=spec.budget.keep,
        of=spec.budget.of,
        kept=1 - float(saved_by(chosen.skip, free).min()),
        ffn_widths=left.ffn_widths,
        attention=left.attention,
        heads=left.heads,
        full_heads=left.full_heads,
        full_width=max(full.ffn_widths),
        parts=parts,
        gain_rho=_correlation(parts),
        meeting=len(meeting),
        expected=damages.together(chosen.skip),
    )
    trace = tuple(sorted(meeting, key=lambda trial: trial.cost))
    ranked = search.tried[by_gain] if by_gain else None
    return search.plan(
        spec,
        chosen,
        ranked,
        chosen,
        layers_asked="budget",
        sets_total=len(shared) if one else count_mixes(free),
        goals=None,
        trace=trace,
        mix=mix,
    )


def _try_around(
    search: Search, free: Savings, damages: Damages, need: float, spec: SelectionSpec, by_gain: SkipSet | None
) -> None:
    """Try the mixes that are solved for, that of the gains, and the best exchanges around the best so far."""
    layers = len(search.trials.layers)
    additive = cheapest_mix(free, damages.alone(), need, layers)
    joint = improved(additive, free, damages, need, layers)
    search([mix for mix in dict.fromkeys((additive, joint, by_gain)) if mix], "mixes for the budget")
    best = min((search.tried[mix] for mix in (additive, joint)), key=lambda trial: trial.cost)
    for number in range(1, ROUNDS + 1):
        near = (mix for _, mix in exchanges(best.skip, free, damages, need, layers) if mix not in search.tried)
        found = search(
            [mix for mix, _ in zip(near, range(spec.beam_width), strict=False)], f"mixes nearby, round {number}"
        )
        before, best = best, min([best, *found], key=lambda trial: trial.cost)
        if best is before:
            break


def _correlation(parts: Sequence[Part]) -> float | None:
    """Return the Spearman correlation of gain and damage over the parts that have a gain, None where it is undefined."""
    pairs = [(part.gain, part.damage) for part in parts if part.gain is not None]
    if len(pairs) < 3 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
