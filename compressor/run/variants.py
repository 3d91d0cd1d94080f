"""The models and files of a run: what they are called, where they lie, what work their encoders do."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressor.export.onnx import STOCK
from compressor.measurement.cost import cls_row_flops, shape_flops
from compressor.measurement.predictions import fingerprint
from compressor.measurement.statistics import compare, metrics
from compressor.model.sublayers import any_shape
from compressor.model.units import Unit, shape_left
from compressor.run.run import Run

FULL_ONNX = "full-onnx"
"""Folder of the full model's ONNX files."""
SPARED, ALL_ROWS = "full_onnx_optimized", "full_onnx_alltokens"
"""The full model's fused float32 file with and without the exact savings."""


def onnx_files(run: Run) -> dict[str, Path]:
    """Return variant name of result.json -> ONNX file, the full model's right before the compressed one's."""
    return {
        f"{prefix}onnx_{variant}": run.path / folder / variant / "model.onnx"
        for variant in run.full_variants
        for prefix, folder, made in (("full_", FULL_ONNX, run.full_variants), ("", "onnx", run.variants))
        if variant in made
    }


def variant_flops(run: Run, name: str, units: Sequence[Unit]) -> int:
    """Return the encoder FLOPs of a variant without `units`; the last layer counts for one row where it has a tail."""
    config = run.source.config
    hidden = config[run.family.width_key]
    shape = shape_left(units, any_shape(config))
    flops = shape_flops(shape, hidden)
    if "onnx" not in name or name.rpartition("_")[2] in STOCK or run.tail is None:
        return flops
    last = shape.each()[-1]
    return flops - shape_flops(last, hidden) + cls_row_flops(last, hidden, form=run.tail)


def answer_entry(run: Run, logits: np.ndarray, full: np.ndarray, name: str) -> dict[str, Any]:
    """Return what a variant's entry says of its answers: logits [N, C] on the evaluation split, beside the full model's."""
    labels, task = run.data.evaluation.labels, run.task.bound(run.data.evaluation)
    measured = asdict(metrics(logits, labels, task)) if labels is not None else {}
    versus = None if name == "full" else compare(full, logits, labels, task=task)
    return {
        **{key: measured.get(key) for key in ("accuracy", "accuracy_ci95", "f1", "mcc")},
        **({"metrics": measured["more"]} if measured.get("more") else {}),
        "predictions_sha256": fingerprint(logits, task),
        "versus_full": asdict(versus) if versus else None,
    }
