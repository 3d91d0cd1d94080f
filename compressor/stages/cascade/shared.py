"""What both stages of the guarded early exit need: its work and the fused file."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from compressor.cascade.plan import EncoderWork
from compressor.cascade.runtime import CascadeClassifier
from compressor.data.batches import Encodings, padded_batches
from compressor.export.onnx import Job, export_optimized, quiet
from compressor.model.load import ModelSource
from compressor.model.sublayers import any_shape
from compressor.recipe.compression import Recipe
from compressor.run.run import Run

FOLDER, FITTED, MEASURED = "onnx/cascade", "cascade.json", "cascade_evaluation"


@contextmanager
def fused_file(run: Run, source: ModelSource, exported: str) -> Iterator[Path]:
    """Yield the fused ONNX file of the model at `source`: the one below `exported` that the run made, or one for now."""
    made = run.path / exported / "optimized" / "model.onnx"
    if "optimized" in run.variants and made.is_file():
        yield made
        return
    with tempfile.TemporaryDirectory() as work:
        with quiet():
            file = export_optimized(Job.of(source, Path(work), run.tail, run.recipe.export.opset))
        yield file


def work_of(run: Run, source: ModelSource, speed: float = 1.0) -> EncoderWork:
    """Return what decides the encoder's work of the model at `source`, and of the full one where texts may start again.

    `speed` is the time of an operation as a share of one in float32.
    """
    family, tail = run.family, run.tail is not None

    def work(model: ModelSource) -> EncoderWork:
        config = model.config
        return EncoderWork(config[family.width_key], any_shape(config), tail)

    return replace(work(source), speed=speed, full=work(run.teacher_source))


def full_work(run: Run, encodings: Encodings) -> np.ndarray:
    """Return the encoder FLOPs [N] of the full model for each row: what every share of work refers to."""
    return work_of(run, run.teacher_source).costs((), encodings.lengths)[-1]


def answers(classifier: CascadeClassifier, encodings: Encodings, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits [N, C] of all rows, and the index of the part that gave them, int64 [N]."""
    logits = np.zeros((len(encodings), classes), dtype=np.float32)
    left = np.zeros(len(encodings), dtype=np.int64)
    for rows, batch in padded_batches(encodings, 32):
        logits[rows], left[rows] = classifier.run(batch)
    return logits, left


def wanted(recipe: Recipe) -> bool:
    """Return whether the recipe asks for an early exit."""
    return recipe.cascade is not None
