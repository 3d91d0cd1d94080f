"""8-bit files: weights stored as int8, activations quantised at run time."""

from pathlib import Path

import onnx

from compressor.export.optimize import large


def quantize(source: Path, target: Path) -> None:
    """Write the dynamically quantised form of the fused ONNX graph `source` to `target`.

    Weights become int8 with one scale an output channel: one scale a tensor changed 1.5 to 5 times as many
    predictions in trials on five fine-tuned BERT classifiers, at about the same size. An activation's scale is taken over the
    whole batch at run time, so the logits of a text depend slightly on the texts beside it. Weights of more than two
    dimensions stay as they are, since 8-bit products know matrices only: those of a CLS-only tail, split by heads.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # fused nodes have no shape inference, so the type of the tensors between them must be told
    extra = {"DefaultTensorType": onnx.TensorProto.FLOAT}
    graph = onnx.load(str(source), load_external_data=False).graph
    split = {weights.name for weights in graph.initializer if len(weights.dims) > 2}
    left = [node.name for node in graph.node if node.op_type == "MatMul" and split & set(node.input)]
    quantize_dynamic(
        source,
        target,
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=left,
        use_external_data_format=large(source),
        extra_options=extra,
    )
