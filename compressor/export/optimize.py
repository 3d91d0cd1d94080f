"""Fused ONNX graphs: one node for each attention block, skip + LayerNorm, and bias + GELU."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import onnx
from onnx import numpy_helper

from compressor.model.cls_row import relative_positions
from compressor.model.families import family_of
from compressor.model.sublayers import any_shape

if TYPE_CHECKING:
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

FUSED = "Attention", "SkipLayerNormalization", "BiasGelu", "MultiHeadAttention"
MULTIPLIED = "MatMul", "Gemm", "Gather", "Attention"
"""Nodes of whose constants the shapes alone say what shape comes out."""


def fuse(source: Path, target: Path, config: dict, *, tail: bool = False) -> None:
    """Write the fused graph of the ONNX classifier `source` to `target` and check that every layer was fused.

    `config` is the model's config.json; `tail` says that its last layer is a CLS-only tail. Raises RuntimeError when a
    layer is left with unfused nodes: the file would be right but slow, and nobody would see why.
    """
    from onnxruntime import __version__
    from onnxruntime.transformers.fusion_options import FusionOptions

    options = FusionOptions("bert")
    # the default turns the mask into a count of tokens, which gives wrong logits for padding on the left
    options.use_raw_attention_mask(True)
    beside = large(source)
    with _sums_in_order(source) as ordered, TemporaryDirectory() as folder:
        fused = _fusions(onnx.load(_simplified(ordered, Path(folder), beside)))
    fused.optimize(options)
    fused.topological_sort()
    fused.model.producer_name, fused.model.producer_version = "onnxruntime.transformers", __version__
    if family_of(config["model_type"]).groups_key:
        _share(fused.model)  # before it is written: each Attention node has queries, keys and values of its own here
    fused.save_model_to_file(str(target), use_external_data_format=beside)
    check_fused(fused_nodes(count_operators(target)), config, tail=tail)


def _simplified(source: Path, folder: Path, beside: bool) -> Path:
    """Return the graph with constants folded and what does nothing gone, a file in `folder`, as ONNX Runtime writes it.

    Its weights lie `beside` it where those of `source` do.
    Level 1: level 2 fuses the same nodes as `_fusions` and may bind the graph to this machine's provider.
    """
    from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

    settings, target = SessionOptions(), folder / "simplified.onnx"
    settings.graph_optimization_level = GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(target)
    if beside:
        prefix = "session.optimized_model_external_initializers"
        settings.add_session_config_entry(f"{prefix}_file_name", f"{target.name}.data")
        settings.add_session_config_entry(f"{prefix}_min_size_in_bytes", "1024")
    # weights that two nodes share are no longer found by the fusions
    InferenceSession(str(source), settings, ["CPUExecutionProvider"], disabled_optimizers=["ConstantSharing"])
    return target


def _fusions(graph: onnx.ModelProto) -> "BertOnnxModel":
    """Return ONNX Runtime's fusions of BERT on a graph, which infer shapes without the weights.

    Each fusion keeps what was inferred for it, a copy of the graph: `onnxruntime.transformers.optimizer.optimize_model` takes
    eight times the memory of the weights.
    """
    from onnxruntime.transformers.onnx_model_bert import BertOnnxModel

    class Fusions(BertOnnxModel):
        def infer_runtime_shape(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            whole, self.model = self.model, _without_weights(self.model)
            try:
                return super().infer_runtime_shape(*args, **kwargs)
            finally:
                self.model = whole

    return Fusions(graph)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose matrices and embeddings are shapes alone."""
    read = {name for node in model.graph.node if node.op_type not in MULTIPLIED for name in node.input}
    bare = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    for part in "node", "input", "output", "value_info":
        getattr(bare.graph, part).extend(getattr(model.graph, part))
    for weight in model.graph.initializer:
        if weight.name in read or len(weight.dims) < 2 or weight.data_type != onnx.TensorProto.FLOAT:
            bare.graph.initializer.append(weight)
        else:
            bare.graph.initializer.add(name=weight.name, dims=weight.dims, data_type=weight.data_type)
    return bare


