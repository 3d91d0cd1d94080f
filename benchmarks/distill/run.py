"""How near does distillation bring half a model to the whole one, and with how much text? Per model, without labels.

    python -m benchmarks.distill.run --models DIR --data DIR [--model sst2] [--texts 500 2000] [--device cuda] [--minutes 2]

From a mix of half of the encoder's FLOPs, chosen and fitted in closed form on 1,000 unlabelled texts, the model is distilled
on the first N texts of one shuffled order of `train` and `test`, labels unread; a part of the N is held out and finds the best
step. The evaluation split is read once, by what comes of it. results/distill.json keeps every prediction and is written
after each point; points that are there under the same settings are not measured again. `--texts 500 --epochs 1` is a
smoke test.
"""

import argparse
import copy
import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, add_sources
from benchmarks.distill.start import KEEP, UNITS, Start, Text, start_of, text_of
from benchmarks.distill.tables import ALL, RESULTS, put_tables
from compressor.compensation.distill import distill
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment, torch_threads
from compressor.measurement.predictions import predict
from compressor.model.surgery import kept_layers
from compressor.model.units import whole_layers
from compressor.progress import track_for_terminal
from compressor.recipe.file import part_of_recipe
from compressor.recipe.training import DistillSpec

MODELS = "sst2", "qnli", "sst2-12layers", "qnli-12layers"
POINTS = 500, 2000, 8000, 32000
SMALL, LARGE = 32, 128
"""Texts a step: of little text, and of much on a GPU."""
MUCH = 4000
"""Texts from which on a GPU takes larger steps."""


def spec_of(texts: int, arguments: argparse.Namespace) -> DistillSpec:
    """Return the settings of a point: the package's defaults, a batch that fills the device, and what was typed."""
    values: dict[str, Any] = {"batch_size": LARGE if arguments.device == "cuda" and texts >= MUCH else SMALL}
    if arguments.epochs:
        values["epochs"] = arguments.epochs
    typed = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    return part_of_recipe(DistillSpec, "compensation.distill", values | typed)


def point(start: Start, text: Text, texts: int, spec: DistillSpec) -> dict[str, Any]:
    """Return what a copy of the start predicts once it was distilled on the first `texts` texts, and how that went."""
    run, started = start.run, time.perf_counter()
    model, rows = copy.deepcopy(start.model), np.arange(texts)
    fit = distill(
        run.teacher,
        model,
        run.family,
        kept_layers(run.source.layers, whole_layers(start.units)),
        text.encodings.take(rows),
        spec,
        known=text.known[rows],
        seed=run.recipe.seed,
        track=track_for_terminal(),
    )
    seconds = time.perf_counter() - started
    return {"predictions": digits(predict(model, run.evaluation)), "seconds": seconds, "texts": texts,
            "spec": spec.model_dump(mode="json"), **vars(fit)}  # fmt: skip


def measure(model: str, arguments: argparse.Namespace, known: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the entry of a model, after the start and after each point; points of `known` under equal settings are kept."""
    started = time.perf_counter()
    start = start_of(model, arguments)
    run, text = start.run, text_of(start.run)
    entry = {
        "units": start.units,
        "labels": "".join(map(str, run.data.evaluation.labels)),
        "full": digits(predict(run.teacher, run.evaluation)),
        "start": digits(predict(start.model, run.evaluation)),
        "texts": len(text.known),
        "environment": environment(arguments.device),
    }
    same = all(known.get(key) == entry[key] for key in ("units", "labels", "full", "start"))
    entry["points"] = known["points"] if same else {}
    yield entry
    pace = 0.0  # seconds a text and epoch, of the points so far
    for asked in arguments.texts:
        texts = len(text.known) if asked == ALL else min(int(asked), len(text.known))
        spec, name = spec_of(texts, arguments), asked if asked == ALL else str(texts)
        if entry["points"].get(name, {}).get("spec") == spec.model_dump(mode="json"):
            continue
        left, needed = 60 * arguments.minutes - (time.perf_counter() - started), pace * texts * spec.epochs
        if left < max(needed, 1):
            print(f"{model}, {asked} texts: left out, {needed:.0f} s where {max(left, 0):.0f} s are left", flush=True)
            continue
        made = point(start, text, texts, spec)
        pace = made["seconds"] / (made["rows"] * max(1, len(made["losses"])))
        entry["points"][name] = made
        print(f"{model}, {texts} texts, {made['seconds']:.0f} s: {said(entry, made)}", flush=True)
        yield entry


def said(entry: dict[str, Any], made: dict[str, Any]) -> str:
    """Return how a point went, in words for the terminal."""
    held = [value for _, value in made["curve"]]
    changed = np.mean([a != b for a, b in zip(made["predictions"], entry["full"], strict=True)])
    kl = (
        f"KL {held[0]:.4f} -> {min(held):.4f} at step {made['kept_step']} of {made['steps']}"
        if held
        else "nothing held out"
    )
    return f"{kl}, {changed:.1%} changed"


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options in `words`, those of the command line where there are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=[*TASKS, *MODELS[2:]])
    parser.add_argument("--texts", nargs="+", default=[*map(str, POINTS), ALL], help=f"numbers of texts, or {ALL}")
    parser.add_argument("--units", nargs="+", default=list(UNITS), help="what may go of the full model")
    parser.add_argument("--keep", type=float, default=KEEP, help="share of the encoder's FLOPs that may remain")
    parser.add_argument("--epochs", type=int, help="largest number of epochs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of compensation.distill")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--minutes", type=float, default=120.0, help="time of a model: points that would not fit are left out"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from the results")
    return parser.parse_args(words)


def main() -> None:
    """Measure the models asked for, write the results after every point, rewrite the table."""
    arguments = arguments_of()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    with torch_threads(arguments.threads):
        for model in [] if arguments.table_only else arguments.model:
            for entry in measure(model, arguments, kept.get(model, {})):
                kept[model] = entry
                write_json(RESULTS, kept)
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
    put_tables(kept)


if __name__ == "__main__":
    main()
