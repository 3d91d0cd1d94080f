"""Units of compression: a whole layer, or one of its parts. How they are named, ordered and counted; no torch.

A unit is the number of a layer that goes as a whole (3), or text that names a layer and what it loses: `3.attention`,
`3.ffn`, or `3.ffn:384` for a feed-forward block of which 384 neurons stay. A mix of units has at most one for a layer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Unit = int | str
ATTENTION, FFN = "attention", "ffn"


@dataclass(frozen=True)
class Shape:
    """What each layer has: the width of its feed-forward block (0: none) and whether it attends.

    `stored` says how the weights lie on disk: `stock`, filled up with zeros, or `exact`.
    """

    ffn_widths: tuple[int, ...]
    attention: tuple[bool, ...]
    stored: Literal["stock", "exact"] = "stock"

    def uniform(self) -> bool:
        """Return whether a stock class has this shape: one width for all, above 0, and attention everywhere."""
        return len(set(self.ffn_widths)) == 1 and self.ffn_widths[0] > 0 and all(self.attention)

    @classmethod
    def even(cls, layers: int, width: int) -> "Shape":
        """Return the shape of a stock model."""
        return cls((width,) * layers, (True,) * layers)

    def as_config(self) -> dict[str, Any]:
        """Return the entry of config.json."""
        entry = {"ffn_widths": list(self.ffn_widths), "attention": list(self.attention)}
        return entry if self.stored == "stock" else entry | {"stored": self.stored}


def unit_of(layer: int, part: str) -> Unit:
    """Return the unit of a layer (from 1) and a part; the part "" is the whole layer."""
    return f"{layer}.{part}" if part else layer


def split_unit(unit: Unit) -> tuple[int, str]:
    """Return the layer of a unit and the part that goes, "" for the whole layer; also the order of units."""
    if isinstance(unit, int):
        return unit, ""
    layer, _, part = unit.partition(".")
    return int(layer), part


def ordered(units: Iterable[Unit]) -> tuple[Unit, ...]:
    """Return the units by layer, each set of units having one order."""
    return tuple(sorted(units, key=split_unit))


def whole_layers(units: Iterable[Unit]) -> tuple[int, ...]:
    """Return the layers that go as a whole."""
    return tuple(layer for layer, part in map(split_unit, units) if not part)


def parts_of(units: Iterable[Unit]) -> dict[int, str]:
    """Return layer -> part for the layers that stay and lose a part."""
    return {layer: part for layer, part in map(split_unit, units) if part}


def lost_parts(units: Iterable[Unit]) -> list[str]:
    """Return what goes of each layer that is named, "" for the whole of it."""
    return [part for _, part in map(split_unit, units)]


def plan_units(plan: Mapping[str, Any]) -> list[Unit]:
    """Return what a stored plan leaves out; plans of earlier versions name whole layers alone."""
    return plan.get("units", plan["skip"])


def neurons_left(part: str, width: int) -> int:
    """Return how many neurons a feed-forward block of `width` has when `part` is gone."""
    if part == FFN:
        return 0
    return int(part.removeprefix(f"{FFN}:")) if part.startswith(f"{FFN}:") else width


def has_part(part: str, width: int, attention: bool) -> bool:
    """Return whether a layer with a feed-forward block of `width` (0: none) and attention or none has `part` to lose."""
    return attention if part == ATTENTION else not part or neurons_left(part, width) < width


def shape_left(units: Collection[Unit], full: Shape) -> Shape:
    """Return the shape of what is left of a model with the shape `full`."""
    losses = dict(map(split_unit, units))
    rows = zip(full.ffn_widths, full.attention, strict=True)
    kept = [(losses.get(layer), *row) for layer, row in enumerate(rows, start=1) if losses.get(layer) != ""]
    return Shape(
        tuple(neurons_left(part or "", width) for part, width, _ in kept),
        tuple(attends and part != ATTENTION for part, _, attends in kept),
    )


def unit_words(units: Iterable[Unit]) -> str:
    """Return what goes in words: `layers 2 and 4, the FFN of layer 3 and all but 384 FFN neurons of layer 1`.

    None is `no layer`.
    """
    groups: dict[str, list[int]] = {}
    for layer, part in sorted(map(split_unit, units)):
        groups.setdefault(part, []).append(layer)
    return _and([_part_words(part, layers) for part, layers in groups.items()]) if groups else "no layer"


def _part_words(part: str, layers: Sequence[int]) -> str:
    which = f"layer{'s' if len(layers) > 1 else ''} {_and(list(map(str, layers)))}"
    named = {"": which, FFN: f"the FFN of {which}", ATTENTION: f"the attention of {which}"}
    return named.get(part) or f"all but {neurons_left(part, 0)} FFN neurons of {which}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
