"""Search for the best mix of units (layers, attention blocks, feed-forward blocks, widths) within a budget.

Units differ in what they save, so sets of equal number cannot be compared. The search goes by what is saved instead: from
the full model it takes one more unit (or one wider step of a unit) at a time, sorts what it has tried into steps of
savings, and widens the best of every step, until the budget is met.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.stats import spearmanr

from compressor.errors import UserError
from compressor.measurement.cost import layers_saved, shape_flops
from compressor.model.units import ATTENTION, FFN, Shape, has_part, ordered, shape_left, split_unit, unit_of
from compressor.recipe.compression import SelectionSpec
from compressor.selection.search import Mix, Part, Search, SkipPlan
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import SkipSet

Savings = Mapping[tuple[int, str], np.ndarray]
"""(layer from 1, part; "" for the whole layer) -> share of the encoder's cost that it saves, one value a cell [K]."""
ROUNDING = 1e-9
MULTIPLE = 8
"""Widths are rounded to multiples of it: what matrix units of processors and GPUs take at once."""


def part_names(spec: SelectionSpec, width: int) -> list[str]:
    """Return the parts that a recipe lets go of a layer whose feed-forward block has `width` neurons; "" is the layer."""
    widths = [MULTIPLE * max(1, round(share * width / MULTIPLE)) for share in spec.widths]
    narrower = [f"{FFN}:{left}" for left in sorted(set(widths), reverse=True) if left < width]
    named = {"layer": [""], "ffn": [FFN], "attention": [ATTENTION], "width": narrower}
    return [part for unit in spec.units for part in named[unit]]


def flops_savings(full: Shape, hidden: int, parts: Sequence[str]) -> dict[tuple[int, str], np.ndarray]:
    """Return what each part saves of each layer that has it, as a share of the encoder's FLOPs at the reported length.

    `full` is the shape of the model, `hidden` the width of its states.
    """
    whole, found = shape_flops(full, hidden), {}
    for part in parts:
        for layer, own in enumerate(full.each(), start=1):
            if has_part(part, own.ffn_widths[0], own.heads[0]):
                saved = shape_flops(own, hidden) - shape_flops(shape_left([unit_of(1, part)], own), hidden)
                found[layer, part] = np.array([saved / whole])
    return found


def latency_savings(
    cells: Sequence[Mapping[str, Any]], layers: int, parts: Sequence[str]
) -> dict[tuple[int, str], np.ndarray]:
    """Return what each part saves as a share of the time of all layers, in every timed cell (`timing.json`).

    A part that did not turn out faster saves nothing there.
    """
    shares = {part: np.array([max(0.0, layers_saved(cell, [part])) for cell in cells]) / layers for part in parts}
    return {(layer, part): share for layer in range(1, layers + 1) for part, share in shares.items()}


def check_budget(spec: SelectionSpec, savings: Savings, layers: int) -> None:
    """Raise UserError where no mix of the recipe's units reaches its budget."""
    least = least_left(spec, savings, layers)
    if spec.budget.keep < least - ROUNDING:
        raise UserError(
            f"selection.budget.keep: {spec.budget.keep:g} cannot be reached with units {', '.join(spec.units)}; "
            f"the least that can remain is {least:.3f} of the {spec.budget.of} of the encoder."
        )


def least_left(spec: SelectionSpec, savings: Savings, layers: int) -> float:
    """Return the least share of the encoder's cost that a mix of the recipe's units can leave."""
    free = _free(spec, savings)
    return 1 - float(_saved(fullest_mix(free, layers), free).min())


