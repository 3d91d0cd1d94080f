"""The stage that chooses what goes, by forward passes over the selection split."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from compressor.files import read_json, write_json
from compressor.model.capture import LayerCall
from compressor.model.families import layer_kinds, part_sizes
from compressor.model.sublayers import any_shape
from compressor.recipe.compression import BudgetSpec, SelectionSpec
from compressor.recipe.ship import ShipSpec
from compressor.run.arrays import ARRAYS, save_array
from compressor.run.run import Run
from compressor.run.savings import source_savings
from compressor.selection.allowed import Kinds
from compressor.selection.baselines import ranked_set
from compressor.selection.budget.mixes import ROUNDS, find_mix
from compressor.selection.budget.units import Savings, check_budget, latency_savings, least_left, part_names
from compressor.selection.search import Search, candidate_sets, find_plan, most_sets, wanted_sizes
from compressor.selection.ship import keeps_to
from compressor.selection.trie import StandIns, count_applications
from compressor.stages.selection import amounts, timing
from compressor.stages.selection.answers import answer_notes, check_answers
from compressor.stages.selection.trials import run_evidence, run_trials, selection_calls
from compressor.stages.stage import Stage

NOTHING = "none"
"""What a plan has for its search where the full model alone was tried."""
COUNTED = "sets_evaluated", "sets_known", "layer_applications", "predicted_seconds", "seconds"
"""What the searches of a run that decides what to ship add up to."""


def inputs(run: Run) -> dict[str, Any]:
    """Return what the plan depends on."""
    spec, goals, ship = run.recipe.selection, run.recipe.goals, run.recipe.ship
    unused = {"audit", "engine"} if spec.budget is not None else {"audit", "engine", "budget", "units", "widths"}
    inputs = {"selection": spec.model_dump(mode="json", exclude=unused), "split": run.data.selection.sha256}
    inputs |= run.task_inputs
    if spec.budget is not None and spec.budget.of == "latency":
        inputs["timing"] = timing.inputs(run)
    if ship is not None:
        inputs["ship"] = ship.model_dump(mode="json", exclude={"engines", "min_speedup"})
        inputs["train"] = run.data.train.sha256
    if spec.layers == "auto":
        inputs["goals"] = goals.model_dump(mode="json", include={"max_drop", "max_flips", "confidence"})
        inputs["head"] = run.recipe.compensation.head is not None
    return inputs


def compute(run: Run, folder: Path) -> None:
    """Choose the layers to skip by forward passes over the selection split."""
    spec, goals = run.recipe.selection, run.recipe.goals
    captured = selection_calls(run)
    check_answers(run, captured[1].numpy())
    if run.recipe.ship is not None:
        _make_composition(run, folder, captured)
        return
    if spec.budget is not None:
        _make_mix(run, folder, captured)
        return
    trials, logits = run_trials(run, captured=captured)
    evidence = run_evidence(run)
    plan = find_plan(
        trials,
        lambda size: ranked_set(spec.rank_by, evidence, size, spec.protect, trials.kinds),
        spec,
        goals,
        readout=run.recipe.compensation.head is not None,
    )
    write_json(folder / "plan.json", asdict(plan))
    save_array(folder, "selection_logits", logits)


def _make_composition(run: Run, folder: Path, captured: tuple[list[LayerCall], torch.Tensor]) -> None:
    """Choose what to leave out where the run decides what to ship: the least that remains while the goal is kept.

    Damage is that of the trials on the selection split, so nothing is built that would miss the goal there already. A
    smaller budget is not tried where a larger one misses it.
    """
    ship = run.recipe.ship
    spec = amounts.spec_of_parts(run.recipe)
    savings = source_savings(spec, run.source) if amounts.wanted(run.recipe) else {}
    damages = amounts.damages_of(run) if savings else None
    trials, logits = run_trials(run, _stand_ins(run, savings, spec.protect), captured)
    search = Search(trials)
    (whole,) = search([()], "full model")
    plan = search.plan(spec, whole, None, None, layers_asked="ship", sets_total=1, goals=None, trace=(whole,))
    plan = replace(plan, search=NOTHING)
    for keep in sorted(ship.keep, reverse=True) if savings else []:
        tried = spec.model_copy(update={"budget": BudgetSpec(keep=keep)})
        if run.late or keep < least_left(tried, savings, run.source.layers, one=bool(run.family.groups_key)):
            break
        found = find_mix(trials, savings, damages, tried, any_shape(run.source.config), _gains(run))
        if not keeps_to(ship, found.chosen, trials.counted):
            if plan.search == NOTHING:  # all layers stay, though not unsearched
                counted = {name: getattr(plan, name) + getattr(found, name) for name in COUNTED}
                plan = replace(plan, search=found.search, sets_total=found.sets_total, **counted)
            break
        plan = found
    write_json(folder / "plan.json", asdict(plan))
    save_array(folder, "selection_logits", logits)


def _stand_ins(run: Run, savings: Savings, protect: Sequence[int]) -> StandIns | None:
    """Return the layers without each part that may go of them, fitted; None where whole layers alone may go."""
    wanted: dict[int, list[str]] = {}
    for layer, part in savings:
        if part and layer not in protect:
            wanted.setdefault(layer, []).append(part)
    return amounts.narrow_layers(run, wanted) if wanted else None


def _gains(run: Run) -> dict[tuple[int, str], float]:
    scored = read_json(run.path / "scores.json").get("parts", [])
    return {(entry["layer"], entry["part"]): entry["gain"] for entry in scored}


def _make_mix(run: Run, folder: Path, captured: tuple[list[LayerCall], torch.Tensor]) -> None:
    """Choose the parts of layers to leave out by forward passes with stand-ins made from the calibration text."""
    spec, source = run.recipe.selection, run.source
    if spec.budget.of == "flops":
        savings = source_savings(spec, source)
    else:
        cells = read_json(run.path / "timing.json")["cells"]
        savings = latency_savings(cells, source.layers, part_names(spec, *part_sizes(source.config)))
        check_budget(spec, savings, source.layers, one=bool(run.family.groups_key))
    trials, logits = run_trials(run, _stand_ins(run, savings, spec.protect), captured)
    found = find_mix(trials, savings, amounts.damages_of(run), spec, any_shape(source.config), _gains(run))
    write_json(folder / "plan.json", asdict(found))
    save_array(folder, "selection_logits", logits)


def search_work(spec: SelectionSpec, layers: int, ship: ShipSpec | None = None, kinds: Kinds = None) -> str:
    """Return how much a search tries, in words."""
    if ship is not None:
        if not ship.parts or ship.goal == "exact":
            return "no search, the full model alone"
        return f"{_mix_work(spec, ship.parts)} for each budget, while the goal is kept,"
    if spec.budget is not None:
        return _mix_work(spec, spec.units)
    if spec.search == "exhaustive":
        sets = candidate_sets(layers, wanted_sizes(spec, layers, kinds), spec.protect, kinds)
        return f"{len(sets):,} sets, {count_applications(layers, sets):,} layer applications"
    if spec.search in {"greedy", "beam", "guided"}:
        return f"{spec.search} search, at most {most_sets(spec, layers, kinds):,} sets"
    return f"{spec.search} search, 1 set"


def _mix_work(spec: SelectionSpec, units: Sequence[str]) -> str:
    return f"mixes of {', '.join(units)} solved for, then at most {3 + ROUNDS * spec.beam_width} trials"


def cost(run: Run) -> str:
    """Return what the stage tries, on how many rows."""
    work = search_work(run.recipe.selection, run.source.layers, run.recipe.ship, layer_kinds(run.source.config))
    return f"{work} over {len(run.data.selection)} selection rows"


STAGE = Stage(
    "plan",
    ("plan.json", f"{ARRAYS}/selection_logits.npy"),
    ("scores", "amounts"),
    inputs,
    compute,
    cost,
    result=lambda run: {"plan": read_json(run.path / "plan.json")},
    notes=answer_notes,
    # a latency budget and minutes for compositions go by the time that something took here
    shared=lambda recipe: (
        recipe.ship is None and (recipe.selection.budget is None or recipe.selection.budget.of == "flops")
    ),
)
