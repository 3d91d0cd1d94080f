"""Search for the layers to skip, over the trie of skip sets, by trials on the selection split."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from compressor.errors import UserError
from compressor.model.surgery import check_skip
from compressor.model.units import whole_layers
from compressor.recipe.compression import GoalsSpec, SelectionSpec
from compressor.selection.allowed import Kinds, allowed_sets, check_allowed, count_sets, may_go
from compressor.selection.goals import Choice, choose
from compressor.selection.guided import guided_search, tenth
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import SkipSet

Evaluate = Callable[[Sequence[SkipSet], str], list[Trial]]
MOST_SETS = 50_000
"""Sets that an exhaustive search takes on: all of 15 layers, or 4 of 32."""
RankedSets = Callable[[int], SkipSet]
"""Number of layers -> the set that the chosen score would skip, without any trial."""


@dataclass(frozen=True)
class Part:
    """What leaving out one part of one layer (or the `layer`) saves, and the damage that it does alone, in nats.

    `saves` is a share of the encoder's cost (`of: latency`: the smallest over the cells), `gain` what it adds to the
    separability of the [CLS] state, None for heads and neurons, of which no state speaks; `damage` is the divergence from
    the full model to second order, its stand-in fitted.
    """

    layer: int
    part: str
    saves: float
    gain: float | None
    damage: float


@dataclass(frozen=True)
class Mix:
    """What a budget asked for and what the chosen mix leaves.

    `keep` is the share of the encoder's cost that may remain, `kept` the share that remains (`of: latency`: the largest
    over the cells). `ffn_widths` (of `full_width`), `attention` (whether a layer attends) and `heads` (of `full_heads`) are
    those of the layers that stay, `parts` all that could go; `meeting` counts the mixes tried that meet the budget.
    `gain_rho`: Spearman correlation of gain and damage over `parts`; `expected`: the damage that the mix was expected to
    do, in nats.
    """

    units: tuple[str, ...]
    keep: float
    of: str
    kept: float
    ffn_widths: tuple[int, ...]
    attention: tuple[bool, ...]
    heads: tuple[int, ...]
    full_heads: int
    full_width: int
    parts: tuple[Part, ...]
    gain_rho: float | None
    meeting: int
    expected: float


@dataclass(frozen=True)
class SkipPlan:
    """The chosen layers and how they were found.

    `ranked` is the trial of the set that the score `rank_by` alone would skip, `regret` what it loses against the best
    found of that size. `trace` holds the trials of the search, by size, best first. `sets_known` of the sets were tried
    before; the others took `seconds`, and `predicted_seconds` were expected. `units` is all that goes, parts of layers too;
    `mix` is there where a budget was given, and `trace` then holds the mixes that meet it.
    """

    skip: SkipSet
    keep: SkipSet
    search: str
    rank_by: str
    layers: int
    layers_asked: int | str
    rows: int
    sets_evaluated: int
    sets_known: int
    sets_total: int
    layer_applications: int
    predicted_seconds: float
    seconds: float
    chosen: Trial
    ranked: Trial | None
    regret: dict[str, float] | None
    goals: Choice | None
    trace: tuple[Trial, ...]
    units: SkipSet = ()
    mix: Mix | None = None


class Search:
    """What a search has tried so far, and what that took."""

    def __init__(self, trials: Trials) -> None:
        self.trials, self.started = trials, time.perf_counter()
        self.tried: dict[SkipSet, Trial] = {}
        self.applications, self.predicted, self.known = 0, 0.0, 0

    def __call__(self, sets: Sequence[SkipSet], description: str) -> list[Trial]:
        """Return the trials of `sets`, of which only the new ones are counted."""
        new = [member for member in dict.fromkeys(sets) if member not in self.tried]
        if new:
            self.applications += self.trials.applications(new)
            self.predicted += self.trials.seconds(new)
            self.known += len(new) - len(self.trials.unknown(new))
            self.tried.update(zip(new, self.trials(new, description), strict=True))
        return [self.tried[member] for member in sets]

    def plan(
        self, spec: SelectionSpec, chosen: Trial, ranked: Trial | None, best: Trial | None, **fields: object
    ) -> SkipPlan:
        """Return the plan that takes `chosen`; `best` is what `ranked` is held against, `fields` what searches differ in."""
        layers, skip = len(self.trials.layers), whole_layers(chosen.skip)
        return SkipPlan(
            skip=skip,
            keep=tuple(layer for layer in range(1, layers + 1) if layer not in skip),
            search=spec.search,
            rank_by=spec.rank_by,
            layers=layers,
            rows=self.trials.counted,
            sets_evaluated=len(self.tried),
            sets_known=self.known,
            layer_applications=self.applications,
            predicted_seconds=self.predicted,
            seconds=time.perf_counter() - self.started,
            chosen=chosen,
            ranked=ranked,
            regret=ranked and {"agreement": best.agreement - ranked.agreement, "kl": ranked.kl - best.kl},
            units=chosen.skip,
            **fields,
        )


def find_plan(
    trials: Trials, ranked: RankedSets, spec: SelectionSpec, goals: GoalsSpec | None = None, *, readout: bool = True
) -> SkipPlan:
    """Choose the layers to skip by trials; with `layers: auto`, as many as the goals allow.

    `readout` says whether the goals judge a set after the readout, which stands for the head to come, or as it is.
    """
    search, layers, kinds = Search(trials), len(trials.layers), trials.kinds
    check_selection(spec, layers, goals, kinds)
    sizes = wanted_sizes(spec, layers, kinds)
    SEARCHES[spec.search](search, layers, sizes, ranked, spec, kinds)
    if spec.search not in {"ranked", "fixed"}:  # before anything is chosen: it may be better than what the search found
        by_scores = [ranked(size) for size in sizes if size]
        search([skip for skip in by_scores if not set(skip) & set(spec.protect)], "ranked plans")
    total, choice = sets_total(spec, layers, kinds), None
    if spec.layers == "auto":
        some = [trial for skip, trial in search.tried.items() if skip]
        choice = choose(some, goals, choices=total - 1, rows=trials.counted, readout=readout)
        chosen = search.tried[choice.skip]
    else:
        chosen = best_by_size(search.tried.values())[spec.layers]
    by_score = best = None
    if spec.search not in {"ranked", "fixed"}:
        size = len(chosen.skip)
        by_score = search([ranked(size)], "ranked plan")[0]
        best = best_by_size(search.tried.values())[size]
    trace = tuple(sorted(search.tried.values(), key=lambda trial: (len(trial.skip), trial.cost)))
    return search.plan(
        spec, chosen, by_score, best, layers_asked=spec.layers, sets_total=total, goals=choice, trace=trace
    )


def best_by_size(trials: Iterable[Trial]) -> dict[int, Trial]:
    """Return the best trial of every number of skipped layers that was tried, smallest first."""
    best: dict[int, Trial] = {}
    for trial in sorted(trials, key=lambda trial: (len(trial.skip), trial.cost)):
        best.setdefault(len(trial.skip), trial)
    return best


def wanted_sizes(spec: SelectionSpec, layers: int, kinds: Kinds = None) -> list[int]:
    """Return the numbers of layers that the search looks at: the one asked for, or with `auto` all from 0 that may go."""
    if spec.layers != "auto":
        return [spec.layers]
    return [size for size in range(layers) if count_sets(layers, size, spec.protect, kinds)]


def candidate_sets(layers: int, sizes: Sequence[int], protect: Sequence[int], kinds: Kinds = None) -> list[SkipSet]:
    """Return every set of as many unprotected layers out of 1..`layers` as one of `sizes` says, of those that may go."""
    return [skip for size in sizes for skip in allowed_sets(layers, size, protect, kinds)]


def sets_total(spec: SelectionSpec, layers: int, kinds: Kinds = None) -> int:
    """Return how many sets of the sizes looked at there are to choose from."""
    return sum(count_sets(layers, size, spec.protect, kinds) for size in wanted_sizes(spec, layers, kinds))


def check_selection(spec: SelectionSpec, layers: int, goals: GoalsSpec | None = None, kinds: Kinds = None) -> None:
    """Raise UserError where the recipe's selection does not fit a model of `layers` layers, or `auto` has no goal.

    `kinds` is there where not every set of layers may go (`selection/allowed.py`).
    """
    check_skip(spec.protect[:1] if len(spec.protect) >= layers else spec.protect, layers, "selection.protect")
    if spec.skip is not None:
        check_skip(spec.skip, layers)
    free = layers - len(set(spec.protect))
    if spec.layers == "auto":
        if goals is None or (goals.max_drop is None and goals.max_flips is None):
            raise UserError(
                "selection.layers: auto takes as many layers as the goals allow; set goals.max_drop or goals.max_flips."
            )
        if layers == 1:
            raise UserError("selection.layers: the model has one layer, and skipping it would leave none.")
        if free < 1:
            raise UserError("selection.protect: all layers are protected, so none can be skipped.")
        check_allowed((), None, spec.protect, kinds)
    elif spec.layers >= layers:
        raise UserError(
            f"selection.layers: cannot skip {spec.layers} of the model's {layers} layers; skip at most {layers - 1}."
        )
    elif spec.layers > free:
        raise UserError(
            f"selection.layers: cannot skip {spec.layers} layers, only {free} of {layers} are not in selection.protect."
        )
    elif spec.budget is None:
        check_allowed(tuple(spec.skip or ()), spec.layers, spec.protect, kinds)
    total = sets_total(spec, layers, kinds)
    if spec.search in {"exhaustive", "guided"} and total > MOST_SETS:
        beam = spec.model_copy(update={"search": "beam"})
        raise UserError(
            f"selection.search: {spec.search} would {'try' if spec.search == 'exhaustive' else 'choose among'} {total:,} sets of "
            f"the model's {layers} layers; use search: beam, which tries at most {most_sets(beam, layers, kinds):,}."
        )


def most_sets(spec: SelectionSpec, layers: int, kinds: Kinds = None) -> int:
    """Return the largest number of sets that a greedy, beam or guided search tries, those that the score names included."""
    width, free = 1 if spec.search == "greedy" else spec.beam_width, layers - len(set(spec.protect))
    sizes = wanted_sizes(spec, layers, kinds)
    by_score = sum(size > 0 for size in sizes)
    counts = {size: count_sets(layers, size, spec.protect, kinds) for size in range(max(sizes) + 1)}
    if spec.search == "guided":
        return sum(tenth(counts[size]) for size in sizes) + by_score
    return sum(min(counts[size], width * (free - size + 1)) for size in range(1, max(sizes) + 1)) + by_score


def _widening(evaluate: Evaluate, layers: int, sizes: list[int], spec: SelectionSpec, width: int, kinds: Kinds) -> None:
    """Try, for one layer more at a time, every layer added to each of the `width` best sets of the size before.

    Where not every set may go, that alone would miss those that no single layer leads to: of a size that has no more sets
    than would be tried, all are, and where none grows out of the size before, the first sets of the size.
    """
    description = "greedy search" if spec.search == "greedy" else f"beam search of width {width}"
    if 0 in sizes:
        evaluate([()], "full model")
    frontier: list[SkipSet] = [()]
    free = [layer for layer in range(1, layers + 1) if layer not in spec.protect]
    for size in range(1, max(sizes) + 1):
        most = width * (len(free) - size + 1)
        wider = {tuple(sorted((*skip, layer))) for skip in frontier for layer in free if layer not in skip}
        wider = {skip for skip in wider if may_go(skip, kinds)}
        if not wider or (kinds and count_sets(layers, size, spec.protect, kinds) <= most):
            wider = islice(allowed_sets(layers, size, spec.protect, kinds), most)
        found = evaluate(sorted(wider), f"{description}, {size} skipped")
        frontier = [trial.skip for trial in sorted(found, key=lambda trial: trial.cost)[:width]]


def _order(ranked: RankedSets, layers: int, protect: Sequence[int], kinds: Kinds) -> list[int]:
    """Return the free layers as the score's sets of 1, 2, ... layers take them up."""
    sizes = [size for size in range(1, layers + 1) if count_sets(layers, size, protect, kinds)]
    named = (layer for size in sizes for layer in ranked(size))
    return [layer for layer in dict.fromkeys((*named, *range(layers, 0, -1))) if layer not in protect]


