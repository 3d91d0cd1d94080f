"""Widths of the feed-forward blocks of models that have equally many parameters, wherever their blocks are."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from compressor.errors import UserError, nearest
from compressor.recipe.placement import EncoderSpec, PlacementsSpec

UNIFORM = "uniform"
"""Name of the model whose layers all have the same block; every other one is compared with it."""
UNIT = 8
"""Widths are multiples of this where the uniform width is one: what matrix units like."""


@dataclass(frozen=True)
class Placement:
    """A model of the experiment: its name, the width of every layer's block, and, where it is of the grid, ratio (%), place."""

    name: str
    widths: tuple[int, ...]
    ratio: int | None = None
    place: str | None = None

    @property
    def off(self) -> tuple[int, ...]:
        """The layers (from 1) without a feed-forward block."""
        return tuple(layer for layer, width in enumerate(self.widths, start=1) if not width)


STARTS = {
    "first": lambda layers, count: 0,  # noqa: ARG005
    # an odd rest leaves the extra layer without a block at the top: 5 of 12 layers are 4..8, with 3 below and 4 above
    "middle": lambda layers, count: (layers - count) // 2,
    "last": lambda layers, count: layers - count,
}
"""Place -> layers below the first one that has a block; keys = the recipe's `Place`."""


def placed_layers(layers: int, ratio: int, place: str) -> list[int]:
    """Return the layers (from 1) with a block where `ratio` percent of `layers` have one: round(r L), at least 1.

    A half is rounded up. In the middle an odd rest leaves one more layer without a block above than below. Raises UserError
    for a ratio outside of 1..100 or an unknown place.
    """
    if not 1 <= ratio <= 100:
        raise UserError(f"placements.ratios: {ratio} % of the layers is impossible; give 1 to 100.")
    if place not in STARTS:
        raise UserError(
            f"placements.places: {place!r} is not known{nearest(place, STARTS) or ';'} use {', '.join(STARTS)}."
        )
    count = max(1, (ratio * layers + 50) // 100)
    start = STARTS[place](layers, count)
    return list(range(start + 1, start + count + 1))


def equal_widths(layers: int, width: int, chosen: Collection[int], where: str = "layers") -> tuple[int, ...]:
    """Return the width of each of `layers` blocks where only those of the layers `chosen` (from 1) exist.

    Their sum is exactly `layers` * `width`. A neuron has 2 H + 1 parameters, and a layer without a block keeps its output
    bias and its norm, so equal sums are equal parameters.
    Widths are multiples of gcd(width, 8); what cannot be shared evenly goes to the middlemost of the chosen, one unit each.
    Raises UserError for layers that do not exist, none, or one named twice.
    """
    wrong = [layer for layer in chosen if not 1 <= layer <= layers]
    if wrong or not chosen or len(set(chosen)) != len(chosen):
        problem = (
            f"layer {wrong[0]} does not exist"
            if wrong
            else "no layer is named"
            if not chosen
            else "a layer is named twice"
        )
        raise UserError(f"{where}: {problem}; name different layers of 1..{layers}.")
    unit = math.gcd(width, UNIT)
    share, rest = divmod(layers * width // unit, len(chosen))
    ordered = sorted(chosen)
    centre = (len(ordered) - 1) / 2
    wider = {ordered[index] for index in sorted(range(len(ordered)), key=lambda i: (abs(i - centre), i))[:rest]}
    return tuple(unit * (share + (layer in wider)) if layer in set(chosen) else 0 for layer in range(1, layers + 1))


def placements_of(spec: PlacementsSpec, encoder: EncoderSpec) -> list[Placement]:
    """Return the models of an experiment, the uniform one first; placements that coincide are there once.

    Raises UserError for widths of the wrong number or sum, layers that do not exist, or a name given twice.
    """
    layers, width = encoder.layers, encoder.width
    made = [Placement(UNIFORM, (width,) * layers, 100)]
    for ratio in sorted(spec.ratios):
        for place in STARTS:
            chosen = placed_layers(layers, ratio, place)
            if place in spec.places and len(chosen) < layers:
                made.append(Placement(f"{place}-{ratio}", equal_widths(layers, width, chosen), ratio, place))
    for number, named in enumerate(spec.explicit):
        where = f"placements.explicit.{number}"
        if named.layers is not None:
            widths = equal_widths(layers, width, named.layers, f"{where}.layers")
        else:
            widths = _checked(named.widths, layers, width, f"{where}.widths")
        made.append(Placement(named.name, widths))
    kept: dict[tuple[int, ...], Placement] = {}
    for placement in made:
        kept.setdefault(placement.widths, placement)
    names = [placement.name for placement in kept.values()]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"placements.explicit: the name {twice!r} stands for two placements; give another one.")
    return list(kept.values())


def _checked(widths: Sequence[int], layers: int, width: int, where: str) -> tuple[int, ...]:
    if len(widths) != layers:
        raise UserError(f"{where}: {len(widths)} widths for {layers} layers; give one for each, 0 for no block.")
    if sum(widths) != layers * width:
        raise UserError(
            f"{where}: the widths sum to {sum(widths)}, those of the uniform model to {layers * width}; make both equal."
        )
    return tuple(widths)
