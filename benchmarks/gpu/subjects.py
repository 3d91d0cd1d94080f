"""The ways in which the GPU benchmark runs a model, each under a name that says all of them; answers held against PyTorch."""

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors
from transformers import BertConfig

from benchmarks.gpu.models import Files, Size
from compressor.errors import UserError
from compressor.measurement.machine.libraries import CUDA
from compressor.measurement.machine.providers import CPU
from compressor.measurement.runtime import session
from compressor.measurement.timing.cuda_graph import graph_subject
from compressor.measurement.timing.latency import Batch, Subject, grid_batches, settle
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.model.load import find_model, load_classifier

FAILURES = UserError, torch.OutOfMemoryError, ort_errors.Fail, ort_errors.RuntimeException
"""What makes one subject impossible here and leaves the others as they are."""
TOLERANCE = {"fp32": 1e-3, "tf32": 2e-2, "fp16": 5e-2, "bf16": 2e-1}
"""Largest logit difference from PyTorch's float32 that a precision may cause; random weights give logits below 1."""

WORDS = {"tf32": "TF32", "bf16": "bf16 autocast"}


@dataclass(frozen=True)
class Way:
    """One way to run one model; `tail`: the last layer computes the [CLS] row alone. `detail` sets apart what is alike."""

    layers: int
    engine: str
    precision: str
    tail: bool = False
    detail: str = ""

    @property
    def name(self) -> str:
        """What a reader sees."""
        layers = f"{self.layers} layer{'s' * (self.layers != 1)}"
        tail = "CLS tail" if self.tail else ""
        parts = [layers, WORDS.get(self.precision, self.precision), self.engine, tail, self.detail]
        return ", ".join(part for part in parts if part)

    def facts(self, device: str) -> dict[str, Any]:
        """Return the same as plain values, with the device."""
        return {"layers": self.layers, "engine": self.engine, "precision": self.precision, "tail": self.tail,
                "detail": self.detail, "device": device}  # fmt: skip


def engines(device: str) -> list[str]:
    """Return the names of ONNX Runtime's ways on a device."""
    return ["ORT CUDA", "ORT CUDA graph"] if device == "cuda" else ["ORT CPU"]


def onnx_way(file: Path, engine: str, precision: str) -> Subject:
    """Return a subject of an ONNX file.

    ONNX Runtime multiplies float32 in TensorFloat-32 unless told not to, PyTorch does not: `precision` decides for both.
    """
    if engine == "ORT CPU":
        return onnx_subject(session(file, provider=CPU, threads=torch.get_num_threads()))
    options = {"use_tf32": str(int(precision == "tf32")), "arena_extend_strategy": "kSameAsRequested"}
    if engine == "ORT CUDA":
        return onnx_subject(session(file, provider=CUDA, options=options))
    opened = session(file, provider=CUDA, options={**options, "enable_cuda_graph": "1"})
    if opened.get_provider_options()[CUDA].get("enable_cuda_graph") != "1":
        raise UserError(f"{file}: ONNX Runtime opened it without CUDA graphs.")
    return graph_subject(opened, file)


def torch_way(model: torch.nn.Module, precision: str, compiled: bool = False) -> Subject:
    """Return a subject of a PyTorch model whose weights fit `precision` (bf16 and tf32 take float32 weights)."""
    run = torch_subject(model, compiled=compiled)
    device = next(model.parameters()).device.type
    if precision == "bf16":

        def autocast(batch: Batch) -> object:
            with torch.autocast(device, dtype=torch.bfloat16):
                return run(batch)

        return autocast
    if precision == "tf32":

        def tensor_float(batch: Batch) -> object:
            before = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("high")
            try:
                return run(batch)
            finally:
                torch.set_float32_matmul_precision(before)

        return tensor_float
    return run


def load(folder: Path, device: str, precision: str = "fp32") -> torch.nn.Module:
    """Return a PyTorch model with weights in `precision` on `device`."""
    model = load_classifier(find_model(str(folder)), device=device)
    return model.half() if precision == "fp16" else model


