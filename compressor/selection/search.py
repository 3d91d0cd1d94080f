"""Search for the layers to skip, by real forward passes that share prefixes.

A skip set is a path through a binary trie (keep or skip layer 1, layer 2, ...). Walking it depth-first computes each
kept prefix once: all 2^L sets cost 2^L - 1 layer applications, and at most L + 1 states are alive, of as many rows at a
time as fit into a memory budget.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import torch
from torch import Tensor, nn

from compressor.compensation.readout import crossfit_readout
from compressor.errors import UserError
from compressor.measurement.statistics import kl_divergence
from compressor.model.capture import LayerCall, apply_layer
from compressor.model.families import Family, head_logits, layer_list
from compressor.model.surgery import check_skip
from compressor.progress import Track, silent
from compressor.recipe import SelectionSpec

SkipSet = tuple[int, ...]
STATES_BUDGET = 2**31
"""Bytes of hidden states that the depth-first walk may keep alive."""


@dataclass(frozen=True)
class Trial:
    """What skipping `skip` costs on the selection split, against the full model.

    `agreement` and `kl` (nats) after a cross-fitted closed-form readout; `raw_agreement` with the stock head as it is.
    """

    skip: SkipSet
    agreement: float
    kl: float
    raw_agreement: float

    @property
    def cost(self) -> tuple[float, float, SkipSet]:
        """Sort key: agreement first, then KL, then the layer numbers, so that ties have one answer."""
        return (-self.agreement, self.kl, self.skip)


@dataclass(frozen=True)
class SkipPlan:
    """The chosen layers and how they were found. `regret` is what the ranked plan loses against the best found."""

    skip: SkipSet
    keep: SkipSet
    search: str
    layers: int
    sets_evaluated: int
    sets_total: int
    layer_applications: int
    seconds: float
    chosen: Trial
    ranked: Trial | None
    regret: dict[str, float] | None
    trace: tuple[Trial, ...]


Evaluate = Callable[[Sequence[SkipSet]], list[Trial]]


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


def ranked_set(gains: dict[int, float], count: int, protect: Sequence[int]) -> SkipSet:
    """Return the `count` layers of lowest gain, protected ones left out; equal gains skip the later layer first."""
    free = [layer for layer in gains if layer not in protect]
    return tuple(sorted(sorted(free, key=lambda layer: (gains[layer], -layer))[:count]))


def find_plan(
    model: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    teacher: Tensor,
    gains: dict[int, float],
    spec: SelectionSpec,
    *,
    track: Track = silent,
) -> SkipPlan:
    """Choose the layers to skip; judge every set tried by forward passes over the captured rows.

    `calls` and `teacher` (logits [N, C]) are those of `capture_calls` on the selection split, never on evaluation data.
    """
    started = time.perf_counter()
    layers = list(layer_list(model, family))
    check_selection(spec, len(layers))
    trials: dict[SkipSet, Trial] = {}
    applications = 0
    groups = call_groups(calls, len(layers))
    row_order = torch.cat([call.rows for call in calls]).argsort().to(calls[0].hidden.device)

    def evaluate(sets: Sequence[SkipSet]) -> list[Trial]:
        nonlocal applications
        new = [member for member in sets if member not in trials]
        total = count_applications(len(layers), new)
        applications += total
        steps = total * len(groups)
        ticks = iter(track(range(steps), f"{spec.search} search, layer applications", total=steps))
        parts: dict[SkipSet, list[Tensor]] = {member: [] for member in new}
        for group in groups:
            for skip, hidden in walk_sets(layers, group, new, applied=lambda: next(ticks, None)):
                parts[skip].append(torch.cat([state[:, 0].float() for state in hidden]))
                if len(parts[skip]) == len(groups):
                    states = torch.cat(parts.pop(skip))[row_order]
                    trials[skip] = _judge(model, family, skip, states, teacher)
        next(ticks, None)  # closes the bar
        return [trials[member] for member in sets]

    ranked_skip = ranked_set(gains, spec.layers, spec.protect)
    chosen = SEARCHES[spec.search](evaluate, len(layers), ranked_skip, spec)
    ranked = evaluate([ranked_skip])[0] if spec.search in {"greedy", "exhaustive"} else None
    best = min(trials.values(), key=lambda trial: (len(trial.skip) != spec.layers, trial.cost))
    regret = {"agreement": best.agreement - ranked.agreement, "kl": ranked.kl - best.kl} if ranked else None
    return SkipPlan(
        skip=chosen.skip,
        keep=tuple(layer for layer in range(1, len(layers) + 1) if layer not in chosen.skip),
        search=spec.search,
        layers=len(layers),
        sets_evaluated=len(trials),
        sets_total=sets_total(spec, len(layers)),
        layer_applications=applications,
        seconds=time.perf_counter() - started,
        chosen=chosen,
        ranked=ranked,
        regret=regret,
        trace=tuple(sorted(trials.values(), key=lambda trial: (len(trial.skip), trial.cost))),
    )


def candidate_sets(layers: int, count: int, protect: Sequence[int]) -> list[SkipSet]:
    """Return every set of `count` unprotected layers out of 1..`layers`."""
    return list(combinations([layer for layer in range(1, layers + 1) if layer not in protect], count))


def sets_total(spec: SelectionSpec, layers: int) -> int:
    """Return how many sets of the asked size there are to choose from."""
    return comb(layers - len(set(spec.protect)), spec.layers)


def check_selection(spec: SelectionSpec, layers: int) -> None:
    """Raise UserError where the recipe's selection does not fit a model of `layers` layers."""
    check_skip(spec.protect[:1] if len(spec.protect) >= layers else spec.protect, layers, "selection.protect")
    if spec.skip is not None:
        check_skip(spec.skip, layers)
    if spec.layers >= layers:
        raise UserError(
            f"selection.layers: cannot skip {spec.layers} of the model's {layers} layers; skip at most {layers - 1}."
        )
    free = layers - len(set(spec.protect))
    if spec.layers > free:
        raise UserError(
            f"selection.layers: cannot skip {spec.layers} layers, only {free} of {layers} are not in selection.protect."
        )


