"""The trie of skip sets: walk any sets by real forward passes, each kept prefix once.

A skip set is a path through a trie (keep or skip layer 1, layer 2, ...; or run a stand-in that lacks a part of the
layer). Walking it depth-first computes each kept prefix once: all 2^L sets of layers cost 2^L - 1 layer applications, and
at most L + 1 states are alive, of as many rows at a time as fit into a memory budget.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torch import Tensor, nn

from compressor.model.capture import LayerCall, apply_layer
from compressor.model.units import Unit, split_unit

SkipSet = tuple[Unit, ...]
"""Layers that are skipped and parts that go, by layer."""
StandIns = Mapping[tuple[int, str], nn.Module]
"""(layer from 1, part) -> the layer without that part."""
STATES_BUDGET = 2**30
"""Bytes of hidden states that the depth-first walk may keep alive, and of final [CLS] states that may wait beside it."""


def walk_sets(
    layers: Sequence[nn.Module],
    calls: Sequence[LayerCall],
    sets: Sequence[SkipSet],
    applied: Callable[[], None] = lambda: None,
    stand_ins: StandIns | None = None,
) -> Iterator[tuple[SkipSet, list[Tensor]]]:
    """Yield (skip set, final hidden states per batch) of every set, in trie order; `applied` is called per application."""

    def walk(index: int, hidden: list[Tensor], members: list[SkipSet]) -> Iterator[tuple[SkipSet, list[Tensor]]]:
        if index == len(layers):
            yield members[0], hidden
            return
        branches: dict[str | None, list[SkipSet]] = {}
        for member in members:
            branches.setdefault(losses[member].get(index + 1), []).append(member)
        for part in sorted(branches, key=_branch_order):
            if part == "":
                yield from walk(index + 1, hidden, branches[part])
                continue
            layer = layers[index] if part is None else stand_ins[index + 1, part]
            after = apply_layer(layer, calls, hidden)
            applied()
            yield from walk(index + 1, after, branches[part])
            del after

    losses = {member: dict(map(split_unit, member)) for member in sets}
    if sets:
        yield from walk(0, [call.hidden for call in calls], list(losses))


def call_groups(calls: Sequence[LayerCall], layers: int, budget: int = STATES_BUDGET) -> list[list[LayerCall]]:
    """Return the batches in groups whose states, one a layer, fit into `budget` bytes; the walk takes one at a time."""
    groups: list[list[LayerCall]] = []
    used = budget
    for call in calls:
        size = call.hidden.nbytes * (layers + 1)
        if used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append(call)
        used += size
    return groups


def set_chunks(sets: Sequence[SkipSet], size: int, layers: int) -> list[list[SkipSet]]:
    """Return the sets in chunks of at most `size`, in the order of the walk, so that each chunk shares its prefixes."""
    losses = {member: dict(map(split_unit, member)) for member in sets}
    order = sorted(losses, key=lambda member: [_branch_order(losses[member].get(layer + 1)) for layer in range(layers)])
    return [order[start : start + size] for start in range(0, len(order), size)]


def count_applications(layers: int, sets: Sequence[SkipSet]) -> int:
    """Return how many layer applications `walk_sets` needs: the kept prefixes that the sets have between them."""
    needed = set()
    for member in sets:
        losses = dict(map(split_unit, member))
        path = tuple(losses.get(layer + 1) for layer in range(layers))
        needed |= {path[: layer + 1] for layer in range(layers) if path[layer] != ""}
    return len(needed)


def _branch_order(part: str | None) -> tuple[int, str]:
    """Keeping a layer comes first, then its parts, then skipping it."""
    return (0 if part is None else 2 if part == "" else 1), part or ""
