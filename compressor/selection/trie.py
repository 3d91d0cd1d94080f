"""The trie of skip sets: walk any sets by real forward passes, each kept prefix once.

A skip set is a path through a binary trie (keep or skip layer 1, layer 2, ...). Walking it depth-first computes each
kept prefix once: all 2^L sets cost 2^L - 1 layer applications, and at most L + 1 states are alive, of as many rows at a
time as fit into a memory budget.
"""

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from compressor.model.capture import LayerCall, apply_layer

SkipSet = tuple[int, ...]
STATES_BUDGET = 2**30
"""Bytes of hidden states that the depth-first walk may keep alive, and of final [CLS] states that may wait beside it."""


def walk_sets(
    layers: Sequence[nn.Module],
    calls: Sequence[LayerCall],
    sets: Sequence[SkipSet],
    applied: Callable[[], None] = lambda: None,
) -> Iterator[tuple[SkipSet, list[Tensor]]]:
    """Yield (skip set, final hidden states per batch) of every set, in trie order; `applied` is called per application."""

    def walk(index: int, hidden: list[Tensor], members: list[SkipSet]) -> Iterator[tuple[SkipSet, list[Tensor]]]:
        if index == len(layers):
            yield members[0], hidden
            return
        skipping = [member for member in members if index + 1 in member]
        keeping = [member for member in members if index + 1 not in member]
        if keeping:
            after = apply_layer(layers[index], calls, hidden)
            applied()
            yield from walk(index + 1, after, keeping)
            del after
        if skipping:
            yield from walk(index + 1, hidden, skipping)

    if sets:
        yield from walk(0, [call.hidden for call in calls], sorted(set(sets)))


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
    # keeping comes before skipping at every layer, as in `walk_sets`
    order = sorted(set(sets), key=lambda member: [layer in member for layer in range(1, layers + 1)])
    return [order[start : start + size] for start in range(0, len(order), size)]


def count_applications(layers: int, sets: Sequence[SkipSet]) -> int:
    """Return how many layer applications `walk_sets` needs: the kept prefixes that the sets have between them."""
    return len(
        {
            (layer, tuple(skipped for skipped in member if skipped < layer))
            for member in sets
            for layer in range(1, layers + 1)
            if layer not in member
        }
    )
