"""The stage that exports the compressed model in every variant, and counts the nodes."""

import shutil
from pathlib import Path
from typing import Any

from compressor.export.onnx import export_variants
from compressor.export.optimize import fused_nodes
from compressor.files import read_json, write_json
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.stage import Stage, spec_json


def inputs(run: Run) -> dict[str, Any]:
    """Return what the ONNX files depend on."""
    texts = {
        "max_length": run.recipe.data.max_length,
        "texts": len(run.data.text_columns),
    }  # in what lies beside the files
    return {"export": spec_json(run.recipe.export), "variants": run.variants, **texts, **run.task_inputs}


def compute(run: Run, folder: Path) -> None:
    """Export the compressed model in every variant; count the nodes."""
    if run.recipe.ship is not None and not run.lost_units:  # the same model, so the same files
        for variant in run.variants:
            shutil.copytree(run.path / FULL_ONNX / variant, folder / "onnx" / variant)
        files = {
            name: entry for name, entry in read_json(run.path / f"{FULL_ONNX}.json").items() if name in run.variants
        }
    else:
        files = export(run, run.path / "model", folder / "onnx", run.variants)
    write_json(folder / "onnx.json", files)


def export(run: Run, source: Path, target: Path, variants: list[str]) -> dict[str, dict[str, Any]]:
    """Write `variants` of the model at `source` below `target`; return the nodes of each by kind."""
    files = export_variants(
        source, target, variants, form=run.tail, opset=run.recipe.export.opset, track=run.track,
        max_length=run.recipe.data.max_length, texts=len(run.data.text_columns), task=run.task,
    )  # fmt: skip
    return {name: {"operators": file.operators, "exported": file.exported} for name, file in files.items()}


def operators_of(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Return the nodes by kind of the exporter's graph (`exported`) and of each file made from it."""
    if not files:
        return {}
    first = next(iter(files.values()))
    return {"exported": first["exported"], **{name: entry["operators"] for name, entry in files.items()}}


def result(run: Run) -> dict[str, Any]:
    """Return the nodes of each file by kind, and those of them that are fused."""
    operators = operators_of(read_json(run.path / "onnx.json"))
    fused = {name: fused for name, counts in operators.items() if (fused := fused_nodes(counts))}
    return {"operators": operators, "fused_nodes": fused}


STAGE = Stage(
    "onnx",
    ("onnx", "onnx.json"),
    ("model", "tail", FULL_ONNX),
    inputs,
    compute,
    lambda run: ", ".join(run.variants) or "none",
    result=result,
)
