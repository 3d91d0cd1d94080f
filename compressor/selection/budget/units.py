"""What may go of every layer within a budget: the names of its parts, what each saves, and exact mixes of them.

A layer loses as a whole or loses a piece of either block, so a mix is a choice for every block; what it saves, in every cell
of a benchmark, is a sum over its pieces. The cheapest mix that meets a budget is then a linear program in whole numbers.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from compressor.errors import UserError
from compressor.measurement.cost import part_saved, shape_flops
from compressor.model.units import (
    ATTENTION,
    FFN,
    HEADS,
    Shape,
    has_part,
    heads_left,
    join_pieces,
    neurons_left,
    ordered,
    pieces,
    shape_left,
    split_unit,
    unit_of,
)
from compressor.recipe.compression import SelectionSpec
from compressor.selection.trie import SkipSet

Key = tuple[int, str]
"""(layer from 1, what goes: "" for the whole layer, or a piece of one block)."""
Savings = Mapping[Key, np.ndarray]
"""Key -> share of the encoder's cost that it saves, one value a cell [K]."""
ROUNDING = 1e-9
MULTIPLE = 8
"""Widths are rounded to multiples of it: what matrix units of processors and GPUs take at once."""
FINEST = 16
"""Most amounts of heads that are told apart."""
TIMED = 0.75, 0.5, 0.25
"""Shares of a block's heads or neurons whose time is measured; that of other amounts lies between."""


