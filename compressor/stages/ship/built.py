"""What a run has built that could be shipped: models and files, how they answer and how they are timed."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedModel

from compressor.cascade.runtime import SETTINGS, CascadeClassifier
from compressor.data.batches import Encodings
from compressor.files import read_json
from compressor.measurement.cost import weight_bytes
from compressor.measurement.machine.environment import multiplies_bfloat16, processor
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import Batch, Subject
from compressor.measurement.timing.subjects import onnx_subject, padded, replaying, torch_subject
from compressor.model.load import load_classifier
from compressor.recipe.ship import BaselineSpec
from compressor.report.formats import CASCADE
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.cascade.shared import FOLDER
from compressor.stages.cascade.shared import answers as cascade_answers

PLAIN, SPARED = "alltokens", "optimized"
"""The fused float32 files: of all that the model computes, and without what changes no prediction."""
FILES = {"int8": "int8", "float16": "fp16"}
"""Precision -> the file that is in it; the others are in float32."""


@dataclass(frozen=True)
class Built:
    """A composition on disk. `path` is relative to the run directory, `key` its name among the variants of result.json.

    `whole` says that no layer and no part of one is gone, `exits` that texts may leave early. `threads` are those of its
    ONNX Runtime sessions, None for as many as PyTorch has.
    """

    variant: str
    key: str
    path: str
    engine: str
    precision: str
    whole: bool
    exits: bool = False
    threads: int | None = None

    @property
    def branch(self) -> str:
        """The series of compositions that it is tested in."""
        return "exits" if self.exits else "whole" if self.whole else "compressed"


FULL = Built("pytorch", "full", "", "pytorch", "float32", whole=True)
"""The full model in PyTorch, float32, each batch padded to its longest text."""
COMPRESSED = Built("pytorch/float32", "compressed", "model", "pytorch", "float32", whole=False)
"""The same of what is left of it."""


def built(run: Run) -> list[Built]:
    """Return everything that this run could ship, on the engines that the recipe allows.

    Within a branch they come in the order in which they are tested, from what changes least to what changes most.
    """
    whole, engines, found = not run.lost_units, run.recipe.ship.engines, []
    sides = [("onnx", whole)] if whole else [(FULL_ONNX, True), ("onnx", False)]
    if "onnx" in engines and run.tail and run.device != "cpu":
        # where launching operations takes longer than computing them, the tail's fewer rows do not pay for its more nodes
        found.append(file_of(FULL_ONNX, PLAIN, whole=True))
    for folder, side in sides:
        if "onnx" in engines:
            found += [file_of(folder, variant, side) for variant in run.variants]
        if "pytorch" in engines and side == whole:
            if not side:
                found.append(COMPRESSED)
            if half := half_precision(run):
                found.append(Built(f"pytorch/{half}", f"pytorch_{half}", "model", "pytorch", half, side))
    if "onnx" in engines and certified(run):
        precision = read_json(run.path / FOLDER / SETTINGS).get("precision", "float32")
        found.append(Built(FOLDER, CASCADE, FOLDER, "onnx", precision, whole, exits=True))
    return found


def file_of(folder: str, variant: str, whole: bool) -> Built:
    """Return the ONNX file of a `variant` below `folder`."""
    precision = next((name for name, file in FILES.items() if file == variant), "float32")
    key = f"{'full_' if folder == FULL_ONNX else ''}onnx_{variant}"
    return Built(f"{folder}/{variant}", key, f"{folder}/{variant}", "onnx", precision, whole)


def half_precision(run: Run) -> str | None:
    """Return the 16-bit precision that PyTorch is faster in on the run's device, None where there is none."""
    if run.device.startswith("cuda"):
        return "float16"
    return "bfloat16" if multiplies_bfloat16(processor()["instructions"]) else None


def certified(run: Run) -> bool:
    """Return whether the run has an early exit that passed its certificate."""
    file = run.path / FOLDER / SETTINGS
    return file.is_file() and bool(read_json(file).get("certified"))


def torch_model(run: Run, entry: Built) -> PreTrainedModel:
    """Return the PyTorch model of a composition, in its precision; a copy of its own."""
    source = run.teacher_source if entry.whole else run.compressed_source
    return load_classifier(source, device=run.device).to(getattr(torch, entry.precision))


def answers_of(run: Run, entry: Built, encodings: Encodings) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the logits [N, C] that a composition gives, and of early exits the part that gave each row's, int64 [N]."""
    if entry.engine == "pytorch":
        return predict(torch_model(run, entry), encodings, track=run.track, description=entry.variant), None
    provider = PROVIDERS[run.device]
    if entry.exits:
        classifier = CascadeClassifier(run.path / entry.path, providers=(provider,))
        return cascade_answers(classifier, encodings, run.classes)
    opened = session(run.path / entry.path / "model.onnx", provider=provider)
    return predict_onnx(opened, encodings, track=run.track), None


def subject_of(run: Run, entry: Built) -> Subject:
    """Return what the benchmark times of a composition."""
    threads, provider = entry.threads or torch.get_num_threads(), PROVIDERS[run.device]
    if entry.engine == "pytorch":
        return torch_subject(torch_model(run, entry))
    if entry.exits:
        classifier = CascadeClassifier(run.path / entry.path, providers=(provider,), threads=threads)
        return lambda batch: classifier.run(batch)
    return onnx_subject(session(run.path / entry.path / "model.onnx", provider=provider, threads=threads))


def baseline_subject(run: Run, spec: BaselineSpec, batches: Sequence[Batch]) -> Subject:
    """Return what the benchmark times of what runs today, as `spec` describes it, on one of `batches`."""
    model = run.teacher
    if spec.dtype != "float32":
        model = load_classifier(run.teacher_source, device=run.device).to(getattr(torch, spec.dtype))
    subject = torch_subject(model, compiled=spec.compile)
    if spec.padding == "dynamic":
        return subject
    length, pad_id = run.recipe.data.max_length, run.tokenizer.pad_token_id
    return replaying(subject, batches, [padded(batch, length, pad_id) for batch in batches])


def bytes_of(run: Run, entry: Built) -> int:
    """Return the size of the weights of a composition on disk."""
    if entry.exits:
        return sum(file.stat().st_size for file in (run.path / entry.path).glob("*.onnx*"))
    folder = run.path / entry.path
    if entry.engine == "pytorch" and entry.whole:
        folder = run.teacher_source.path
    return weight_bytes(folder)
