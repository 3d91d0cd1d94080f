"""The stage of the guarded early exit: fit its heads, cut the graph, certify thresholds."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressor.cascade.exits import fit_exits
from compressor.cascade.parts import part_names, write_parts
from compressor.cascade.plan import EncoderWork, layers_to_try, outcome_of, plan_cascade
from compressor.cascade.runtime import SETTINGS, CascadeClassifier
from compressor.cascade.thresholds import Certificate, Outcome, Thresholds, certify
from compressor.data.batches import Encodings, padded_batches
from compressor.export.onnx import quiet
from compressor.files import write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.predictions import predict
from compressor.measurement.statistics import rate_upper_bound
from compressor.model.load import find_model
from compressor.report.formats import layers_text
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.cascade.shared import FITTED, FOLDER, full_work, fused_file, wanted, work_of
from compressor.stages.stage import Stage, spec_json


def inputs(run: Run) -> dict[str, Any]:
    """Return what the guarded early exit depends on."""
    data = run.data
    texts = {"train": data.train.sha256, "selection": data.selection.sha256, "guard": data.guard and data.guard.sha256}
    shared = {"max_length": run.recipe.data.max_length, "device": run.device}  # the certificate is that of its device
    shared["source"] = run.provenance.get("guard")
    return {"cascade": spec_json(run.recipe.cascade), "texts": texts, **shared}


def compute(run: Run, folder: Path) -> None:
    """Fit exits on training text, cut the fused graph, and certify thresholds with the finished files."""
    spec, target = run.recipe.cascade, folder / FOLDER
    full = spec.model == "full"
    source = run.teacher_source if full else find_model(str(run.path / "model"))
    model, family = (run.teacher if full else run.compressed), run.family
    work = work_of(run, source)
    text = run.exit_text
    logits = None if full else predict(run.teacher, text, track=run.track, description="full model")
    layers = layers_to_try(spec.exits, work.layers)
    fits, held = fit_exits(model, family, text, layers, logits, track=run.track)
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
                "source": run.provenance["guard"],
                "thresholds": [json_number(value) for value in certificate.thresholds],
                "shares": shares(outcome, certificate.thresholds),
                "work": outcome.cost(certificate.thresholds) / whole,
            },
            "path": path_points(plan.path, outcome, certificate, whole),
        },
    )


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
        "certified_on": certificate and f"{certificate.rows:,} texts {run.provenance['guard']}",
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


def cost(run: Run) -> str:
    """Return the expected work."""
    spec, data = run.recipe.cascade, run.data
    texts = min(spec.fit_size, len(data.train) + len(data.selection))
    exits = "every layer" if spec.exits == "auto" else layers_text(spec.exits)
    return f"exits behind {exits} fitted on {texts} texts, certified on {len(data.guard)} calibration rows"


STAGE = Stage("cascade", (FOLDER, FITTED), ("teacher", "model", "onnx"), inputs, compute, cost, wanted)
