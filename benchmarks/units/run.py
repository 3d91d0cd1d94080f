"""Which units should go? Layers, single blocks or neurons at equal cost; the structural part alone; what latency follows.

    python -m benchmarks.units.run --models DIR --data DIR [--task sst2] [--part mixes|removal|latency|tables]

`mixes`: five GLUE tasks, budgets of what 1, 2 and 3 skipped layers of six leave; the best mix of each kind of units is
searched for on the selection split, without labels, and measured on the evaluation split as it is cut, with stand-ins in
closed form, refitted as a whole, and with a readout. `removal`: each feed-forward block alone, cut out, with its mean kept,
and refitted. `latency`: the fused files of physically cut models, interleaved on a CPU, against the predicted ratios.
results/units.json keeps every prediction and raw time; runs of single tasks and parts are merged into it.
"""

import argparse
import copy
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedModel

from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, add_sources, recipe_of
from benchmarks.compensation.run import Measured, keep_consistent, merge
from benchmarks.units import tables as units_tables
from benchmarks.units.latency import measure_latency
from benchmarks.units.tables import RESULTS, read
from compressor.compensation.refits.blocks import build_variants
from compressor.compensation.refits.refit import refit_gaps
from compressor.files import write_json
from compressor.measurement.machine.environment import environment
from compressor.model.capture import LayerCall, apply_layer, capture_calls, fit_calls
from compressor.model.families import Family, head_logits, layer_list
from compressor.model.sublayers import any_shape, cut_attention, cut_ffn
from compressor.model.surgery import kept_layers, leave_out
from compressor.model.units import ATTENTION, FFN, Unit, parts_of, whole_layers
from compressor.progress import silent, track_for_terminal
from compressor.recipe.compression import SelectionSpec
from compressor.recipe.training import HeadSpec, RefitSpec
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.selection.search import SkipPlan
from compressor.selection.trials import Trials
from compressor.selection.units import find_mix, flops_savings, part_names

SIZES = 1, 2, 3
"""Skipped layers whose cost the budgets equal."""
KINDS = {"layers": ("layer",), "blocks": ("layer", "ffn", "attention"), "widths": ("width",)}
"""Name of a kind of mixes -> the units it may take."""
WIDTHS, BEAM, ROWS, TEXTS = [0.5, 0.125], 3, 400, 800
"""Shares of the neurons that may stay, sets of each step that are widened, rows that choose, texts that are fitted on."""
STEPS = "cut", "mean", "refit"


@dataclass(frozen=True)
class Task:
    """What all searches of a task share: the run, texts that are fitted on, the stand-ins, and the trials, which add up."""

    run: Run
    calls: list[LayerCall]
    stand_ins: dict[tuple[int, str], torch.nn.Module]
    trials: Trials


def prepared(task: str, arguments: argparse.Namespace) -> Task:
    """Return the task with a stand-in for every part of every layer."""
    rows = f"data.selection.size={ROWS}", f"data.calibration.size={TEXTS}"
    run = prepare(recipe_of(task, arguments, task, *rows), Path("runs") / "units" / task, "cpu", silent)
    teacher, family, track = run.teacher, run.family, track_for_terminal()
    calls = fit_calls(teacher, family, run.calibration, track=track)
    parts = [part for units in KINDS.values() for part in part_names(spec_of(units, 0.5), width_of(run)) if part]
    wanted = {layer: set(parts) for layer in range(1, run.source.layers + 1)}
    variants = build_variants(teacher, family, calls, wanted, track=track)
    stand_ins = {key: variant.module for key, variant in variants.items()}
    chosen, logits = capture_calls(teacher, family, run.selection, track=track)
    return Task(run, calls, stand_ins, Trials(teacher, family, chosen, logits, stand_ins=stand_ins, track=track))


def spec_of(units: Sequence[str], keep: float) -> SelectionSpec:
    """Return the selection of a recipe that would search for such a mix."""
    return SelectionSpec(units=list(units), widths=WIDTHS, beam_width=BEAM, budget={"keep": keep})


def width_of(run: Run) -> int:
    """Return the number of neurons of a feed-forward block."""
    return run.source.config[run.family.ffn_key]


def planned(made: Task, kind: str, size: int) -> SkipPlan:
    """Search for the best mix of a kind that costs no more than `size` layers fewer."""
    layers, hidden = made.run.source.layers, made.run.source.config[made.run.family.width_key]
    spec = spec_of(KINDS[kind], 1 - size / layers)
    full = any_shape(made.run.source.config)
    savings = flops_savings(full, hidden, part_names(spec, width_of(made.run)))
    return find_mix(made.trials, savings, spec, full)


def cut_alone(made: Task, units: Sequence[Unit]) -> PreTrainedModel:
    """Return the model whose layers have lost their parts and nothing else; of the neurons those of the stand-ins stay."""
    teacher, family = made.run.teacher, made.run.family
    layers = {}
    for layer, part in parts_of(units).items():
        stand_in, cut = made.stand_ins[layer, part], copy.deepcopy(layer_list(teacher, family)[layer - 1])
        if part == ATTENTION:
            cut_attention(cut, family)
        else:
            cut_ffn(cut, family, kept_neurons(cut, stand_in, family))
        layers[layer, part] = cut
    return leave_out(teacher, family, units, layers)


def kept_neurons(layer: torch.nn.Module, stand_in: torch.nn.Module, family: Family) -> list[int]:
    """Return which neurons of `layer` its stand-in has: the maps into them are the same."""
    if not stand_in.get_submodule(family.ffn_output).in_features:
        return []
    rows, kept = (module.get_submodule(family.ffn_input).weight.detach() for module in (layer, stand_in))
    places = {row.numpy().tobytes(): index for index, row in enumerate(rows)}
    return [places[row.numpy().tobytes()] for row in kept]


