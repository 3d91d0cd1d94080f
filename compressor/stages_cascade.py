"""The stages of the guarded early exit: fit, cut and certify it; then measure it on the evaluation split."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.cascade.exits import fit_exits
from compressor.cascade.parts import part_names, write_parts
from compressor.cascade.plan import EncoderWork, layers_to_try, outcome_of, plan_cascade
from compressor.cascade.runtime import SETTINGS, CascadeClassifier
from compressor.cascade.thresholds import Certificate, Outcome, Thresholds, certify
from compressor.data.batches import Encodings, padded_batches
from compressor.export.onnx import Job, export_optimized, quiet
from compressor.measurement.latency import WORKLOAD, Cell, benchmark, workload_batches
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import session
from compressor.measurement.statistics import rate_upper_bound
from compressor.measurement.subjects import onnx_subject
from compressor.model.load import ModelSource, find_model
from compressor.model.sublayers import any_shape
from compressor.run import Run
from compressor.rundir import write_json
from compressor.stages import FULL_ONNX, PROVIDERS

CASCADE = "onnx_cascade"
"""Name of the cascade among the variants."""
FOLDER, FITTED, MEASURED = "onnx/cascade", "cascade.json", "cascade_evaluation"


def make_cascade(run: Run, folder: Path) -> None:
    """Fit exits on training text, cut the fused graph, and certify thresholds with the finished files."""
    spec, target = run.recipe.cascade, folder / FOLDER
    full = spec.model == "full"
    source = run.teacher_source if full else find_model(str(run.path / "model"))
    model, family = (run.teacher if full else run.compressed), run.family
    work = work_of(run, source)
    text = run.exit_text
    wanted = None if full else predict(run.teacher, text, track=run.track, description="full model")
    layers = layers_to_try(spec.exits, work.layers)
    fits, held = fit_exits(model, family, text, layers, wanted, track=run.track)
    plan = plan_cascade(fits, held, text.lengths[held.rows], work, spec, len(run.guard))
    target.mkdir(parents=True)
    taken = [fit for fit in fits if fit.head.layer in plan.exits]
    with fused_file(run, source, "onnx" if not full else FULL_ONNX) as fused:
        write_parts(fused, model, family, [fit.head for fit in taken], target)
    with quiet():
        run.tokenizer.save_pretrained(target)
    write_settings(run, target, plan.exits, work.layers)
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
            "layers": work.layers,
            "fit_rows": len(text),
            "exits": [
                {
                    "layer": fit.head.layer,
                    "threshold": json_number(value),
                    "explained": fit.explained,
                    "strength": fit.strength,
                }
                for fit, value in zip(taken, certificate.thresholds, strict=True)
            ],
            "candidates": [{**entry, "work": entry["work"] and share * entry["work"]} for entry in plan.candidates],
            "aimed_rate": plan.rate,
            "certificate": {
                **asdict(certificate),
                "thresholds": [json_number(value) for value in certificate.thresholds],
                "shares": shares(outcome, certificate.thresholds),
                "work": outcome.cost(certificate.thresholds) / whole,
            },
            "path": path_points(plan.path, outcome, certificate, whole),
        },
    )


def make_cascade_evaluation(run: Run, folder: Path) -> None:
    """Answer the evaluation split with the cascade, row by row as a user would, and time it on the real workload."""
    spec, provider = run.recipe.benchmark, PROVIDERS[run.device]
    classifier = CascadeClassifier(run.path / FOLDER, providers=(provider,), threads=torch.get_num_threads())
    logits, exits = answers(classifier, run.evaluation, run.classes)
    np.savez(folder / f"{MEASURED}.npz", logits=logits, exits=exits)
    latency: dict[str, Any] = {"rows": [], "noise_floor": []}
    if spec.workload:
        latency = _time(run, classifier, provider)
    write_json(folder / f"{MEASURED}.json", latency)


def answers(classifier: CascadeClassifier, encodings: Encodings, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits [N, C] of all rows, and the index of the part that gave them, int64 [N]."""
    logits = np.zeros((len(encodings), classes), dtype=np.float32)
    left = np.zeros(len(encodings), dtype=np.int64)
    for rows, batch in padded_batches(encodings, 32):
        logits[rows], left[rows] = classifier.run(batch)
    return logits, left


