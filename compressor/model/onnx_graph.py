"""A single module as an ONNX graph, for pieces that no exporter of whole models knows."""

import io
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

OPSET = 18
STATE_AXES = {0: "batch_size", 1: "sequence_length"}
"""Axes of states [B, S, H] and masks [B, S] that stay free."""


def module_graph(
    module: nn.Module, example: tuple[Tensor, Tensor], inputs: Sequence[str], output: str
) -> onnx.ModelProto:
    """Return the graph of a module that takes states [B, S, H] and a mask [B, S] on the CPU and gives one row a text."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own notice of its successor
        torch.onnx.export(
            module,
            example,
            buffer,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes={**dict.fromkeys(inputs, STATE_AXES), output: {0: "batch_size"}},
            opset_version=OPSET,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())
