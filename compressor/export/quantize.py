"""8-bit files: weights stored as int8, activations quantised at run time."""

from pathlib import Path

import onnx


def quantize(source: Path, target: Path) -> None:
    """Write the dynamically quantised form of the fused ONNX graph `source` to `target`.

    Weights and embedding tables become int8 with one scale a tensor. An activation's scale is taken over the whole
    batch at run time, so the logits of a text depend slightly on the texts beside it.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # fused nodes have no shape inference, so the type of the tensors between them must be told
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    quantize_dynamic(source, target, weight_type=QuantType.QInt8, extra_options=extra)
