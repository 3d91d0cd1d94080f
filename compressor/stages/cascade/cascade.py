"""The stage of the guarded early exit: fit its heads, cut the graph, certify thresholds."""

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.cascade.exits import LEAST_ROWS
from compressor.cascade.parts import part_names
from compressor.cascade.plan import EncoderWork, outcome_of
from compressor.cascade.runtime import CascadeClassifier
from compressor.cascade.thresholds import Certificate, Outcome, Thresholds, certify, rows_needed
from compressor.data.answers.config import WORDS
from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.data.batches import Encodings, padded_batches
from compressor.export.beside import text_settings, words_beside
from compressor.export.calibration import invented
from compressor.export.onnx import quiet
from compressor.files import write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.predictions import predict
from compressor.measurement.statistics import rate_upper_bound
from compressor.model.cls_row import relative_positions
from compressor.model.load import longest_input
from compressor.recipe.compression import Recipe
from compressor.recipe.training import CascadeSpec
from compressor.report.formats import layers_text
from compressor.run.arrays import load_array
from compressor.run.run import EXIT_TEXTS, Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.cascade.build import Built, build_cascade
from compressor.stages.cascade.shared import FITTED, FOLDER, full_work, fused_file, wanted, work_of
from compressor.stages.stage import Stage, spec_json


def inputs(run: Run) -> dict[str, Any]:
    """Return what the guarded early exit depends on."""
    data = run.data
    texts = {"train": data.train.sha256, "selection": data.selection.sha256, "guard": data.guard and data.guard.sha256}
    shared = {"max_length": run.recipe.data.max_length, "device": run.device}  # the certificate is that of its device
    shared["source"] = run.provenance.get("guard")
    if run.recipe.ship is not None:
        shared |= {"ship": spec_json(run.recipe.ship), "variants": run.variants}
    return {"cascade": spec_json(run.recipe.cascade), "texts": texts, **shared}


def obstacle(run: Run, spec: CascadeSpec) -> str | None:
    """Return why a run that decides what to ship tries no early exit, None where it does."""
    if run.data.guard is None:
        return "no text is there that nothing was fitted to, so none can certify it"
    if run.kind != SINGLE_LABEL:
        return f"a text leaves early where one class is far ahead, and this model gives {WORDS[run.kind]}"
    if relative_positions(run.source.config) or not run.tokenizer.is_fast:
        return "a model with relative positions, or without a fast tokenizer, cannot be cut"
    if len(run.exit_text) < LEAST_ROWS or len(run.guard) < rows_needed(spec.max_flips, spec.confidence):
        return "too few texts to fit or to certify it"
    layers = run.teacher_source.layers if spec.model == "full" else run.compressed_source.layers
    if layers < 2 or run.late:
        return "a model of one layer has no exit" if layers < 2 else "the time for compositions is over"
    return None


def compute(run: Run, folder: Path) -> None:
    """Fit exits on training text, cut the fused graph, and certify thresholds with the finished files."""
    spec, target = run.cascade, folder / FOLDER
    target.mkdir(parents=True)
    if run.recipe.ship is not None and (reason := obstacle(run, spec)):
        write_json(folder / FITTED, {"left_out": reason})
        return
    full = spec.model == "full"
    source = run.teacher_source if full else run.compressed_source
    model, family = (run.teacher if full else run.compressed), run.family
    text, own = run.exit_text, full and spec.precision == "float32"
    logits = None if own else predict(run.teacher, text, track=run.track, description="full model")
    with (
        fused_file(run, source, "onnx" if not full else FULL_ONNX) as fused,
        nullcontext(fused) if full else fused_file(run, run.teacher_source, FULL_ONNX) as whole_file,
    ):
        built = build_cascade(
            target, model, family, fused, work_of(run, source), spec, text, len(run.guard),
            targets=logits, full=(whole_file, work_of(run, run.teacher_source)), track=run.track,
            observed=invented(run.tokenizer, run.source.config["vocab_size"], longest_input(run.source.config)),
        )  # fmt: skip
    plan, work = built.plan, built.work
    with quiet():
        run.tokenizer.save_pretrained(target)
    write_settings(run, target, plan.exits, work.layers)
    if run.recipe.ship is not None:  # calibration is the guard, and the pass that scored the layers kept its answers
        teacher = load_array(run.path, "calibration_logits")
    else:
        teacher = predict(run.teacher, run.guard, track=run.track, description="certificate, full model")
    outcome = measured_outcome(target, work, plan.exits, run.guard, teacher, PROVIDERS[run.device])
    certificate = certify(plan.path, outcome, spec.max_flips, spec.confidence)
    write_settings(run, target, plan.exits, work.layers, certificate)
    whole = full_work(run, run.guard).mean()
    share = work.costs((), run.guard.lengths)[-1].mean() / whole  # the plan knows the work of this model alone
    write_json(
        folder / FITTED,
        {
            "model": spec.model,
            "precision": spec.precision,
            "speed": work.speed,
            "exit_work": work.exit_work,
            "full": plan.exits[-1] == work.layers,
            "layers": work.layers,
            "fit_rows": len(text),
            "exits": exit_entries(built, certificate.thresholds),
            "candidates": [{**entry, "work": entry["work"] and share * entry["work"]} for entry in plan.candidates],
            "aimed_rate": plan.rate,
            "certificate": {
                **asdict(certificate),
                "source": run.provenance["guard"],
                "thresholds": [json_number(value) for value in certificate.thresholds],
                "shares": shares(outcome, certificate.thresholds),
                "work": outcome.cost(certificate.thresholds) / whole,
            },
            "path": path_points(plan.path, outcome, certificate, whole),
        },
    )


