"""Which units should go? Layers, single blocks or neurons at equal cost; the structural part alone; what latency follows.

    python benchmarks/units.py --models DIR --data DIR [--task sst2] [--part mixes|removal|latency|tables]

`mixes`: five GLUE tasks, budgets of what 1, 2 and 3 skipped layers of six leave; the best mix of each kind of units is
searched for on the selection split, without labels, and measured on the evaluation split as it is cut, with stand-ins in
closed form, refitted as a whole, and with a readout. `removal`: each feed-forward block alone, cut out, with its mean kept,
and refitted. `latency`: the fused files of physically cut models, interleaved on a CPU, against the predicted ratios.
results/units.json keeps every prediction and raw time; runs of single tasks and parts are merged into it.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import units_tables
from compensation import Measured, merge
from digits import digits
from filelock import FileLock
from glue import TASKS, add_sources, recipe_of
from transformers import PreTrainedModel

from compressor.compensation.blocks import Variant, build_variants
from compressor.compensation.refit import refit_gaps
from compressor.data.batches import pad
from compressor.export.onnx import export_variants, quiet
from compressor.measurement.cost import layers_saved, predicted_speedup
from compressor.measurement.environment import environment
from compressor.measurement.latency import Cell, grid_batches, measure
from compressor.measurement.prediction import time_layers
from compressor.measurement.runtime import session
from compressor.measurement.subjects import onnx_subject
from compressor.model.capture import LayerCall, apply_layer, capture_calls
from compressor.model.families import Family, head_logits, layer_list
from compressor.model.sublayers import cut_attention, cut_ffn
from compressor.model.surgery import drop_layers, kept_layers, save_model
from compressor.model.units import ATTENTION, FFN, Unit, neurons_left, parts_of, split_unit, whole_layers
from compressor.progress import silent, track_for_terminal
from compressor.recipe import SelectionSpec
from compressor.recipe_training import HeadSpec, RefitSpec
from compressor.run import Run, prepare
from compressor.rundir import read_json, write_json
from compressor.selection.search import SkipPlan
from compressor.selection.trials import Trials
from compressor.selection.units import find_mix, flops_savings, part_names

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "units.json"
SIZES = 1, 2, 3
"""Skipped layers whose cost the budgets equal."""
KINDS = {
    "layers": ("layer",),
    "blocks": ("layer", "ffn", "attention"),
    "widths": ("width",),
}
"""Name of a kind of mixes -> the units it may take."""
WIDTHS, BEAM, ROWS, TEXTS = [0.5, 0.125], 3, 400, 800
"""Shares of the neurons that may stay, sets of each step that are widened, rows that choose, texts that are fitted on."""
STEPS = "cut", "mean", "refit"
CARD = "# A model of a benchmark\n"
CELLS = (1, 32), (1, 128), (8, 128)
SHAPES: dict[str, tuple[Unit, ...]] = {
    "no FFN in 2 layers": ("3.ffn", "5.ffn"),
    "no attention in 2 layers": ("3.attention", "5.attention"),
    "half of all FFN neurons": tuple(f"{layer}.ffn:768" for layer in range(1, 7)),
    "mixed": (5, "2.ffn:768", "3.ffn", "6.attention"),
    "2 layers skipped": (3, 5),
}
"""What is timed, in the layers and neurons of the six-layer models (1,536 neurons)."""


@dataclass(frozen=True)
class Task:
    """What all searches of a task share: the run, texts that are fitted on, the stand-ins, and the trials, which add up."""

    run: Run
    calls: list[LayerCall]
    stand_ins: dict[tuple[int, str], Variant]
    trials: Trials


def prepared(task: str, arguments: argparse.Namespace) -> Task:
    """Return the task with a stand-in for every part of every layer."""
    rows = f"data.selection.size={ROWS}", f"data.calibration.size={TEXTS}"
    run = prepare(recipe_of(task, arguments, task, *rows), Path("runs") / "units" / task, "cpu", silent)
    teacher, family, track = run.teacher, run.family, track_for_terminal()
    calls, _ = capture_calls(teacher, family, run.calibration, track=track)
    parts = [part for units in KINDS.values() for part in part_names(spec_of(units, 0.5), width_of(run)) if part]
    wanted = {layer: set(parts) for layer in range(1, run.source.layers + 1)}
    stand_ins = build_variants(teacher, family, calls, wanted, track=track)
    chosen, logits = capture_calls(teacher, family, run.selection, track=track)
    modules = {key: variant.module for key, variant in stand_ins.items()}
    return Task(run, calls, stand_ins, Trials(teacher, family, chosen, logits, stand_ins=modules, track=track))


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
    savings = flops_savings(layers, hidden, width_of(made.run), part_names(spec, width_of(made.run)))
    return find_mix(made.trials, savings, spec, width_of(made.run))


def assembled(made: Task, units: Sequence[Unit], *, cut: bool = False) -> PreTrainedModel:
    """Return the model without `units`, the stand-ins in the places of the layers that lose a part.

    With `cut` these layers have lost the part and nothing else; of the neurons the same stay.
    """
    run, skip = made.run, whole_layers(units)
    model, keep = drop_layers(run.teacher, run.family, skip), kept_layers(run.source.layers, skip)
    layers = layer_list(model, run.family)
    for layer, part in parts_of(units).items():
        stand_in, index = made.stand_ins[layer, part].module, keep.index(layer)
        if not cut:
            layers[index] = copy.deepcopy(stand_in)
        elif part == ATTENTION:
            cut_attention(layers[index], run.family)
        else:
            cut_ffn(layers[index], run.family, kept_neurons(layers[index], stand_in, run.family))
    return model


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
            methods = measured_as("cut", measured, readout, assembled(made, plan.units, cut=True))
            model = assembled(made, plan.units)
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
    calls, _ = capture_calls(run.teacher, run.family, run.calibration)
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


def measure_latency(arguments: argparse.Namespace) -> dict:
    """Return raw times of the fused files of cut models in one interleaved run, and the ratios predicted from one layer."""
    task = (arguments.task or TASKS)[0]
    run = prepare(recipe_of(task, arguments, task), Path("runs") / "units" / "latency", "cpu", silent)
    threads, inputs = torch.get_num_threads(), list(pad(run.evaluation, np.arange(1)))
    cells = [
        Cell(batch, length, grid_batches(batch, length, run.teacher.config.vocab_size, inputs))
        for batch, length in CELLS
    ]
    parts = sorted({split_unit(unit)[1] for units in SHAPES.values() for unit in units} - {""})
    timing = time_layers(run.teacher, run.family, cells, min_seconds=arguments.seconds / 2, max_seconds=60, parts=parts)
    with tempfile.TemporaryDirectory() as folder:
        subjects = {}
        for name, units in {"full": (), **SHAPES}.items():
            home = Path(folder) / name.replace(" ", "_")
            with quiet():
                save_model(physically_cut(run, units), run.tokenizer, home / "model", CARD)
            file = export_variants(home / "model", home / "onnx", ["alltokens"])["alltokens"].path
            subjects[name] = onnx_subject(session(file, threads=threads))
        subjects["twin"] = subjects["full"]
        rows = []
        for cell, timed in zip(cells, timing, strict=True):
            values = measure(
                subjects,
                cell.batches,
                min_seconds=arguments.seconds,
                min_runs=100,
                max_seconds=150,
                track=track_for_terminal(),
                description=f"batch {cell.batch}, {cell.length} tokens",
            )
            predicted = {
                name: predicted_speedup(timed, layers_saved(timed, [split_unit(unit)[1] for unit in units]))
                for name, units in SHAPES.items()
            }
            rows.append({"batch": cell.batch, "length": cell.length, "values_ms": values, "predicted": predicted})
    return {"cells": rows, "timing": timing, "threads": threads, "shapes": SHAPES}


def physically_cut(run: Run, units: Sequence[Unit]) -> PreTrainedModel:
    """Return the model without `units`; which neurons stay does not matter for its time."""
    skip = whole_layers(units)
    model, keep = drop_layers(run.teacher, run.family, skip), kept_layers(run.source.layers, skip)
    for number, part in parts_of(units).items():
        layer = layer_list(model, run.family)[keep.index(number)]
        if part == ATTENTION:
            cut_attention(layer, run.family)
        else:
            cut_ffn(layer, run.family, range(neurons_left(part, run.source.config[run.family.ffn_key])))
    return model


def keep_consistent(known: dict, new: dict) -> None:
    """Remove from `known` what other rows, another full model or other units gave than `new`."""
    if any(known.get(key, new[key]) != new[key] for key in ("labels", "full")):
        known.clear()
    for name, entry in new.get("mixes", {}).items():
        if known.get("mixes", {}).get(name, entry)["units"] != entry["units"]:
            del known["mixes"][name]


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
            _store({"latency": measure_latency(arguments)})
        for task in (arguments.task or TASKS) if part in MEASURES else ():
            for entry in MEASURES[part](task, arguments):
                _store({"tasks": {task: entry}})
    units_tables.write(_read())


def _store(entry: dict) -> None:
    Path("runs").mkdir(exist_ok=True)
    with FileLock("runs/units.lock"):  # tasks may run side by side
        results = _read()
        for task, new in entry.get("tasks", {}).items():
            keep_consistent(results["tasks"].setdefault(task, {}), new)
        results.pop("latency", None) if "latency" in entry else None
        merge(results, entry)
        results["environment"] = environment("cpu")
        write_json(RESULTS, results)


def _read() -> dict:
    return read_json(RESULTS) if RESULTS.is_file() else {"tasks": {}}


if __name__ == "__main__":
    main()