def part_names(spec: SelectionSpec, width: int, heads: int) -> list[str]:
    """Return the pieces that a recipe lets go of a layer of `width` neurons and `heads`; "" is the whole layer."""
    widths = [MULTIPLE * max(1, round(share * width / MULTIPLE)) for share in spec.widths]
    narrower = [f"{FFN}:{left}" for left in sorted(set(widths), reverse=True) if left < width]
    fewer = [f"{HEADS}:{left}" for left in range(heads - 1, 0, -1) if left % -(-heads // FINEST) == 0]
    named = {"layer": [""], "ffn": [FFN], "attention": [ATTENTION], "width": narrower, "heads": fewer}
    return [part for unit in spec.units for part in named[unit]]


def timed_parts(parts: Sequence[str], width: int, heads: int) -> list[str]:
    """Return those of `parts` whose time is to be measured: blocks that go, and a few amounts of heads and neurons."""
    chosen = {part for part in parts if part in (ATTENTION, FFN)}
    for name, size, left in ((HEADS, heads, heads_left), (FFN, width, neurons_left)):
        amounts = {left(part, size): part for part in parts if part.startswith(f"{name}:")}
        chosen |= {amounts[min(amounts, key=lambda count: abs(count - share * size))] for share in TIMED if amounts}
        chosen |= {amounts[pick(amounts)] for pick in (min, max) if amounts}
    return [part for part in parts if part in chosen]


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


def latency_savings(cells: Sequence[Mapping[str, Any]], layers: int, parts: Sequence[str]) -> dict[Key, np.ndarray]:
    """Return what each part saves as a share of the time of all layers, in every timed cell (`timing.json`).

    The cells hold the times of `timed_parts`. A part that did not turn out faster saves nothing there. Files that work out
    one row of their last layer save less with a part of it: with that of the model's last layer, here, whatever else goes.
    """

    def shares(part: str, last: bool) -> np.ndarray:
        return np.array([max(0.0, part_saved(cell, part, last=last)) for cell in cells]) / layers

    return {(layer, part): shares(part, layer == layers) for layer in range(1, layers + 1) for part in parts}


def check_budget(spec: SelectionSpec, savings: Savings, layers: int, *, one: bool = False) -> None:
    """Raise UserError where no mix of the recipe's units reaches its budget; `one`: all layers are one."""
    least = least_left(spec, savings, layers, one=one)
    if spec.budget.keep < least - ROUNDING:
        raise UserError(
            f"selection.budget.keep: {spec.budget.keep:g} cannot be reached with units {', '.join(spec.units)}; "
            f"the least that can remain is {least:.3f} of the {spec.budget.of} of the encoder."
        )


def least_left(spec: SelectionSpec, savings: Savings, layers: int, *, one: bool = False) -> float:
    """Return the least share of the encoder's cost that a mix of the recipe's units can leave; `one`: all layers are one."""
    free = free_parts(spec, savings)
    if one:
        return 1 - max((float(saved_by(mix, free).min()) for mix in shared_mixes(free, layers)), default=0.0)
    return 1 - float(saved_by(fullest_mix(free, layers), free).min())


def ranked_mix(savings: Savings, gains: Mapping[Key, float], need: float, layers: int) -> SkipSet | None:
    """Return the mix that the gains alone would leave out: parts of lowest gain first, until `need` is saved.

    Attention and feed-forward blocks go one by one where they may, else whole layers; a layer that loses both is skipped.
    None where the budget is not met that way.
    """
    singly = [key for key in savings if key in gains]
    whole = [key for key in savings if not key[1]] if not singly else []
    lost: list[Key] = []
    for layer, part in sorted([*singly, *whole], key=lambda key: (gain_of(gains, *key), key)):
        other = next((key for key in lost if key[0] == layer), None)
        if other is not None and (layer, "") in savings:
            if sum(not part for _, part in lost) == layers - 1:
                continue
            lost.remove(other)
            part = ""
        lost.append((layer, part))
        mix = mix_of(lost)
        if saved_by(mix, savings).min() >= need:
            return mix
    return None


def gain_of(gains: Mapping[Key, float] | None, layer: int, part: str) -> float | None:
    """Return the gain of a part; that of a layer is the sum over its parts; None for heads and neurons, which have none."""
    if not gains or ":" in part:
        return None
    return gains[layer, part] if part else gains[layer, ATTENTION] + gains[layer, FFN]


def mix_of(keys: Sequence[Key]) -> SkipSet:
    """Return the mix in which these go: at most one piece of each block, or the whole layer."""
    lost: dict[int, tuple[str, str]] = {}
    for layer, part in keys:
        gone, own = lost.get(layer, ("", "")), pieces(part)
        lost[layer] = own[0] or gone[0], own[1] or gone[1]
    return ordered(unit_of(layer, join_pieces(*gone)) for layer, gone in lost.items())


def keys_of(mix: SkipSet) -> list[Key]:
    """Return what goes in a mix, piece by piece."""
    parts = map(split_unit, mix)
    return [(layer, piece) for layer, part in parts for piece in (filter(None, pieces(part)) if part else [""])]


def saved_by(mix: SkipSet, savings: Savings) -> np.ndarray:
    """Return what a mix saves, a share for each cell."""
    return np.sum([savings[key] for key in keys_of(mix)], axis=0) if mix else np.zeros(1)


def free_parts(spec: SelectionSpec, savings: Savings) -> dict[Key, np.ndarray]:
    """Return the savings of the layers that are not protected, by layer, leaving out what saves nothing."""
    return {
        key: savings[key] for key in sorted(savings) if key[0] not in spec.protect and savings[key].min() > ROUNDING
    }


def count_mixes(savings: Savings) -> int:
    """Return how many mixes there are, the full model left out."""
    layers = {layer for layer, _ in savings}
    own = {layer: [part for number, part in savings if number == layer] for layer in layers}
    blocks = {layer: [sum(bool(pieces(part)[block]) for part in own[layer]) for block in (0, 1)] for layer in layers}
    return prod(("" in own[layer]) + (1 + blocks[layer][0]) * (1 + blocks[layer][1]) for layer in layers) - 1


def shared_mixes(savings: Savings, layers: int) -> list[SkipSet]:
    """Return every mix of layers that are one: the last ones go, and those that stay lose the same of each block."""
    choices = [["", *dict.fromkeys(part for _, part in savings if part and pieces(part)[block])] for block in (0, 1)]
    made = []
    for stay, attention, ffn in product(range(layers, 0, -1), *choices):
        keys = [(layer, "") for layer in range(stay + 1, layers + 1)]
        keys += [(layer, piece) for layer in range(1, stay + 1) for piece in (attention, ffn) if piece]
        if keys and all(key in savings for key in keys):
            made.append(mix_of(keys))
    return made


def cheapest_mix(savings: Savings, damage: Mapping[Key, float], need: float, layers: int) -> SkipSet:
    """Return the mix of least damage, a sum over its pieces, that saves `need` in every cell.

    A linear program in whole numbers, solved exactly: a variable for each key, one piece a block, one layer at least that
    stays. There must be such a mix (`check_budget`).
    """
    table = np.array(list(savings.values()))
    found = milp(
        np.array([damage[key] for key in savings]),
        integrality=np.ones(len(savings)),
        bounds=Bounds(0, 1),
        constraints=[_choices(savings, layers), LinearConstraint(table.T, lb=need)],
        options={"mip_rel_gap": 0},
    )
    return mix_of([key for key, taken in zip(savings, found.x, strict=True) if taken > 0.5])


def fullest_mix(savings: Savings, layers: int) -> SkipSet:
    """Return the mix that saves the most in the cell where it saves the least; one layer stays, and may still lose parts.

    Parts that save much in one cell may save little in another, so that different layers may have to lose different parts:
    the same program, with one variable more for what is saved in every cell.
    """
    if not savings:
        return ()
    table = np.array(list(savings.values()))
    choices = _choices(savings, layers)
    limits = LinearConstraint(np.column_stack([choices.A, np.zeros(len(choices.A))]), ub=choices.ub)
    saved = np.column_stack([table.T, -np.ones(table.shape[1])])
    found = milp(
        -np.eye(len(savings) + 1)[-1],
        integrality=np.append(np.ones(len(savings)), 0),
        bounds=Bounds(0, np.append(np.ones(len(savings)), np.inf)),
        constraints=[limits, LinearConstraint(saved, lb=0)],
        options={"mip_rel_gap": 0},
    )
    return mix_of([key for key, taken in zip(savings, found.x, strict=False) if taken > 0.5])


def _choices(savings: Savings, layers: int) -> LinearConstraint:
    """Return that a layer goes as a whole or loses one piece at most of each block, and that not all layers go."""
    rows = [
        [number == layer and (not part or bool(pieces(part)[block])) for number, part in savings]
        for layer in sorted({number for number, _ in savings})
        for block in (0, 1)
    ]
    rows.append([not part for _, part in savings])
    return LinearConstraint(np.array(rows, dtype=float), ub=[1] * (len(rows) - 1) + [layers - 1])