def _judge(model: nn.Module, family: Family, skip: SkipSet, cls: Tensor, teacher: Tensor) -> Trial:
    with torch.inference_mode():
        raw = head_logits(model, family, cls).float().cpu()
    target = teacher.argmax(1)
    readout = torch.from_numpy(crossfit_readout(cls.cpu().numpy(), teacher.numpy()))
    return Trial(
        skip=skip,
        agreement=float((readout.argmax(1) == target).double().mean()),
        kl=kl_divergence(teacher.numpy(), readout.numpy()),
        raw_agreement=float((raw.argmax(1) == target).double().mean()),
    )


def _ranked(evaluate: Evaluate, _layers: int, ranked: SkipSet, _spec: SelectionSpec) -> Trial:
    return evaluate([ranked])[0]


def _fixed(evaluate: Evaluate, _layers: int, _ranked: SkipSet, spec: SelectionSpec) -> Trial:
    return evaluate([tuple(sorted(spec.skip or ()))])[0]


def _greedy(evaluate: Evaluate, layers: int, _ranked: SkipSet, spec: SelectionSpec) -> Trial:
    best = Trial((), 1.0, 0.0, 1.0)
    for _ in range(spec.layers):
        free = [layer for layer in range(1, layers + 1) if layer not in best.skip and layer not in spec.protect]
        best = min(evaluate([tuple(sorted((*best.skip, layer))) for layer in free]), key=lambda trial: trial.cost)
    return best


def _exhaustive(evaluate: Evaluate, layers: int, _ranked: SkipSet, spec: SelectionSpec) -> Trial:
    return min(evaluate(candidate_sets(layers, spec.layers, spec.protect)), key=lambda trial: trial.cost)


SEARCHES: dict[str, Callable[[Evaluate, int, SkipSet, SelectionSpec], Trial]] = {
    "ranked": _ranked,
    "greedy": _greedy,
    "exhaustive": _exhaustive,
    "fixed": _fixed,
}
"""Search name -> function that returns the chosen trial; keys = SelectionSpec.search."""
