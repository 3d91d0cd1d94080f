"""How near does distillation bring half a model to the whole one, and with how much text? Per model, without labels.

    python -m benchmarks.distill.run --models DIR --data DIR [--model sst2] [--texts 500 2000] [--device cuda] [--minutes 2]
    python -m benchmarks.distill.run --models DIR --data DIR --part settings --model sst2 [--device cuda]

From a mix of half of the encoder's FLOPs, chosen and fitted in closed form on 1,000 unlabelled texts, the model is distilled
on the first N texts of one shuffled order of `train` and `test`, labels unread; a part of the N is held out and finds the best
step. The evaluation split is read once, by what comes of it. results/distill.json keeps every prediction and is written
after each point; points that are there under the same settings are not measured again. `--part settings` compares the
settings in `VARIANTS` on 8,000 texts, by the KL on the selection split; `--best-of MODEL` has the points take that
model's best. `--texts 500 --epochs 1` is a smoke test.
"""

import argparse
import copy
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import yaml
from transformers import PreTrainedModel

from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, TWELVE, add_sources
from benchmarks.compensation.tables import flips_of
from benchmarks.distill.start import KEEP, UNITS, Start, Text, start_of, text_of
from benchmarks.distill.tables import ALL, RESULTS, best_settings, put_tables
from compressor.compensation.distill import distill
from compressor.data.answers.kinds import SINGLE
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment, torch_threads
from compressor.measurement.predictions import predict
from compressor.model.surgery import kept_layers
from compressor.model.units import whole_layers
from compressor.progress import track_for_terminal
from compressor.recipe.file import part_of_recipe
from compressor.recipe.training import DistillSpec
from compressor.run.run import Run

MODELS = (*TASKS, *TWELVE)
POINTS = 500, 2000, 8000, 32000
SMALL, LARGE = 32, 128
"""Texts a step: of little text, and of much on a GPU."""
MUCH = 4000
"""Texts from which on a GPU takes larger steps."""


BOTH = {"logits_weight": 1.0}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "lr 3e-4": {"lr": 3e-4},
    "lr 1e-3": {"lr": 1e-3},
    "lr 3e-5": {"lr": 3e-5},
    "attended states too": {"attended": True},
    "8 epochs": {"epochs": 8},
    "logits a tenth": {"logits_weight": 0.1},
    "logits too": BOTH,
    "logits too, temperature 4": {**BOTH, "temperature": 4.0},
    "logits alone": {**BOTH, "states_weight": 0.0},
}
"""Settings that are compared."""
SETTING_TEXTS = 8000


@dataclass(frozen=True)
class Job:
    """One distillation: where its result goes (`points` or `settings`, and a name), how many texts, under which settings."""

    group: str
    name: str
    texts: int
    spec: DistillSpec


def spec_of(texts: int, arguments: argparse.Namespace, *changes: Mapping[str, Any]) -> DistillSpec:
    """Return the settings of a point: the package's defaults, a batch that fills the device, `changes`, what was typed."""
    values: dict[str, Any] = {"batch_size": LARGE if arguments.device == "cuda" and texts >= MUCH else SMALL}
    for change in changes:
        values |= change
    if arguments.epochs:
        values["epochs"] = arguments.epochs
    values |= {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in arguments.set)}
    return part_of_recipe(DistillSpec, "compensation.distill", values)


def jobs(available: int, arguments: argparse.Namespace, best: str) -> list[Job]:
    """Return what is to be done where `available` texts are there; points under the settings called `best`."""
    if arguments.part == "settings":
        texts = min(SETTING_TEXTS, available)
        chosen = {name: VARIANTS[name] for name in arguments.variant or VARIANTS}
        return [Job("settings", name, texts, spec_of(texts, arguments, change)) for name, change in chosen.items()]
    wanted = [(asked, available if asked == ALL else min(int(asked), available)) for asked in arguments.texts]
    return [
        Job("points", ALL if texts == available else asked, texts, spec_of(texts, arguments, VARIANTS[best]))
        for asked, texts in wanted
    ]


