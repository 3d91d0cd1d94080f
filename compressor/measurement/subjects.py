"""What the benchmark times: a PyTorch model or an ONNX session as a function of a batch."""

import inspect
from typing import TYPE_CHECKING

from compressor.measurement.latency import Batch, Subject
from compressor.measurement.runtime import feeds

if TYPE_CHECKING:
    import onnxruntime as ort
    from torch import nn


def torch_subject(model: "nn.Module") -> Subject:
    """Return a subject that copies the batch to the model's device and waits for the logits."""
    import torch

    accepted = inspect.signature(model.forward).parameters
    device = next(model.parameters()).device

    @torch.inference_mode()
    def run(batch: Batch) -> object:
        tensors = {name: torch.from_numpy(values).to(device) for name, values in batch.items() if name in accepted}
        logits = model(**tensors).logits
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return logits

    return run


def onnx_subject(session: "ort.InferenceSession") -> Subject:
    """Return a subject that runs a session; off the CPU the logits stay on the device, as they do in `torch_subject`."""
    names = [node.name for node in session.get_inputs()]
    outputs = [node.name for node in session.get_outputs()]
    if session.get_providers()[0] != "CUDAExecutionProvider":
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
