"""Fused ONNX graphs: one node for each attention block, skip + LayerNorm, and bias + GELU."""

from collections import Counter
from pathlib import Path

import onnx

FUSED = "Attention", "SkipLayerNormalization", "BiasGelu", "QAttention"
PER_LAYER = {"Attention": 1, "SkipLayerNormalization": 2, "BiasGelu": 1}
"""Fused nodes that each layer of a supported family must give (QAttention replaces Attention in 8-bit files)."""


def fuse(source: Path, target: Path, config: dict) -> None:
    """Write the fused graph of the ONNX classifier `source` to `target` and check that every layer was fused.

    `config` is the model's config.json. Raises RuntimeError when a layer is left with unfused nodes: the file would be
    right but slow, and nobody would see why.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # the default turns the mask into a count of tokens, which gives wrong logits for padding on the left
    options.use_raw_attention_mask(True)
    # level 1: level 2 fuses the same nodes here and may bind the graph to this machine's provider
    fused = optimize_model(str(source), "bert", opt_level=1, optimization_options=options)
    fused.save_model_to_file(str(target), use_external_data_format=onnx_bytes(source) > source.stat().st_size)
    check_fused(count_fused(target), config)


def count_fused(path: Path) -> dict[str, int]:
    """Return how many fused nodes of each kind the ONNX file has; kinds that it lacks are left out."""
    nodes = Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)
    return {kind: nodes[kind] for kind in FUSED if nodes[kind]}


def check_fused(counts: dict[str, int], config: dict) -> None:
    """Raise RuntimeError when `counts` has fewer fused nodes than the layers in `config` (config.json) call for."""
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    activation = config.get("hidden_act", config.get("activation", "gelu"))
    for kind, per_layer in PER_LAYER.items():
        # other activations, such as ReLU or the tanh GELU, have other fusions or none
        if counts.get(kind, 0) < per_layer * layers and (kind != "BiasGelu" or activation == "gelu"):
            raise RuntimeError(
                f"graph fusion left work undone: {counts.get(kind, 0)} {kind} nodes for {layers} layers of "
                f"{config.get('model_type')}, expected {per_layer * layers}"
            )


def onnx_bytes(path: Path) -> int:
    """Return the size in bytes of an ONNX file together with the weights stored beside it (models above 2 GB)."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))