def find_mix(
    trials: Trials,
    savings: Savings,
    spec: SelectionSpec,
    full: Shape,
    gains: Mapping[tuple[int, str], float] | None = None,
) -> SkipPlan:
    """Choose the mix of units that keeps the most predictions within `spec.budget`, by trials on the selection split.

    `trials` has the stand-ins for every part in `savings`; `full` is the shape of the model. Of the mixes that
    meet the budget only those are tried from which nothing can be given back, and the one that `gains` (see
    `score_parts`) alone would name: lowest gain first. Raises UserError where no mix can meet the budget.
    """
    search, layers = Search(trials), len(trials.layers)
    check_budget(spec, savings, layers)
    free, need = _free(spec, savings), 1 - spec.budget.keep - ROUNDING
    step = min(float(saved.min()) for saved in _steps(free))
    singles = search([(unit_of(*key),) for key in free], "single parts")
    by_gain = ranked_mix(free, gains, need, layers) if gains else None
    ranked = search([by_gain], "ranked plan")[0] if by_gain else None
    waiting: dict[int, list[SkipSet]] = {0: [()]}
    widened: set[SkipSet] = set()
    while waiting:
        place = min(waiting)
        members = waiting.pop(place)
        best = sorted(members, key=lambda mix: search.tried[mix].cost if mix else ())[: spec.beam_width]
        children = dict.fromkeys(child for mix in best for child in _wider(mix, free, layers))
        lean = dict.fromkeys(without_surplus(child, free, need) for child in children)
        worth = [child for child in lean if child not in widened]
        widened.update(worth)
        for trial in search(worth, f"mixes that save {100 * place * step:.0f} % and more"):
            saved = float(_saved(trial.skip, free).min())
            if saved < need:
                # a step further on at least, whatever the rounding: a mix never waits where it came from
                waiting.setdefault(max(place + 1, int(saved / step + ROUNDING)), []).append(trial.skip)
    if not any(_saved(mix, free).min() >= need for mix in search.tried if mix):  # the beam went another way
        search([without_surplus(fullest_mix(free, layers), free, need)], "the mix that saves the most")
    meeting = [trial for mix, trial in search.tried.items() if mix and _saved(mix, free).min() >= need]
    chosen = min(meeting, key=lambda trial: trial.cost)
    left = shape_left(chosen.skip, full)
    parts = tuple(
        Part(layer, part or "layer", float(saved.min()), _gain(gains, layer, part), *_figures(trial))
        for ((layer, part), saved), trial in zip(free.items(), singles, strict=True)
    )
    mix = Mix(
        units=tuple(spec.units),
        keep=spec.budget.keep,
        of=spec.budget.of,
        kept=1 - float(_saved(chosen.skip, free).min()),
        ffn_widths=left.ffn_widths,
        attention=left.attention,
        heads=left.heads,
        full_heads=left.full_heads,
        parts=parts,
        gain_rho=_correlation(parts),
        meeting=len(meeting),
    )
    total = prod(1 + sum(layer == number for layer, _ in free) for number in range(1, layers + 1)) - 1
    trace = tuple(sorted(meeting, key=lambda trial: trial.cost))
    return search.plan(
        spec, chosen, ranked, chosen, layers_asked="budget", sets_total=total, goals=None, trace=trace, mix=mix
    )


def ranked_mix(savings: Savings, gains: Mapping[tuple[int, str], float], need: float, layers: int) -> SkipSet | None:
    """Return the mix that the gains alone would leave out: parts of lowest gain first, until `need` is saved.

    Attention and feed-forward blocks go one by one where they may, else whole layers; a layer that loses both is skipped.
    None where the budget is not met that way.
    """
    singly = [key for key in savings if key in gains]
    whole = [key for key in savings if not key[1]] if not singly else []
    lost: dict[int, str] = {}
    for layer, part in sorted([*singly, *whole], key=lambda key: (_gain(gains, *key), key)):
        both = layer in lost
        if both and ((layer, "") not in savings or sum(not other for other in lost.values()) == layers - 1):
            continue
        lost[layer] = "" if both else part
        mix = ordered(unit_of(*item) for item in lost.items())
        if _saved(mix, savings).min() >= need:
            return mix
    return None


def _gain(gains: Mapping[tuple[int, str], float] | None, layer: int, part: str) -> float | None:
    """Return the gain of a part; that of a layer is the sum over its parts."""
    if not gains or part.startswith(f"{FFN}:"):
        return None
    return gains[layer, part] if part else gains[layer, ATTENTION] + gains[layer, FFN]


def _figures(trial: Trial) -> tuple[float, float, float]:
    return trial.agreement, trial.kl, trial.raw_agreement


def _correlation(parts: Sequence[Part]) -> float | None:
    """Return the Spearman correlation of gain and KL over the parts that have a gain, None where it is undefined."""
    pairs = [(part.gain, part.kl) for part in parts if part.gain is not None]
    if len(pairs) < 3 or any(len(set(values)) < 2 for values in zip(*pairs, strict=True)):
        return None
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)