def distilled(start: Start, text: Text, job: Job) -> dict[str, Any]:
    """Return what a copy of the start predicts once it was distilled on the job's texts, and how that went."""
    run, started = start.run, time.perf_counter()
    model, rows = copy.deepcopy(start.model), np.arange(job.texts)
    fit = distill(
        run.teacher,
        model,
        run.family,
        kept_layers(run.source.layers, whole_layers(start.units)),
        text.encodings.take(rows),
        job.spec,
        known=text.known[rows],
        seed=run.recipe.seed,
        track=track_for_terminal(),
    )
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "texts": job.texts, "spec": job.spec.model_dump(mode="json"), **vars(fit),
            **judged(run, model), "environment": environment(run.device)}  # fmt: skip


def judged(run: Run, model: PreTrainedModel) -> dict[str, Any]:
    """Return the KL on the selection split, which no step of a distillation was chosen by, and the evaluation's predictions."""
    target, found = (predict(one, run.selection, batch_size=LARGE) for one in (run.teacher, model))
    predictions = digits(predict(model, run.evaluation, batch_size=LARGE))
    return {"selection_kl": SINGLE.divergence(target, found), "predictions": predictions}


def measure(model: str, arguments: argparse.Namespace, known: dict[str, Any], best: str) -> Iterator[dict[str, Any]]:
    """Yield the entry of a model, after the start and after each job; what is `known` under equal settings is kept."""
    started = time.perf_counter()
    start = start_of(model, arguments)
    run, text = start.run, text_of(start.run)
    entry = {
        "units": start.units,
        "labels": "".join(map(str, run.data.evaluation.labels)),
        "full": digits(predict(run.teacher, run.evaluation, batch_size=LARGE)),
        "start": judged(run, start.model),
        "texts": len(text.known),
        "environment": environment(arguments.device),
    }
    same = all(known.get(key) == entry[key] for key in ("units", "labels", "full"))
    entry |= {group: known.get(group, {}) if same else {} for group in ("points", "settings")}
    yield entry
    pace = 0.0  # seconds a text and epoch, of the jobs so far
    for job in jobs(len(text.known), arguments, best):
        done = entry[job.group].get(job.name)
        if done and (done["spec"], done["texts"]) == (job.spec.model_dump(mode="json"), job.texts):
            continue
        left, needed = 60 * arguments.minutes - (time.perf_counter() - started), pace * job.texts * job.spec.epochs
        if left < max(needed, 1):
            print(f"{model}, {job.name}: left out, {needed:.0f} s where {max(left, 0):.0f} s are left", flush=True)
            continue
        made = distilled(start, text, job)
        pace = made["seconds"] / (made["rows"] * max(1, len(made["losses"])))
        entry[job.group][job.name] = made
        print(f"{model}, {job.name}, {job.texts} texts, {made['seconds']:.0f} s: {said(entry, made)}", flush=True)
        yield entry


def said(entry: dict[str, Any], made: dict[str, Any]) -> str:
    """Return how a job went, in words for the terminal."""
    held, changed = [value for _, value in made["curve"]], flips_of(entry, made).mean()
    kl = f"KL {held[0]:.4f} -> {min(held):.4f} held out" if held else "nothing held out"
    step = f"step {made['kept_step']} of {made['steps']}"
    return f"{kl}, {made['selection_kl']:.4f} on the selection split, {step}, {changed:.1%} changed"


def arguments_of(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options in `words`, those of the command line where there are none."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--model", nargs="+", default=list(MODELS), choices=MODELS)
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
    parser.add_argument("--part", default="points", choices=("points", "settings"))
    parser.add_argument("--variant", nargs="+", choices=VARIANTS, help="compare these settings alone")
    parser.add_argument("--best-of", help="take the settings that did best on this model")
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from the results")
    return parser.parse_args(words)


def main() -> None:
    """Measure the models asked for, write the results after every point, rewrite the table."""
    arguments = arguments_of()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    best = best_settings(kept[arguments.best_of]) if arguments.best_of else next(iter(VARIANTS))
    with torch_threads(arguments.threads):
        for model in [] if arguments.table_only else arguments.model:
            for entry in measure(model, arguments, kept.get(model, {}), best):
                kept[model] = entry
                write_json(RESULTS, kept)
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
    put_tables(kept)


if __name__ == "__main__":
    main()
