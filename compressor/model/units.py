"""Units of compression: a whole layer, or parts of it. How they are named, ordered and counted; no torch.

A unit is the number of a layer that goes as a whole (3), or text that names a layer and what it loses: `3.attention`,
`3.ffn`, `3.heads:4` for an attention block of which 4 heads stay, `3.ffn:384` for a feed-forward block of which 384 neurons
stay, or one of each, attention first: `3.heads:4+ffn:384`. A mix of units has at most one for a layer.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from compressor.errors import UserError

Unit = int | str
ATTENTION, HEADS, FFN = "attention", "heads", "ffn"
_PART = re.compile(rf"({ATTENTION}|{HEADS}:[1-9][0-9]*)?(?:(?:(?<=.)\+|^)({FFN}(?::[1-9][0-9]*)?))?")


@dataclass(frozen=True)
class Shape:
    """What each layer has: the width of its feed-forward block and its attention heads (0: no such block).

    `full_heads` is how many heads a layer of the stock model has, of the same size as those here. `stored` says how the
    weights lie on disk: `stock`, filled up with zeros, or `exact`. `ffn_maps` are the maps of a feed-forward block, 3 of one
    that is gated: a matter of the family, by which no shapes differ.
    """

    ffn_widths: tuple[int, ...]
    heads: tuple[int, ...]
    full_heads: int
    stored: Literal["stock", "exact"] = "stock"
    ffn_maps: int = field(default=2, compare=False)

    @property
    def attention(self) -> tuple[bool, ...]:
        """Return whether each layer attends."""
        return tuple(heads > 0 for heads in self.heads)

    def uniform(self) -> bool:
        """Return whether a stock class has this shape: one width for all, above 0, and all heads everywhere."""
        return len(set(self.ffn_widths)) == 1 and self.ffn_widths[0] > 0 and set(self.heads) == {self.full_heads}

    @classmethod
    def even(cls, layers: int, width: int, heads: int) -> "Shape":
        """Return the shape of a stock model."""
        return cls((width,) * layers, (heads,) * layers, heads)

    def each(self) -> "list[Shape]":
        """Return the shapes of the single layers."""
        rows = zip(self.ffn_widths, self.heads, strict=True)
        return [replace(self, ffn_widths=(width,), heads=(heads,)) for width, heads in rows]

    def as_config(self) -> dict[str, Any]:
        """Return the entry of config.json."""
        entry = {"ffn_widths": list(self.ffn_widths), "heads": list(self.heads)}
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


def plan_units(plan: Mapping[str, Any]) -> list[Unit]:
    """Return what a stored plan leaves out; plans of earlier versions name whole layers alone."""
    return plan.get("units", plan["skip"])


def pieces(part: str) -> tuple[str, str]:
    """Return what goes of the attention block and of the feed-forward block, "" for nothing; ("", "") for a whole layer.

    Raises UserError for text that names no part.
    """
    found = _PART.fullmatch(part)
    if found is None:
        raise UserError(
            f"{part!r} is no part of a layer; name {ATTENTION} or {HEADS}:K, {FFN} or {FFN}:W (K heads or W neurons stay), "
            f"or one of each, such as {HEADS}:4+{FFN}:384."
        )
    return found[1] or "", found[2] or ""


def join_pieces(attention: str, ffn: str) -> str:
    """Return the part of these two pieces, of which one may be ""."""
    return "+".join(filter(None, (attention, ffn)))


def heads_left(part: str, heads: int) -> int:
    """Return how many heads an attention block of `heads` has when `part` is gone."""
    return _left(pieces(part)[0], heads)


def neurons_left(part: str, width: int) -> int:
    """Return how many neurons a feed-forward block of `width` has when `part` is gone."""
    return _left(pieces(part)[1], width)


def _left(piece: str, size: int) -> int:
    name, _, count = piece.partition(":")
    return int(count or 0) if name else size


def has_part(part: str, width: int, heads: int) -> bool:
    """Return whether a layer of `width` neurons and `heads` (0: no such block) has `part` to lose, all pieces of it."""
    attention, ffn = pieces(part)
    return (not attention or _left(attention, heads) < heads) and (not ffn or _left(ffn, width) < width)


def shape_left(units: Collection[Unit], full: Shape) -> Shape:
    """Return the shape of what is left of a model with the shape `full`."""
    losses = dict(map(split_unit, units))
    rows = enumerate(zip(full.ffn_widths, full.heads, strict=True), start=1)
    kept = [(losses.get(layer) or "", *row) for layer, row in rows if losses.get(layer) != ""]
    return replace(
        full,
        ffn_widths=tuple(neurons_left(part, width) for part, width, _ in kept),
        heads=tuple(heads_left(part, heads) for part, _, heads in kept),
        stored="stock",
    )


def next_period(kind: bool, place: int, period: int) -> int | None:
    """Return the period of a stack whose next layer, at `place` (from 0), is of this kind, None where no stack goes on so.

    `period` is that of the layers in front, 0 while only the first of them attends globally.
    """
    if not period:
        return place if kind else 0
    return period if kind == (place % period == 0) else None


def kept_period(kinds: Sequence[bool | None], keep: Sequence[int]) -> int | None:
    """Return a period by which a stock model gives each of the layers `keep` (from 1) its own kind; None: there is none.

    Layer 1 must stay, since it alone has no norm in front of its attention. What else is tied to the place, the base of
    the rotary positions and the window, goes with the kind. Of layers that are one (kind None) the first ones stay, each
    the same as the next.
    """
    if None in kinds:
        return 1 if list(keep) == list(range(1, len(keep) + 1)) else None
    period: int | None = None if 1 not in keep else 0
    for place, layer in enumerate(keep):
        if place and period is not None:
            period = next_period(kinds[layer - 1], place, period)
    return len(keep) if period == 0 else period


def unit_words(units: Iterable[Unit]) -> str:
    """Return what goes in words: `layers 2 and 4, the FFN of layer 3 and all but 384 FFN neurons of layer 1`.

    None is `no layer`. What a layer loses of both its blocks is told apart: `all but 4 heads of layers 1 and 3`.
    """
    groups: dict[str, list[int]] = {}
    for layer, part in sorted(map(split_unit, units)):
        for piece in filter(None, pieces(part)) if part else [""]:
            groups.setdefault(piece, []).append(layer)
    return _and([_piece_words(piece, layers) for piece, layers in groups.items()]) if groups else "no layer"


def _piece_words(piece: str, layers: Sequence[int]) -> str:
    which = f"layer{'s' if len(layers) > 1 else ''} {_and(list(map(str, layers)))}"
    name, _, count = piece.partition(":")
    if not count:
        return {"": which, FFN: f"the FFN of {which}", ATTENTION: f"the attention of {which}"}[name]
    kind = {HEADS: "head", FFN: "FFN neuron"}[name]
    return f"all but {count} {kind}{'s' if int(count) > 1 else ''} of {which}"


def _and(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else words[0]