def measure_mixes(task: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the task's entry with the best mix of each kind and size, compensated step by step."""
    started = time.perf_counter()
    made = prepared(task, arguments)
    fitted, run = time.perf_counter() - started, made.run
    measured, readout = Measured(run), {"readout": HeadSpec(trainer="readout")}
    for kind in arguments.kind or KINDS:
        for size in arguments.sizes:
            plan = planned(made, kind, size)
            methods = measured_as("cut", measured, readout, cut_alone(made, plan.units))
            model = leave_out(run.teacher, run.family, plan.units, made.stand_ins)
            methods |= measured_as("stand-ins", measured, readout, model)
            keep = kept_layers(run.source.layers, whole_layers(plan.units))
            refit_gaps(run.teacher, model, run.family, keep, made.calls, RefitSpec(layers="later"))
            methods |= measured_as("refit", measured, readout, model)
            entry = {"units": list(plan.units), "kept": plan.mix.kept, "sets_evaluated": plan.sets_evaluated}
            entry |= {"search_seconds": plan.seconds, "fit_seconds": fitted, "methods": methods}
            print(
                f"{task}, {kind} for {size}: {plan.units}, {plan.seconds:.0f} s: {_flips(methods, measured)}",
                flush=True,
            )
            yield {"mixes": {f"{kind} {size}": entry}, **measured.truth()}


def measured_as(name: str, measured: Measured, readout: dict[str, HeadSpec], model: PreTrainedModel) -> dict[str, dict]:
    """Return the predictions of `model` with its stock head and with a readout, under their names."""
    made = measured.heads(model, readout)
    return {name: made["stock"], f"{name} + readout": made["readout"]}


def _flips(methods: dict[str, dict], measured: Measured) -> str:
    full = digits(measured.teacher["evaluation"])
    changed = {name: np.mean([a != b for a, b in zip(entry["predictions"], full, strict=True)])
               for name, entry in methods.items()}  # fmt: skip
    return ", ".join(f"{name} {share:.1%}" for name, share in changed.items())


def measure_removal(task: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the task's predictions with each feed-forward block gone: cut out, its mean kept, refitted."""
    recipe = recipe_of(task, arguments, task, f"data.calibration.size={TEXTS}")
    run = prepare(recipe, Path("runs") / "units" / f"{task}-removal", "cpu", silent)
    calls = fit_calls(run.teacher, run.family, run.calibration)
    held, logits = capture_calls(run.teacher, run.family, run.evaluation)
    wanted = {layer: [FFN] for layer in range(1, run.source.layers + 1)}
    made = {step: build_variants(run.teacher, run.family, calls, wanted, step=step) for step in STEPS}
    removal: dict[str, dict[str, str]] = {step: {} for step in STEPS}
    layers, hidden = list(layer_list(run.teacher, run.family)), [call.hidden for call in held]
    for number, layer in enumerate(layers, start=1):
        for step in STEPS:
            after = apply_layer(made[step][number, FFN].module, held, hidden)
            removal[step][str(number)] = digits(_logits(run, layers[number:], held, after, logits))
        hidden = apply_layer(layer, held, hidden)
        print(f"{task}, FFN of layer {number}", flush=True)
    labels = "".join(map(str, run.data.evaluation.labels))
    yield {"removal": removal, "labels": labels, "full": digits(logits.numpy())}


def _logits(
    run: Run,
    layers: Sequence[torch.nn.Module],
    calls: Sequence[LayerCall],
    hidden: list[torch.Tensor],
    like: torch.Tensor,
) -> np.ndarray:
    """Return the logits [N, C] in row order behind `layers` and the stock head."""
    for layer in layers:
        hidden = apply_layer(layer, calls, hidden)
    found = torch.zeros_like(like)
    with torch.inference_mode():
        for call, state in zip(calls, hidden, strict=True):
            found[call.rows] = head_logits(run.teacher, run.family, state[:, 0]).float()
    return found.numpy()


def latency_run(arguments: argparse.Namespace) -> Run:
    """Return the run whose model is timed: that of the first task asked for."""
    task = (arguments.task or TASKS)[0]
    return prepare(recipe_of(task, arguments, task), Path("runs") / "units" / "latency", "cpu", silent)


MEASURES = {"mixes": measure_mixes, "removal": measure_removal}


def main() -> None:
    """Measure the tasks and parts asked for, merge them into the results, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--task", choices=TASKS, action="append", help="only this task; repeatable")
    parser.add_argument(
        "--part", choices=[*MEASURES, "latency", "tables"], action="append", help="only this part; repeatable"
    )
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of mixes; repeatable")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="skipped layers that the budgets equal")
    parser.add_argument("--seconds", type=float, default=20, help="least seconds of each latency cell")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    RESULTS.parent.mkdir(exist_ok=True)
    for part in arguments.part or [*MEASURES, "latency"]:
        if part == "latency":
            _store({"latency": measure_latency(latency_run(arguments), arguments.seconds)})
        for task in (arguments.task or TASKS) if part in MEASURES else ():
            for entry in MEASURES[part](task, arguments):
                _store({"tasks": {task: entry}})
    units_tables.write(read())


def _store(entry: dict) -> None:
    Path("runs").mkdir(exist_ok=True)
    with FileLock("runs/units.lock"):  # tasks may run side by side
        results = read()
        for task, new in entry.get("tasks", {}).items():
            keep_consistent(results["tasks"].setdefault(task, {}), new, "mixes", "units")
        results.pop("latency", None) if "latency" in entry else None
        merge(results, entry)
        results["environment"] = environment("cpu")
        write_json(RESULTS, results)


if __name__ == "__main__":
    main()