@contextmanager
def _sums_in_order(source: Path) -> Iterator[Path]:
    """Yield the graph of `source` as a file beside it, where sums of two maps with a bias name the later map first.

    What layer 1 adds to may be such a map itself (ALBERT's of the embeddings). The fusion takes the first one that it meets
    for that of the attention block, and looks no further. Sums are the same either way.
    """
    ordered = source.with_name(f"ordered-{source.name}")  # weights that lie in files of their own are found from there
    if not _turned(source, ordered):
        yield source
        return
    try:
        yield ordered
    finally:
        ordered.unlink()


def _turned(source: Path, ordered: Path) -> bool:
    """Write the graph with its sums in order; return whether any had to be turned: where none had, nothing is written."""
    whole = onnx.load(str(source), load_external_data=False)
    places = {node.output[0]: place for place, node in enumerate(whole.graph.node) if node.op_type == "Add"}
    turned = False
    for node in whole.graph.node:
        first, second = (places.get(name, -1) for name in node.input) if node.op_type == "Add" else (-1, -1)
        if 0 <= first < second:
            node.input[:] = node.input[::-1]
            turned = True
    if turned:
        ordered.write_bytes(whole.SerializeToString())
    return turned


def share_weights(path: Path) -> None:
    """Keep each weight of an ONNX file once, in place, whatever number of nodes has one of the very same numbers.

    Exporters and quantisation write what they make of a shared layer anew for each time that it is applied.
    """
    whole = onnx.load(str(path))
    if _share(whole):
        onnx.save_model(whole, str(path))


def _share(whole: onnx.ModelProto) -> bool:
    """Do the same to a graph in memory; return whether any weight was there more than once."""
    first: dict[tuple, str] = {}
    instead, kept = {}, []
    for weight in whole.graph.initializer:
        values = numpy_helper.to_array(weight)
        known = first.setdefault((weight.data_type, values.shape, sha256(values.tobytes()).digest()), weight.name)
        if known == weight.name:
            kept.append(weight)
        instead[weight.name] = known
    for node in whole.graph.node:
        node.input[:] = [instead.get(name, name) for name in node.input]
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(kept)
    return len(kept) < len(instead)


def count_operators(path: Path) -> dict[str, int]:
    """Return how many nodes of each operator the ONNX file has, the most frequent first."""
    graph = onnx.load(str(path), load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def fused_nodes(operators: dict[str, int]) -> dict[str, int]:
    """Return those of the counted operators that stand for several others."""
    return {kind: operators[kind] for kind in FUSED if kind in operators}


def check_fused(counts: dict[str, int], config: dict, *, tail: bool = False) -> None:
    """Raise RuntimeError when `counts` has fewer fused nodes than the layers in `config` (config.json) call for.

    With a CLS-only `tail` the last layer attends for one row, which no fused node does.
    """
    layers = config.get("num_hidden_layers", config.get("n_layers"))
    activation = config.get("hidden_act", config.get("activation", "gelu"))
    for kind, expected in expected_nodes(config, tail=tail).items():
        # other activations, such as ReLU or the tanh GELU, have other fusions or none
        if counts.get(kind, 0) < expected and (kind != "BiasGelu" or activation == "gelu"):
            raise RuntimeError(
                f"graph fusion left work undone: {counts.get(kind, 0)} {kind} nodes for {layers} layers of "
                f"{config.get('model_type')}, expected {expected}"
            )


def expected_nodes(config: dict, *, tail: bool = False) -> dict[str, int]:
    """Return how many nodes of each fused kind the layers of a model give in a float32 file.

    A layer has one Attention, one BiasGelu and two SkipLayerNormalization; the norm behind a block that is gone adds a
    constant and no skip. Pre-norm, each sum is one node with the norm that reads it next. Of a gated block nothing is fused but
    its activation.
    """
    shape, family = any_shape(config), family_of(config["model_type"])
    attending, feeding = sum(shape.attention), sum(width > 0 for width in shape.ffn_widths)
    return {
        # scores that depend on distances are no part of ONNX Runtime's node
        "Attention": 0 if relative_positions(config) else attending - (tail and shape.attention[-1]),
        "SkipLayerNormalization": attending + feeding,
        "BiasGelu": 0 if family.gated else feeding,
    }


def onnx_bytes(path: Path) -> int:
    """Return the size in bytes of an ONNX file together with the weights stored beside it (models above 2 GB)."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def large(path: Path) -> bool:
    """Return whether the weights lie beside the ONNX file, as they must above 2 GB."""
    return onnx_bytes(path) > path.stat().st_size