def _guided(
    evaluate: Evaluate, layers: int, sizes: list[int], ranked: RankedSets, spec: SelectionSpec, kinds: Kinds
) -> None:
    sets_of = kinds and (lambda size: allowed_sets(layers, size, spec.protect, kinds))
    guided_search(evaluate, _order(ranked, layers, spec.protect, kinds), sizes, sets_of)


SEARCHES: Mapping[str, Callable[[Evaluate, int, list[int], RankedSets, SelectionSpec, Kinds], object]] = {
    "ranked": lambda evaluate, _layers, sizes, ranked, _spec, _kinds: evaluate(
        [ranked(size) for size in sizes], "ranked plans"
    ),
    "greedy": lambda evaluate, layers, sizes, _ranked, spec, kinds: _widening(evaluate, layers, sizes, spec, 1, kinds),
    "beam": lambda evaluate, layers, sizes, _ranked, spec, kinds: _widening(
        evaluate, layers, sizes, spec, spec.beam_width, kinds
    ),
    "guided": _guided,
    "exhaustive": lambda evaluate, layers, sizes, _ranked, spec, kinds: evaluate(
        candidate_sets(layers, sizes, spec.protect, kinds), "exhaustive search"
    ),
    "fixed": lambda evaluate, _layers, _sizes, _ranked, spec, _kinds: evaluate(
        [tuple(sorted(spec.skip))], "the recipe's set"
    ),
}
"""Search name -> function that tries the sets it wants; keys = SelectionSpec.search."""
