"""What the benchmark times: a PyTorch model or an ONNX session as a function of a batch."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compressor.errors import UserError, first_line
from compressor.measurement.runtime import feeds
from compressor.measurement.timing.latency import Batch, Subject

if TYPE_CHECKING:
    import onnxruntime as ort
    from torch import nn


@dataclass(frozen=True)
class TorchMode:
    """A way in which PyTorch is used: every batch padded to one length or to its longest text; compiled or not."""

    padded: bool
    compiled: bool

    def words(self, length: int) -> str:
        """Return what a reader is told, such as `compiled, padded to 128`; nothing for plain eager PyTorch."""
        parts = ["compiled"] * self.compiled + [f"padded to {length}"] * self.padded
        return ", ".join(parts)


TORCH_MODES = {
    "eager": TorchMode(padded=False, compiled=False),
    "padded": TorchMode(padded=True, compiled=False),
    "compiled": TorchMode(padded=False, compiled=True),
    "compiled-padded": TorchMode(padded=True, compiled=True),
}


def torch_subject(model: "nn.Module", *, compiled: bool = False) -> Subject:
    """Return a subject that copies the batch to the model's device and waits for the logits.

    `compiled` is `torch.compile` with dynamic shapes; it compiles at the first run (see `settle`), which raises
    UserError where there is nothing to compile with.
    """
    import torch
    from torch._dynamo.exc import TorchDynamoException  # what every failure of torch.compile is

    accepted = inspect.signature(model.forward).parameters
    device = next(model.parameters()).device
    answer = torch.compile(model, dynamic=True) if compiled else model

    @torch.inference_mode()
    def run(batch: Batch) -> object:
        tensors = {name: torch.from_numpy(values).to(device) for name, values in batch.items() if name in accepted}
        try:
            logits = answer(**tensors).logits
        except TorchDynamoException as error:
            raise UserError(
                f"torch.compile fails here ({first_line(error).rstrip()[:200]}); on a CPU it takes a C++ compiler such as "
                "g++: install one, or leave --pytorch compiled out."
            ) from error
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return logits

    return run


def onnx_subject(session: "ort.InferenceSession") -> Subject:
    """Return a subject that runs a session; off the CPU the logits stay on the device, as they do in `torch_subject`."""
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if session.get_providers()[0] == "CPUExecutionProvider":
        return lambda batch: session.run(outputs, feeds(names, batch))

    def run(batch: Batch) -> object:
        binding = session.io_binding()
        for name, values in feeds(names, batch).items():
            binding.bind_cpu_input(name, values)
        for name in outputs:
            binding.bind_output(name, "cuda")
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return run


def padded(batch: Batch, length: int, pad_id: int) -> Batch:
    """Return a batch whose inputs [B, S] are padded on the right to [B, length]: ids with `pad_id`, the rest with 0.

    Raises ValueError for a batch that is longer.
    """
    short = length - batch["input_ids"].shape[1]
    if short < 0:
        raise ValueError(f"a batch of {length - short} tokens cannot be padded to {length}")
    return {
        name: np.pad(values, ((0, 0), (0, short)), constant_values=pad_id if name == "input_ids" else 0)
        for name, values in batch.items()
    }


def replaying(subject: Subject, batches: Sequence[Batch], own: Sequence[Batch]) -> Subject:
    """Return a subject that takes one of `batches` and runs its counterpart of `own`: the same place in the list."""
    counterparts = {id(batch): counterpart for batch, counterpart in zip(batches, own, strict=True)}
    return lambda batch: subject(counterparts[id(batch)])