def _free(spec: SelectionSpec, savings: Savings) -> dict[tuple[int, str], np.ndarray]:
    """Return the savings of the layers that are not protected, by layer, leaving out what saves nothing."""
    return {
        key: savings[key] for key in sorted(savings) if key[0] not in spec.protect and savings[key].min() > ROUNDING
    }


def _saved(mix: SkipSet, savings: Savings) -> np.ndarray:
    """Return what a mix saves, a share for each cell."""
    return np.sum([savings[split_unit(unit)] for unit in mix], axis=0) if mix else np.zeros(1)


def _steps(savings: Savings) -> list[np.ndarray]:
    """Return what every single move saves: a part, or the difference to the next part of the same layer."""
    found = list(savings.values())
    for (layer, part), saved in savings.items():
        more = [savings[layer, other] - saved for other in _beyond(layer, part, savings)]
        found += [difference for difference in more if difference.min() > ROUNDING]
    return found


def _beyond(layer: int, part: str | None, savings: Savings) -> list[str]:
    """Return the parts that a layer which lost `part` (None: nothing yet) may lose next, each including what it lost.

    Widths go one step at a time; the whole block and the whole layer may go at once.
    """
    own = {other: float(saved.min()) for (number, other), saved in savings.items() if number == layer}
    if part == "":
        return []
    widths = sorted((other for other in own if other.startswith(f"{FFN}:")), key=own.get)
    found = ["", ATTENTION] if part is None else [""]
    if part not in {ATTENTION, FFN}:
        found += [FFN, *[other for other in widths if part is None or own[other] > own[part]][:1]]
    return [other for other in found if other in own]


def _wider(mix: SkipSet, savings: Savings, layers: int) -> list[SkipSet]:
    """Return the mixes that lose one thing more."""
    losses = dict(map(split_unit, mix))
    found = []
    for layer in dict.fromkeys(layer for layer, _ in savings):
        for part in _beyond(layer, losses.get(layer), savings):
            wider = {**losses, layer: part}
            if sum(other == "" for other in wider.values()) < layers:
                found.append(ordered(unit_of(number, lost) for number, lost in wider.items()))
    return found


def without_surplus(mix: SkipSet, savings: Savings, need: float) -> SkipSet:
    """Return the mix with as much given back as it may and still save `need`, the most first; as it is where it saves less."""
    losses = dict(map(split_unit, mix))
    while True:
        spare = _saved(ordered(unit_of(*item) for item in losses.items()), savings) - need
        back = {}
        for layer, part in losses.items():
            own = savings[layer, part]
            less = {other: saved for (number, other), saved in savings.items() if number == layer}
            for other, saved in {None: np.zeros_like(own), **less}.items():
                given = own - saved
                if given.min() > ROUNDING and (spare - given).min() >= 0:
                    back[layer, other] = float(given.min())
        if not back:
            return ordered(unit_of(*item) for item in losses.items())
        layer, other = max(back, key=lambda key: (back[key], -key[0]))
        if other is None:
            del losses[layer]
        else:
            losses[layer] = other


def fullest_mix(savings: Savings, layers: int) -> SkipSet:
    """Return the mix that saves the most in the cell where it saves the least; one layer stays, and may still lose a part.

    Parts that save much in one cell may save little in another, so that different layers may have to lose different parts:
    a linear program in whole numbers, of one variable for each part and one for what is saved in every cell.
    """
    if not savings:
        return ()
    table = np.array(list(savings.values()))
    of_layer = np.array([[number == layer for number, _ in savings] for layer in range(1, layers + 1)], dtype=float)
    whole = np.array([not part for _, part in savings], dtype=float)
    limits = np.column_stack([np.vstack([of_layer, whole]), np.zeros(layers + 1)])
    saved = np.column_stack([table.T, -np.ones(table.shape[1])])
    found = milp(
        -np.eye(len(savings) + 1)[-1],
        integrality=np.append(np.ones(len(savings)), 0),
        bounds=Bounds(0, np.append(np.ones(len(savings)), np.inf)),
        constraints=[LinearConstraint(limits, ub=[1] * layers + [layers - 1]), LinearConstraint(saved, lb=0)],
        options={"mip_rel_gap": 0},
    )
    return ordered(unit_of(*key) for key, taken in zip(savings, found.x, strict=False) if taken > 0.5)
