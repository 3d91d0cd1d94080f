"""What would be shipped, how much faster than PyTorch is it, and what does it cost? Seven classifiers, without labels.

    python -m benchmarks.ship.run --models DIR --data DIR [--task sst2 sst2-12layers] [--goal lossless] [--device cuda]

Each model is run with `ship: {goal: lossless}`; nothing is chosen by a label. What it names is then timed in one series of
interleaved rounds, one text at a time at its real length, beside PyTorch in both ways of padding and beside the full model
in 8 bits by Optimum. results/ship.json keeps predictions and raw times, tables/ship.md is rewritten from it.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, TWELVE, add_sources, recipe_of
from benchmarks.common.optimum import optimum_files, optimum_half
from benchmarks.ship.tables import RIVALS, put_tables
from compressor import run_recipe
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment, torch_threads
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import Batch, measure, workload_batches
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.progress import silent, track_for_terminal
from compressor.recipe.compression import Recipe
from compressor.recipe.ship import BaselineSpec
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.stages.predictions import evaluation_logits
from compressor.stages.ship.built import baseline_subject, subject_of
from compressor.stages.ship.factors import steps
from compressor.stages.ship.ship import chosen_entry

RESULTS = Path(__file__).parents[1] / "results" / "ship.json"
MODELS = (*TASKS, *TWELVE)
PADDED = "PyTorch, padded to 128"
TODAY = "PyTorch"
HALF = "PyTorch float16"


def recipe_for(model: str, arguments: argparse.Namespace) -> Recipe:
    """Return the recipe of a model: its task's data, unlabelled text to decide by, and the goal."""
    sets = (
        *(f"name=ship-{model}", f"ship.goal={arguments.goal}", "separability.labels=teacher"),
        *("benchmark.batch_sizes=[1]", "benchmark.lengths=[]", "benchmark.footprint=false"),
        *arguments.set,
    )
    return recipe_of(model, arguments, model, *sets)


def measured(model: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the recipe of a model, time what it names beside the others, and return the figures."""
    recipe, started = recipe_for(model, arguments), time.perf_counter()
    out = Path("runs") / recipe.name
    result = run_recipe(recipe, out, device=arguments.device, track=track_for_terminal(), say=print).result
    seconds = time.perf_counter() - started
    run = prepare(recipe, out, arguments.device, silent)
    entry, labels = chosen_entry(run), run.data.evaluation.labels
    batches = workload_batches(run.evaluation, 1, limit=256)
    subjects, predictions = _others(run, out, batches)
    logits = evaluation_logits(run)
    path = steps(run, entry) if entry else []
    subjects |= {name: subject_of(run, built) for name, built in path}
    values = measure(
        subjects,
        batches,
        min_seconds=arguments.seconds,
        min_runs=200,
        max_seconds=max(60.0, 3 * arguments.seconds),
        track=track_for_terminal(),
        description=model,
    )
    return {
        "answer": result["answer"],
        "ship": result["ship"],
        "cascade": result["cascade"],
        "labels": "".join(map(str, labels)),
        "predictions": {"full": digits(logits["full"]), "ours": digits(logits[result["answer"]["key"]]), **predictions},
        "factors": [name for name, _ in path],
        "values_ms": {name: [round(value, 4) for value in times] for name, times in values.items()},
        "seconds": seconds,
        "environment": environment(arguments.device),
    }


def _others(run: Run, out: Path, batches: Sequence[Batch]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what is timed beside ours, and the predictions of Optimum's file for the device."""
    padding, rival = BaselineSpec(padding="max_length"), RIVALS[run.device]
    subjects = {TODAY: torch_subject(run.teacher), PADDED: baseline_subject(run, padding, batches)}
    folder = out.with_name(f"{out.name}-optimum")
    file = folder / rival.rpartition(" ")[2] / "model.onnx"
    if run.device == "cpu" and not file.is_file():
        optimum_files(run.teacher_source.path, folder)
    elif run.device == "cuda":
        subjects[HALF] = baseline_subject(run, BaselineSpec(dtype="float16"), batches)
        if not file.is_file():
            optimum_half(run.teacher_source.path, folder)
    opened = session(file, provider=PROVIDERS[run.device], threads=torch.get_num_threads())
    subjects[rival] = onnx_subject(opened)
    return subjects, {rival: digits(predict_onnx(opened, run.evaluation))}


def main() -> None:
    """Measure every model asked for and rewrite the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--task", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--goal", default="lossless", choices=("exact", "lossless", "near"))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="shortest time of the timing of a model")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="overrides of the recipe")
    parser.add_argument("--table-only", action="store_true", help="rewrite the tables from the results")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    with torch_threads(arguments.threads):
        for model in [] if arguments.table_only else arguments.task:
            kept.setdefault(f"{arguments.device} {arguments.goal}", {})[model] = measured(model, arguments)
            write_json(RESULTS, kept)
    put_tables(kept)


if __name__ == "__main__":
    main()