def group(
    size: Size, files: Mapping[int, Files], skip: int, precision: str, device: str, compiled: bool
) -> tuple[dict[Way, Subject], dict[Way, Way], dict[str, str]]:
    """Return the ways to run the model minus `skip` layers beside the full one, way -> opponent, and what cannot run.

    A file is compared with the full model's that computes all rows, in the same engine and precision; that one, and
    everything of PyTorch, with the full model in eager PyTorch of that precision.
    """
    full = size.layers
    makers: dict[Way, Any] = {}
    against: dict[Way, Way] = {}
    eager = Way(full, "PyTorch eager", precision)
    makers[eager] = lambda: torch_way(load(files[0].model, device, precision), precision)
    for engine in engines(device):
        rival = Way(full, engine, precision)
        makers[rival], against[rival] = _file(files[0].all_rows[precision], engine, precision), eager
        for tail, made in ((False, files[skip].all_rows), (True, files[skip].tail)):
            way = Way(full - skip, engine, precision, tail)
            if way != rival:
                makers[way], against[way] = _file(made[precision], engine, precision), rival
    if skip:
        way = Way(full - skip, "PyTorch eager", precision)
        makers[way] = lambda: torch_way(load(files[skip].model, device, precision), precision)
        against[way] = eager
    elif compiled:
        way = Way(full, "PyTorch compiled", precision)
        makers[way] = lambda: torch_way(load(files[0].model, device, precision), precision, compiled=True)
        against[way] = eager
    if not skip:
        other = "tf32" if precision == "fp32" else "bf16"  # what PyTorch's users turn on instead
        if device == "cuda" or other == "bf16":
            way = Way(full, "PyTorch eager", other)
            makers[way], against[way] = (lambda: torch_way(load(files[0].model, device), other)), eager
        if device == "cuda" and other == "tf32":
            way = Way(full, "ORT CUDA", other)
            makers[way], against[way] = _file(files[0].all_rows["fp32"], "ORT CUDA", other), eager
    made, failed = opened(makers)
    return made, against, failed


def opened(makers: Mapping[Way, Any]) -> tuple[dict[Way, Subject], dict[str, str]]:
    """Make every subject; return them, and way -> reason for those that cannot be had here."""
    made, failed = {}, {}
    for way, make in makers.items():
        try:
            made[way] = make()
        except FAILURES as error:
            failed[way.name] = first_line(error)
    return made, failed


def settled(
    subjects: Mapping[Way, Subject], batches: Mapping[Way, Sequence[Batch]]
) -> tuple[dict[Way, Subject], dict[str, str]]:
    """Run every subject once on every shape, so that nothing compiles or records while it is timed; drop what fails."""
    kept, failed = {}, {}
    for way, subject in subjects.items():
        try:
            settle(subject, batches[way])
            kept[way] = subject
        except FAILURES as error:
            failed[way.name] = first_line(error)
    return kept, failed


def check_answers(subjects: Mapping[Way, Subject], files: Mapping[int, Files], size: Size) -> dict[str, float]:
    """Return way -> largest logit difference from float32 PyTorch on the CPU, over one batch.

    Raises RuntimeError for a difference that its precision does not explain: such a time would be that of another model.
    """
    found: dict[str, float] = {}
    batch = grid_batches(3, min(size.lengths), BertConfig(**size.config).vocab_size, ["input_ids", "attention_mask"])[0]
    batch["attention_mask"][1, min(size.lengths) // 2 :] = 0
    counts = {way.layers for way in subjects}
    expected = {n: logits_of(torch_way(load(files[size.layers - n].model, "cpu"), "fp32")(batch)) for n in counts}
    for way, subject in subjects.items():
        try:
            found[way.name] = float(np.abs(logits_of(subject(batch)) - expected[way.layers]).max())
        except FAILURES:
            continue  # `settled` says so with the shape that is measured
        if not found[way.name] <= TOLERANCE[way.precision]:
            raise RuntimeError(
                f"{way.name}: logits are off by {found[way.name]:.2g}, allowed is {TOLERANCE[way.precision]}"
            )
    return found


def logits_of(result: Any) -> np.ndarray:  # noqa: ANN401
    """Return the logits [B, C] of whatever a subject returned: a tensor, arrays, a binding, values on the device."""
    if isinstance(result, torch.Tensor):
        return result.float().cpu().numpy()
    if hasattr(result, "copy_outputs_to_cpu"):
        return result.copy_outputs_to_cpu()[0]
    first = result[0]
    return first if isinstance(first, np.ndarray) else first.numpy()


def free(device: str) -> None:
    """Give memory of models and sessions that nothing refers to any more back to the device."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def first_line(error: Exception) -> str:
    """Return the first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _file(path: Path, engine: str, precision: str) -> Any:  # noqa: ANN401
    return lambda: onnx_way(path, engine, precision)
