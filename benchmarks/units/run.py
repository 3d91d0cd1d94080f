"""Which parts should go? Layers, blocks, neurons or heads and neurons at equal cost; one block alone; what latency follows.

    python -m benchmarks.units.run --models DIR --data DIR [--task sst2] [--part mixes|texts|removal|latency|pace|tables]

`mixes`: five GLUE tasks and two 12-layer models, budgets of 5/6, 4/6 and 3/6 of the encoder's FLOPs; the best mix of each kind of
units is searched for without labels and measured on the evaluation split as it is cut, with stand-ins in closed form,
refitted in sequence, and with a readout. `texts`: heads and neurons at half the FLOPs, fitted on ever more unlabelled text.
`removal`: each feed-forward block alone, cut out, its mean kept, and refitted.
`latency`: the fused files of physically cut models, interleaved on a CPU, against the predicted ratios. `pace`: seconds of each
step to a mix of twelve layers. results/units.json keeps every prediction and raw time; single tasks and parts are merged in.
"""

import argparse
import copy
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from transformers import PreTrainedModel

from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, TWELVE, add_sources, recipe_of
from benchmarks.compensation.run import Measured, keep_consistent, merge
from benchmarks.units import tables as units_tables
from benchmarks.units.latency import measure_latency
from benchmarks.units.pace import PACE_TEXTS, measure_pace
from benchmarks.units.tables import RESULTS, read
from compressor.compensation.refits.amounts import Amount, NarrowLayers, Piece, fit_amounts
from compressor.compensation.refits.refit import refit_gaps
from compressor.compensation.refits.shifts import answer_shifts
from compressor.data.batches import Encodings, join
from compressor.files import write_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.model.capture import LayerCall, capture_calls, fit_calls
from compressor.model.families import layer_list, part_sizes
from compressor.model.sublayers import any_shape, cut_ffn, cut_heads
from compressor.model.surgery import kept_layers, leave_out
from compressor.model.units import FFN, Unit, parts_of, pieces, unit_of, whole_layers
from compressor.progress import silent, track_for_terminal
from compressor.recipe.compression import SelectionSpec
from compressor.recipe.training import HeadSpec, RefitSpec
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.run.savings import source_savings
from compressor.selection.budget.mixes import Damages, find_mix, improved
from compressor.selection.budget.units import cheapest_mix, free_parts, least_left, part_names
from compressor.selection.search import SkipPlan
from compressor.selection.trials import Trials
from compressor.stages.selection.amounts import shift_texts

SIZES = 1, 2, 3
"""Sixths of the encoder's FLOPs that go: as many as so many of six layers have."""
KINDS = {
    "layers": ("layer",),
    "blocks": ("layer", "ffn", "attention"),
    "widths": ("width",),
    "heads": ("heads", "width"),
}
"""Name of a kind of mixes -> the units it may take."""
STEPS = "cut", "mean", "refit"
ROWS, BEAM = 400, 4
"""Rows that trials judge a mix by, and trials of each round."""
TEXTS = 250, 500, 1000, 2000, 4000, 8000, 16000
TIMED = "latency", "pace"
READOUT = {"readout": HeadSpec(trainer="readout")}
SEQUENTIAL = RefitSpec(layers="later", blocks="both")


@dataclass(frozen=True)
class Task:
    """What all searches of a model share: the run, what was fitted and what it does, and the trials, which add up."""

    run: Run
    amounts: dict[Piece, Amount]
    damages: Damages
    trials: Trials
    seconds: dict[str, float]


def run_of(model: str, arguments: argparse.Namespace, *extra: str) -> Run:
    """Return the run of a model."""
    recipe = recipe_of(model, arguments, model, *extra)
    return prepare(recipe, Path("runs") / "units" / model, arguments.device, silent)


def prepared(model: str, arguments: argparse.Namespace) -> Task:
    """Return the task with every amount of every block fitted, and what each does to the answer."""
    run = run_of(model, arguments, f"data.selection.size={ROWS}", f"data.calibration.size={arguments.texts}")
    teacher, family, track = run.teacher, run.family, track_for_terminal()
    parts = parts_of_kinds(run, [KINDS[kind] for kind in arguments.kind or KINDS])
    started = time.perf_counter()
    wanted = {layer: [part for part in parts if part] for layer in range(1, run.source.layers + 1)}
    amounts = fit_amounts(teacher, family, run.calibration, wanted, track=track)
    fitted = time.perf_counter()
    damages = Damages.of(answer_shifts(teacher, family, shift_texts(run.calibration), amounts, wanted, track=track))
    seconds = {"fits": fitted - started, "shifts": time.perf_counter() - fitted}
    calls, logits = capture_calls(teacher, family, run.selection, track=track)
    stand_ins = NarrowLayers(teacher, family, amounts)
    return Task(
        run, amounts, damages, Trials(teacher, family, calls, logits, stand_ins=stand_ins, track=track), seconds
    )