@contextmanager
def fused_file(run: Run, source: ModelSource, exported: str) -> Iterator[Path]:
    """Yield the fused ONNX file of the model at `source`: the one below `exported` that the run made, or one for now."""
    made = run.path / exported / "optimized" / "model.onnx"
    if "optimized" in run.variants and made.is_file():
        yield made
        return
    with tempfile.TemporaryDirectory() as work:
        with quiet():
            file = export_optimized(Job(source, Path(work), run.tail, run.recipe.export.opset))
        yield file


def _time(run: Run, classifier: CascadeClassifier, provider: str) -> dict[str, Any]:
    """Time the cascade against the fused full model, on batches of evaluation texts in their real lengths."""
    spec = run.recipe.benchmark
    with fused_file(run, run.teacher_source, FULL_ONNX) as fused:
        opponent = onnx_subject(session(fused, provider=provider, threads=torch.get_num_threads()))
        measured = benchmark(
            {"full": opponent, CASCADE: lambda batch: classifier.run(batch)},
            {CASCADE: "full"},
            dict.fromkeys(("full", CASCADE), provider),
            [Cell(size, WORKLOAD, workload_batches(run.evaluation, size)) for size in spec.batch_sizes],
            min_seconds=spec.min_seconds,
            min_runs=spec.min_runs,
            max_seconds=spec.max_seconds,
            seed=run.recipe.seed,
            track=run.track,
        )
    rows = [
        {**row, "against_p50_ms": full["p50_ms"]}
        for row, full in zip(measured.latency[CASCADE], measured.latency["full"], strict=True)
    ]
    return {"rows": rows, "noise_floor": measured.noise_floor}


def work_of(run: Run, source: ModelSource) -> EncoderWork:
    """Return what decides the encoder's work of the model at `source`."""
    config, family = source.config, run.family
    tail = run.tail is not None
    return EncoderWork(config[family.width_key], config[family.heads_key], any_shape(config), tail=tail)


def full_work(run: Run, encodings: Encodings) -> np.ndarray:
    """Return the encoder FLOPs [N] of the full model for each row: what every share of work refers to."""
    return work_of(run, run.teacher_source).costs((), encodings.lengths)[-1]


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
    classifier = CascadeClassifier(directory, providers=(provider,))
    found = [np.zeros_like(wanted) for _ in range(len(exits) + 1)]
    for rows, batch in padded_batches(encodings, 32):
        for part, logits in zip(found, classifier.every_logit(batch), strict=True):
            part[rows] = logits
    return outcome_of(work, exits, dict(zip(exits, found, strict=False)), found[-1], wanted, encodings.lengths)


def write_settings(
    run: Run, folder: Path, exits: tuple[int, ...], layers: int, certificate: Certificate | None = None
) -> None:
    """Write what the runtime needs to know beside the parts; without a certificate nothing leaves early."""
    thresholds = (np.inf,) * len(exits) if certificate is None else certificate.thresholds
    settings = {
        "parts": part_names(len(exits)),
        "exits": list(exits),
        "layers": layers,
        "thresholds": [json_number(value) for value in thresholds],
        "label_names": list(run.data.label_names),
        "texts": len(run.data.text_columns),
        "max_length": run.recipe.data.max_length,
        "pad_id": run.tokenizer.pad_token_id,
        "truncation_side": run.tokenizer.truncation_side,
        "token_types": "token_type_ids" in run.tokenizer.model_input_names,
        "certified": certificate is not None and certificate.met,
        "max_flips": run.recipe.cascade.max_flips,
        "confidence": run.recipe.cascade.confidence,
    }
    (folder / SETTINGS).write_text(json.dumps(settings, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
