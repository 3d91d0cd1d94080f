"""result.json: what the stages hand over, and what no single one of them knows."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from compressor.data.answers.kinds import Task
from compressor.files import read_json
from compressor.measurement.cost import weight_bytes
from compressor.model.units import Unit
from compressor.pipeline.answer import answer_of
from compressor.pipeline.goals import judge_goals, with_speed
from compressor.report.formats import CASCADE, is_full
from compressor.run.run import Run
from compressor.run.rundir import StageRecord
from compressor.run.variants import FULL_ONNX, answer_entry, variant_flops
from compressor.stages.cascade.evaluation import measured_answers, measured_work
from compressor.stages.predictions import evaluation_logits, shipped_parts
from compressor.stages.stage import Stage


def build_result(run: Run, stages: Sequence[Stage], records: Sequence[StageRecord]) -> dict[str, Any]:
    """Return the content of result.json (schema 1) from the files that the stages wrote."""
    recipe, data, logits = run.recipe, run.data, evaluation_logits(run)
    parts = merged(stage.result(run) for stage in stages)
    plan, shipped, guarded = parts["plan"], parts["shipped"], parts["cascade"]
    parameters, latency = read_json(run.path / "model.json")["parameters"], read_json(run.path / "latency.json")["rows"]
    own = {
        name: {**_variant(run, name, logits, parameters, plan["units"]), "latency": latency.get(name, [])}
        for name in logits
    }
    left = shipped_parts(run)
    if left is not None:  # what an early exit that is shipped took: the rows that left do not run through every layer
        found = measured_work(run, parts["ship"]["exits"], left, own[CASCADE]["versus_full"])
        parts["ship"]["exits"]["evaluation"], own[CASCADE]["encoder_flops"] = found
    variants = {**own, **parts.get("variants", {})}
    if guarded:
        logits[CASCADE] = measured_answers(run)[0]
    answer = None
    if recipe.ship is not None:
        times = read_json(run.path / "latency.json")["answer"]
        answer = answer_of(
            recipe.ship, recipe.benchmark.baseline, parts["ship"], times, variants, data.evaluation.counted
        )
    # the file to ship was named without the evaluation split, so no other may be signed off by it
    signed = {CASCADE, f"onnx_{shipped['variant']}"} if shipped else set(variants)
    return {
        "schema": 1,
        "name": recipe.name,
        "recipe": recipe.model_dump(mode="json"),
        "data": {
            "task": data.name,
            "splits": {
                name: {"rows": len(split), "sha256": split.sha256}
                for name in ("train", "calibration", "selection", "evaluation", "guard")
                for split in [getattr(data, name)]
                if split is not None
            },
            "removed_overlaps": data.removed_overlaps,
            "removed_copies": data.removed_copies,
            "skipped_rows": data.skipped_rows,
            "warnings": [
                *data.warnings,
                *(note for stage in stages if stage.wanted(recipe) for note in stage.notes(run)),
            ],
            "provenance": run.provenance,
            "label_names": data.label_names,
            "texts": len(data.text_columns),
            "answers": answers_said(run.task),
        },
        **parts,
        "answer": answer,
        "variants": variants,
        "goals": judge_goals(
            recipe.goals,
            logits,
            data.evaluation.labels,
            {name: entry for name, entry in variants.items() if name in signed},
            with_speed(plan["goals"], parts["timing"]),
            unskipped=(CASCADE,) if guarded and guarded["model"] == "full" else (),
            task=run.task.bound(data.evaluation),
        ),
        "stages": [asdict(record) for record in records],
    }


def answers_said(task: Task) -> dict[str, Any]:
    """Return what the answers are and what they are measured by, for whoever reads the result."""
    return {**task.told(), "metric": task.metric, "counted": task.row.counted}


def merged(parts: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the parts as one; what several say under one key is put together, and must itself be a dict."""
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            whole[key] = {**whole[key], **value} if key in whole else value
    return whole


def _variant(
    run: Run, name: str, logits: dict[str, np.ndarray], parameters: dict[str, int], units: Sequence[Unit]
) -> dict[str, Any]:
    """Return the entry of one variant, but for its latency: a PyTorch model or an ONNX file, full or without `units`."""
    full = is_full(name)
    directory = run.teacher_source.path if full else run.path / "model"
    if "onnx" in name:
        directory = run.path / (FULL_ONNX if full else "onnx") / name.rpartition("_")[2]
    return {
        **answer_entry(run, logits[name], logits["full"], name),
        "parameters": parameters["full" if full else "compressed"],
        "encoder_flops": variant_flops(run, name, () if full else units),
        "bytes": weight_bytes(directory),
    }