def parts_of_kinds(run: Run, kinds: Iterable[Sequence[str]]) -> list[str]:
    """Return every part that mixes of these kinds may take."""
    size = part_sizes(run.source.config)
    return list(dict.fromkeys(part for units in kinds for part in part_names(spec_of(units, 0.5), *size)))


def spec_of(units: Sequence[str], keep: float) -> SelectionSpec:
    """Return the selection of a recipe that would search for such a mix."""
    return SelectionSpec(units=list(units), budget={"keep": keep}, beam_width=BEAM)


def planned(made: Task, kind: str, size: int) -> SkipPlan:
    """Search for the best mix of a kind that leaves out `size` sixths of the FLOPs."""
    spec = spec_of(KINDS[kind], 1 - size / 6)
    return find_mix(
        made.trials, source_savings(spec, made.run.source), made.damages, spec, any_shape(made.run.source.config)
    )


def cut_alone(made: Task, units: Sequence[Unit]) -> PreTrainedModel:
    """Return the model whose layers have lost their parts and nothing else; the heads and neurons of the stand-ins stay."""
    teacher, family, layers = made.run.teacher, made.run.family, {}
    for layer, part in parts_of(units).items():
        cut = layers[layer, part] = copy.deepcopy(layer_list(teacher, family)[layer - 1])
        for change, piece in zip((cut_heads, cut_ffn), pieces(part), strict=True):
            if piece:
                change(cut, family, made.amounts[layer, piece].kept)
    return leave_out(teacher, family, units, layers)


def refitted(run: Run, units: Sequence[Unit], amounts: dict[Piece, Amount], calls: list[LayerCall]) -> PreTrainedModel:
    """Return the model without `units`, refitted layer by layer."""
    model = leave_out(run.teacher, run.family, units, NarrowLayers(run.teacher, run.family, amounts))
    keep = kept_layers(run.source.layers, whole_layers(units))
    refit_gaps(run.teacher, model, run.family, keep, calls, SEQUENTIAL)
    return model


