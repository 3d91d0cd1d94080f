"""Which sets of layers may go: all that leave one or, where a layer's kind is tied to its place, those whose rest has a period.

A stock model of such a family (`families.layer_kinds`) gives a layer its kind by its place: every n-th attends globally. What
stays of a set must therefore be periodic again, and begin with layer 1 (`units.kept_period`); n may be another than before.
Where all layers are one, sets of a size leave the same model: the last layers are the one set that stands for them.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import combinations, islice
from math import comb

from compressor.errors import UserError
from compressor.model.surgery import kept_layers, why_not
from compressor.model.units import kept_period, next_period
from compressor.selection.trie import SkipSet

Kinds = tuple[bool | None, ...] | None
"""Of each layer whether it attends globally, None for one that is the same as all; None where any set may go."""
SHOWN = 8
"""Sets that a message names at most."""
_State = tuple[int, int, int, int]
"""(layers decided on, how many of them stay, the period of these or 0, how many more must go)."""


def may_go(skip: SkipSet, kinds: Kinds) -> bool:
    """Return whether a stock model can be made of what stays without the layers `skip`."""
    return kinds is None or kept_period(kinds, kept_layers(len(kinds), skip)) is not None


def allowed_sets(layers: int, size: int, protect: Sequence[int] = (), kinds: Kinds = None) -> Iterator[SkipSet]:
    """Yield every set of `size` unprotected layers out of 1..`layers` that may go, in the order of `combinations`."""
    if kinds is None:
        yield from combinations([layer for layer in range(1, layers + 1) if layer not in protect], size)
        return
    guarded = frozenset(protect)

    def walk(gone: SkipSet, state: _State) -> Iterator[SkipSet]:
        if state[0] == layers:
            yield gone
            return
        for goes, following in _steps(kinds, guarded, state):
            if _ways(kinds, guarded, following):
                yield from walk((*gone, state[0] + 1) if goes else gone, following)

    yield from walk((), (0, 0, 0, size))


def count_sets(layers: int, size: int, protect: Sequence[int] = (), kinds: Kinds = None) -> int:
    """Return how many sets `allowed_sets` yields."""
    if kinds is None:
        return comb(layers - len(set(protect)), size)
    return _ways(kinds, frozenset(protect), (0, 0, 0, size))


def check_allowed(skip: SkipSet, size: int | None, protect: Sequence[int], kinds: Kinds) -> None:
    """Raise UserError, naming what is allowed, where the set `skip` (if any) may not go, or no set of `size` (None: any)."""
    if kinds is None:
        return
    layers = len(kinds)
    sizes = [other for other in range(1, layers) if count_sets(layers, other, protect, kinds)]
    if not sizes:
        raise UserError(f"selection.protect: without these layers no set can be skipped: {why_not(kinds)}.")
    if size is not None and size not in sizes:
        raise UserError(
            f"selection.layers: no set of {size} layers can be skipped: {why_not(kinds)}; numbers that have one: "
            f"{', '.join(map(str, sizes))}."
        )
    if skip and not may_go(skip, kinds):
        named = [f"[{', '.join(map(str, found))}]" for found in islice(allowed_sets(layers, size, (), kinds), SHOWN)]
        more = count_sets(layers, size, (), kinds) - len(named)
        raise UserError(
            f"selection.skip: [{', '.join(map(str, sorted(skip)))}] cannot be skipped: {why_not(kinds)}; of {size} "
            f"layer{'s' if size > 1 else ''} can go {', '.join(named)}{f' and {more:,} more' if more else ''}."
        )


def _steps(kinds: tuple[bool | None, ...], protect: frozenset[int], state: _State) -> Iterator[tuple[bool, _State]]:
    """Yield (whether the next layer goes, what follows) of what may be done with it; the first one must stay."""
    decided, place, period, left = state
    if place and left and decided + 1 not in protect:
        yield True, (decided + 1, place, period, left - 1)
    if kinds[decided] is None:  # layers that are one: nothing stays behind what goes
        following = 0 if place == decided else None
    else:
        following = next_period(kinds[decided], place, period) if place else 0
    if following is not None:
        yield False, (decided + 1, place + 1, following, left)


@lru_cache(maxsize=2**20)
def _ways(kinds: tuple[bool | None, ...], protect: frozenset[int], state: _State) -> int:
    """Return in how many ways the layers that are not decided on can be, so that as many go as must."""
    if state[0] == len(kinds):
        return int(not state[3])
    return sum(_ways(kinds, protect, following) for _, following in _steps(kinds, protect, state))
