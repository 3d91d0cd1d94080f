"""How long each step takes that ends in a mix: the pass over the text, the solving for a budget, the trials, the refit."""

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.units.latency import EVERY
from compressor.compensation.refits.amounts import NarrowLayers, fit_amounts
from compressor.compensation.refits.refit import refit_gaps
from compressor.compensation.refits.shifts import answer_shifts
from compressor.model.capture import capture_calls, fit_calls
from compressor.model.families import part_sizes
from compressor.model.sublayers import any_shape
from compressor.model.surgery import kept_layers, leave_out
from compressor.model.units import whole_layers
from compressor.progress import track_for_terminal
from compressor.recipe.compression import BudgetSpec
from compressor.recipe.training import RefitSpec
from compressor.run.run import Run
from compressor.run.savings import source_savings
from compressor.selection.budget.mixes import Damages, find_mix, improved
from compressor.selection.budget.units import cheapest_mix, free_parts, part_names
from compressor.selection.trials import Trials
from compressor.stages.selection.amounts import shift_texts

PACE_TEXTS = 2000
KEEP = 0.75, 0.6, 0.5
"""Budgets that are solved for, one after the other, from the same pass."""


def measure_pace(run: Run) -> dict[str, Any]:
    """Return the seconds of every step for heads, neurons, blocks and layers of the run's model; the mix is for half of it."""
    teacher, family, layers, track = run.teacher, run.family, run.source.layers, track_for_terminal()
    parts = [part for part in part_names(EVERY, *part_sizes(run.source.config)) if part]
    wanted, seconds = dict.fromkeys(range(1, layers + 1), parts), {}

    def timed(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        started = time.perf_counter()
        made = work()
        seconds[name] = time.perf_counter() - started
        print(f"{name}: {seconds[name]:.1f} s", flush=True)
        return made

    amounts = timed("fits", lambda: fit_amounts(teacher, family, run.calibration, wanted, track=track))
    texts = shift_texts(run.calibration)
    shifts = timed("shifts", lambda: answer_shifts(teacher, family, texts, amounts, wanted, track=track))
    damages, savings = Damages.of(shifts), source_savings(EVERY, run.source)
    for keep in KEEP:
        free = free_parts(EVERY, savings)
        timed(
            f"solving, {keep:g}",
            lambda free=free, need=1 - keep: improved(
                cheapest_mix(free, damages.alone(), need, layers), free, damages, need, layers
            ),
        )
    calls, logits = timed("full model on the selection split", lambda: capture_calls(teacher, family, run.selection))
    stand_ins = NarrowLayers(teacher, family, amounts)
    trials = Trials(teacher, family, calls, logits, stand_ins=stand_ins, track=track)
    spec = EVERY.model_copy(update={"budget": BudgetSpec(keep=KEEP[-1])})
    plan = timed("solving and trials", lambda: find_mix(trials, savings, damages, spec, any_shape(run.source.config)))
    model = leave_out(teacher, family, plan.units, stand_ins)
    keep = kept_layers(layers, whole_layers(plan.units))

    def refit() -> None:
        fitted = fit_calls(teacher, family, run.calibration)
        refit_gaps(teacher, model, family, keep, fitted, RefitSpec(layers="later", blocks="both"), track=track)

    timed("refit, layer by layer", refit)
    return {
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "layers": layers,
        "texts": len(run.calibration),
        "tokens": int(run.calibration.lengths.sum()),
        "rows": len(run.selection),
        "amounts": len(amounts),
        "trials": plan.sets_evaluated,
    }