def measure_mixes(model: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the model's entry with the best mix of each kind and size, compensated step by step."""
    made = prepared(model, arguments)
    run, measured = made.run, Measured(made.run)
    calls = fit_calls(run.teacher, run.family, run.calibration)
    for kind in arguments.kind or KINDS:
        for size in arguments.sizes:
            spec, started = spec_of(KINDS[kind], 1 - size / 6), time.perf_counter()
            if spec.budget.keep < least_left(spec, source_savings(spec, run.source), run.source.layers):
                continue  # neurons alone are less than that
            plan = planned(made, kind, size)
            searched = time.perf_counter()
            stand_ins = leave_out(
                run.teacher, run.family, plan.units, NarrowLayers(run.teacher, run.family, made.amounts)
            )
            methods = measured_as("cut", measured, cut_alone(made, plan.units))
            methods |= measured_as("stand-ins", measured, stand_ins)
            begun = time.perf_counter()
            whole = refitted(run, plan.units, made.amounts, calls)
            seconds = {**made.seconds, "search": searched - started, "refit": time.perf_counter() - begun}
            methods |= measured_as("refit", measured, whole)
            entry = {"units": list(plan.units), "kept": plan.mix.kept, "sets_evaluated": plan.sets_evaluated}
            entry |= {"expected": plan.mix.expected, "seconds": seconds, "methods": methods}
            print(f"{model}, {kind} for {size}: {plan.units}, {seconds}: {_flips(methods, measured)}", flush=True)
            yield {"mixes": {f"{kind} {size}": entry}, **measured.truth()}


def measured_as(name: str, measured: Measured, model: PreTrainedModel) -> dict[str, dict]:
    """Return the predictions of `model` with its stock head and with a readout, under their names."""
    made = measured.heads(model, READOUT)
    return {name: made["stock"], f"{name} + readout": made["readout"]}


def measure_texts(model: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the model's entry with half the FLOPs gone of heads and neurons, fitted on ever more text of train and test."""
    run = run_of(model, arguments)
    text = shuffled_text(run)
    measured = Measured(run)
    for count in arguments.counts:
        if count > len(text):
            break
        some = text.take(np.arange(count))
        spec = spec_of(KINDS["heads"], 0.5)
        wanted = dict.fromkeys(range(1, run.source.layers + 1), part_names(spec, *part_sizes(run.source.config)))
        amounts = fit_amounts(run.teacher, run.family, some, wanted)
        damages = Damages.of(answer_shifts(run.teacher, run.family, shift_texts(some), amounts))
        savings = source_savings(spec, run.source)
        free, need = free_parts(spec, savings), 0.5
        units = improved(
            cheapest_mix(free, damages.alone(), need, run.source.layers), free, damages, need, run.source.layers
        )
        stand_ins = leave_out(run.teacher, run.family, units, NarrowLayers(run.teacher, run.family, amounts))
        methods = measured_as("stand-ins", measured, stand_ins)
        methods |= measured_as(
            "refit", measured, refitted(run, units, amounts, fit_calls(run.teacher, run.family, some))
        )
        print(f"{model}, {count} texts: {_flips(methods, measured)}", flush=True)
        yield {"texts": {str(count): {"units": list(units), "methods": methods}}, **measured.truth()}


def shuffled_text(run: Run) -> Encodings:
    """Return the unlabelled text of `train` and `test` in one order, calibration's own first."""
    order = np.random.default_rng(0).permutation(len(run.data.train))
    return join([run.calibration, run.encode(run.data.train.take(order.tolist()))])


def _flips(methods: dict[str, dict], measured: Measured) -> str:
    full = digits(measured.teacher["evaluation"])
    changed = {name: np.mean([a != b for a, b in zip(entry["predictions"], full, strict=True)])
               for name, entry in methods.items()}  # fmt: skip
    return ", ".join(f"{name} {share:.1%}" for name, share in changed.items())


def measure_removal(task: str, arguments: argparse.Namespace) -> Iterator[dict]:
    """Yield the task's predictions with each feed-forward block gone: cut out, its mean kept, refitted."""
    run = run_of(task, arguments)
    calls, layers = fit_calls(run.teacher, run.family, run.calibration), range(1, run.source.layers + 1)
    amounts = fit_amounts(run.teacher, run.family, run.calibration, {layer: [FFN] for layer in layers})
    narrow, removal = NarrowLayers(run.teacher, run.family, amounts), {step: {} for step in STEPS}
    for layer in layers:
        unit = [unit_of(layer, FFN)]
        made = {
            "cut": leave_out(run.teacher, run.family, unit),
            "mean": leave_out(run.teacher, run.family, unit, narrow),
        }
        made["refit"] = leave_out(run.teacher, run.family, unit, narrow)
        refit_gaps(run.teacher, made["refit"], run.family, layers, calls, RefitSpec())
        for step in STEPS:
            removal[step][str(layer)] = digits(predict(made[step], run.evaluation))
        print(f"{task}, FFN of layer {layer}", flush=True)
    yield {"removal": removal, **Measured(run).truth()}


def timed(part: str, arguments: argparse.Namespace) -> dict:
    """Return the times of a part: files of one model against their predictions, or the steps that lead to a mix of it."""
    if part == "pace":
        texts = f"data.calibration.size={PACE_TEXTS}"
        return measure_pace(
            run_of((arguments.task or list(TWELVE))[0], arguments, f"data.selection.size={ROWS}", texts)
        )
    return measure_latency(run_of((arguments.task or TASKS)[0], arguments), arguments.seconds)


MEASURES = {"mixes": measure_mixes, "texts": measure_texts, "removal": measure_removal}
OF_PART = {"mixes": (*TASKS, *TWELVE), "texts": ("sst2", "sst2-12layers"), "removal": TASKS}
"""Models of each part, where none is asked for."""


def main() -> None:
    """Measure the tasks and parts asked for, merge them into the results, write the tables and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--task", choices=[*TASKS, *TWELVE], action="append", help="only this model; repeatable")
    parts = [*MEASURES, *TIMED, "tables"]
    parser.add_argument("--part", choices=parts, action="append", help="only this part; repeatable")
    parser.add_argument("--kind", choices=KINDS, action="append", help="only this kind of mixes; repeatable")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="skipped layers that the budgets equal")
    parser.add_argument("--seconds", type=float, default=20, help="least seconds of each latency cell")
    parser.add_argument("--texts", type=int, default=1000, help="unlabelled texts that mixes are fitted to")
    parser.add_argument("--counts", type=int, nargs="+", default=TEXTS, help="numbers of texts of the part texts")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where all but latency is measured")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    RESULTS.parent.mkdir(exist_ok=True)
    for part in arguments.part or [*MEASURES, *TIMED]:
        if part in TIMED:
            _store({part: timed(part, arguments)}, "cpu")
        for task in (arguments.task or OF_PART[part]) if part in MEASURES else ():
            for entry in MEASURES[part](task, arguments):
                _store({"tasks": {task: entry}}, arguments.device)
    units_tables.write(read())


def _store(entry: dict, device: str) -> None:
    Path("runs").mkdir(exist_ok=True)
    with FileLock("runs/units.lock"):  # tasks may run side by side
        results = read()
        for task, new in entry.get("tasks", {}).items():
            keep_consistent(results["tasks"].setdefault(task, {}), new, "mixes", "units")
        results = {key: value for key, value in results.items() if key not in TIMED or key not in entry}
        merge(results, entry)
        results["environment"] = environment(device)
        write_json(RESULTS, results)


if __name__ == "__main__":
    main()