def exit_entries(built: Built, thresholds: Thresholds) -> list[dict[str, Any]]:
    """Return layer, threshold, explained variance and ridge strength of every exit; the end of the layers has no head."""
    fits = {fit.head.layer: fit for fit in built.fits}
    return [
        {
            "layer": layer,
            "threshold": json_number(value),
            "explained": fits[layer].explained if layer in fits else None,
            "strength": fits[layer].strength if layer in fits else None,
        }
        for layer, value in zip(built.plan.exits, thresholds, strict=True)
    ]


def measured_outcome(
    directory: Path,
    work: EncoderWork,
    exits: tuple[int, ...],
    encodings: Encodings,
    wanted: np.ndarray,
    provider: str = "CPUExecutionProvider",
) -> Outcome:
    """Return what the exported parts do on all rows, each row passed through every part.

    `provider` is where the cascade is to run: the GPU rounds otherwise, and the certificate covers what it is given.
    """
    classifier = CascadeClassifier(directory, providers=(provider,), threads=torch.get_num_threads())
    found = [np.zeros_like(wanted) for _ in range(len(exits) + 1)]
    for rows, batch in padded_batches(encodings, 32):
        for part, logits in zip(found, classifier.every_logit(batch), strict=True):
            part[rows] = logits
    return outcome_of(work, exits, dict(zip(exits, found, strict=False)), found[-1], wanted, encodings.lengths)


def write_settings(
    run: Run, folder: Path, exits: tuple[int, ...], layers: int, certificate: Certificate | None = None
) -> None:
    """Write cascade.json and README.md beside the parts; without a certificate nothing leaves early."""
    thresholds = (np.inf,) * len(exits) if certificate is None else certificate.thresholds
    settings = {
        "parts": part_names(sum(layer < layers for layer in exits), full=exits[-1] == layers),
        "exits": list(exits),
        "layers": layers,
        "precision": run.cascade.precision,
        "full": exits[-1] == layers,
        "thresholds": [json_number(value) for value in thresholds],
        **text_settings(
            run.tokenizer, run.data.label_names, max_length=run.recipe.data.max_length, texts=len(run.data.text_columns)
        ),
        "certified": certificate is not None and certificate.met,
        "certified_on": certificate and f"{certificate.rows:,} texts {run.provenance['guard']}",
        "max_flips": run.cascade.max_flips,
        "confidence": run.cascade.confidence,
    }
    for name, text in words_beside(folder, "cascade", settings).items():
        (folder / name).write_text(text, encoding="utf-8")


def json_number(value: float) -> float | None:
    """Return a threshold as JSON knows it: null for one that nothing reaches."""
    return float(value) if np.isfinite(value) else None


def shares(outcome: Outcome, thresholds: Thresholds) -> list[float]:
    """Return the share of rows that leaves at each exit, and at the end."""
    left = outcome.leaves(thresholds)
    return [float((left == part).mean()) for part in range(len(thresholds) + 1)]


def path_points(
    path: list[Thresholds], outcome: Outcome, certificate: Certificate, whole: float
) -> list[dict[str, Any]]:
    """Return flips, their bound and the work of the path's points on the certification rows, for the report.

    Points far beyond the certificate are left out.
    """
    points = []
    for index, thresholds in enumerate(path):
        flips = outcome.flips(thresholds)
        bound = rate_upper_bound(flips, certificate.rows, certificate.confidence)
        points.append({
            "thresholds": [json_number(value) for value in thresholds],
            "flips": flips / certificate.rows, "bound": bound, "work": outcome.cost(thresholds) / whole,
            "tested": index < certificate.tested,
        })  # fmt: skip
        if bound > 4 * certificate.max_flips and index >= certificate.tested:
            break
    return points


def tried(recipe: Recipe) -> bool:
    """Return whether the recipe asks for an early exit, or leaves it to the run what to ship and lets predictions change."""
    return wanted(recipe) or (recipe.ship is not None and recipe.ship.exits)


def cost(run: Run) -> str:
    """Return the expected work."""
    spec, data = run.recipe.cascade, run.data
    if spec is None:
        return f"exits behind every layer fitted on {EXIT_TEXTS} texts, where texts are there that can certify them"
    texts = min(spec.fit_size, len(data.train) + len(data.selection))
    exits = "every layer" if spec.exits == "auto" else layers_text(spec.exits)
    bits = " to 8-bit states" if spec.precision == "int8" else ""
    return f"exits behind {exits} fitted{bits} on {texts} texts, certified on {len(data.guard)} calibration rows"


STAGE = Stage(
    "cascade",
    (FOLDER, FITTED),
    ("teacher", "model", "onnx"),
    inputs,
    compute,
    cost,
    tried,
    shared=lambda recipe: recipe.ship is None,
)
