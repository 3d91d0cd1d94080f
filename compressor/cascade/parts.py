"""The ONNX parts of a cascade: the fused graph of the model, cut behind each exit, with the exit's head at the cut.

The graph may be in float32 or in 8 bits. It gets what its exits read first (`with_exits`) and is quantised as a whole before it
is cut, so that the parts round as it does. At batch 1 the row of the following layer that an exit reads costs nearly a whole
layer in 8 bits when it is left in float32 (0.44 against 0.50 ms, 384 wide, 25 tokens): it has weights to read for one
token. The linear maps that decide are in float32 either way.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import compose, helper, numpy_helper
from torch import Tensor, nn

from compressor.cascade.exits import ExitFeatures, ExitHead, Reader
from compressor.measurement.runtime import feeds, session
from compressor.model.families import Family, layer_list
from compressor.model.onnx_graph import module_graph

NORMS = "SkipLayerNormalization", "LayerNormalization"
"""A norm behind a block that is gone has no skip to add, but a constant."""
HIDDEN, EXIT_LOGITS, MASK = "hidden", "exit_logits", "attention_mask"
"""Names of the state that the next part takes, of an exit's logits, and of the mask that every part takes."""
FULL = "full.onnx"
"""File name of the full model in float32, where texts that no part is sure of start again."""
EXIT = "exit_"
"""With what the names of tensors in exits begin, and no other's."""
AXES = ["batch_size", "sequence_length"]


def part_names(exits: int, *, full: bool = False) -> list[str]:
    """Return the file names of the parts of a cascade with up to two exits, with the `full` model behind them or without."""
    return [*["front.onnx", "middle.onnx"][:exits], "back.onnx", *([FULL] if full else [])]


def with_exits(fused: Path, model: nn.Module, family: Family, layers: Sequence[int], target: Path) -> None:
    """Write the fused ONNX classifier with more outputs: what exits behind each of `layers` (from 1) read, [B, 3H].

    `model` is the same in PyTorch, in float32.
    """
    whole = onnx.load(str(fused))
    states = layer_states(whole, len(layer_list(model, family)))
    for layer in layers:
        whole = _with_features(whole, states[layer - 1], model, family, layer)
    _save(whole, target)


def write_parts(
    fused: Path, model: nn.Module, family: Family, heads: Sequence[ExitHead], folder: Path, full: Path | None = None
) -> None:
    """Cut the fused ONNX classifier `fused` behind the layers of `heads`; write the parts into `folder`.

    `fused` may have its exits already (`with_exits`, quantised afterwards or not). `full` is the fused file of the full
    model in float32, which is then the last part, whole. Every other part but the back gives `hidden` [B, S, H] and
    `exit_logits` [B, C], the back `logits` [B, C]. The nodes are those of `fused`, so front and back together compute what
    it computes, bit for bit.
    """
    whole = onnx.load(str(fused))
    states = layer_states(whole, len(layer_list(model, family)))
    given = {value.name for value in whole.graph.output}
    for head in heads:
        if features_name(head.layer) not in given:
            whole = _with_features(whole, states[head.layer - 1], model, family, head.layer)
    width, begin, logits = model.config.hidden_size, None, whole.graph.output[0].name
    for name, head in zip(part_names(len(heads)), [*heads, None], strict=True):
        if head is None:
            part = _between(whole, begin, [logits], width)
        else:
            end = states[head.layer - 1]
            part = _with_head(_between(whole, begin, [end, features_name(head.layer)], width), head)
            begin = end
        _save(part, folder / name)
    if full is not None:
        _save(onnx.load(str(full)), folder / FULL)


def file_reader(file: Path, layers: Sequence[int], threads: int | None = None) -> Reader:
    """Return the reader of what exits behind `layers` read in an ONNX file that `with_exits` wrote.

    Of an 8-bit file it is what they will see, rounding included.
    """
    opened = session(file, threads=threads)
    inputs = [value.name for value in opened.get_inputs()]
    outputs = [opened.get_outputs()[0].name, *map(features_name, layers)]

    def read(batch: dict[str, np.ndarray]) -> tuple[Mapping[int, Tensor], Tensor]:
        own, *found = map(torch.from_numpy, opened.run(outputs, feeds(inputs, batch)))
        return dict(zip(layers, found, strict=True)), own

    return read


def features_name(layer: int) -> str:
    """Return the name of the tensor that the exit behind `layer` reads."""
    return f"{EXIT}{layer}/features"


def layer_states(whole: onnx.ModelProto, layers: int) -> list[str]:
    """Return the names of the states behind each of the `layers` of a fused classifier.

    Every layer ends with the second of its two norms, also where a block is gone or one row alone is computed; the norms
    of the layers are the last ones of the graph but for those of exits, as heads have none.
    """
    norms = [node for node in whole.graph.node if node.op_type in NORMS and not node.output[0].startswith(EXIT)]
    norms = norms[-2 * layers :]
    return [node.output[0] for node in norms[1::2]]


def _save(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph and check it; weights beyond protobuf's limit go into a file beside it."""
    large = graph.ByteSize() > 2**31 - 2**20
    onnx.save_model(graph, str(file), save_as_external_data=large, location=f"{file.name}.data")
    onnx.checker.check_model(str(file))


def _between(whole: onnx.ModelProto, begin: str | None, ends: Sequence[str], width: int) -> onnx.ModelProto:
    """Return the nodes of `whole` that lead from the state `begin` (None: the inputs) to the tensors `ends`.

    One end is the logits, two are the state of the next part and what the exit there reads.
    """
    read = {output: node.input for node in whole.graph.node for output in node.output if output != begin}
    wanted, seen = list(ends), {""}  # an input that a node leaves out has no name
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += read.get(name, ())
    seen.remove("")
    nodes = [node for node in whole.graph.node if seen & set(node.output) - {begin}]
    shape = [*AXES, width]
    taken = [value for value in whole.graph.input if value.name in seen]
    if begin is not None:
        nodes.insert(0, helper.make_node("Identity", [HIDDEN], [begin], name="from_the_part_before"))
        taken.insert(0, helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, shape))
    given = [value for value in whole.graph.output if value.name in ends]
    if len(ends) == 2:
        hidden = HIDDEN if begin is None else f"{HIDDEN}_out"
        nodes.append(helper.make_node("Identity", [ends[0]], [hidden], name="to_the_part_behind"))
        given.insert(0, helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, shape))
    held = [value for value in whole.graph.initializer if value.name in seen]
    graph = helper.make_graph(nodes, "part", taken, given, held)
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _with_features(whole: onnx.ModelProto, state: str, model: nn.Module, family: Family, layer: int) -> onnx.ModelProto:
    """Return the graph with one more output: what the exit behind `layer`, whose state is `state`, reads."""
    prefix, width = f"{EXIT}{layer}/", model.config.hidden_size
    # a copy: moving the module to the CPU would take the layer of a model on the GPU along
    module = copy.deepcopy(ExitFeatures(model, family, layer)).cpu().eval()
    example = torch.zeros(2, 3, width), torch.ones(2, 3, dtype=torch.int64)
    exit_graph = compose.add_prefix(module_graph(module, example, [HIDDEN, MASK], "features"), prefix).graph
    inputs = list(whole.graph.input)
    if MASK not in [value.name for value in inputs]:  # no layer of the model attends
        inputs.append(helper.make_tensor_value_info(MASK, onnx.TensorProto.INT64, AXES))
    links = [
        helper.make_node("Identity", [state], [f"{prefix}{HIDDEN}"], name=f"{prefix}state"),
        helper.make_node("Identity", [MASK], [f"{prefix}{MASK}"], name=f"{prefix}mask"),
    ]
    features = helper.make_tensor_value_info(features_name(layer), onnx.TensorProto.FLOAT, [AXES[0], 3 * width])
    graph = helper.make_graph(
        [*whole.graph.node, *links, *exit_graph.node],
        "exits",
        inputs,
        [*whole.graph.output, features],
        [*whole.graph.initializer, *exit_graph.initializer],
    )
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _with_head(part: onnx.ModelProto, head: ExitHead) -> onnx.ModelProto:
    """Return `part` with the exit's linear map on its last output, and `exit_logits` in the place of that."""
    graph = part.graph
    for name, values in (("exit_weight", head.weight), ("exit_bias", head.bias)):
        graph.initializer.append(numpy_helper.from_array(values.float().cpu().numpy(), name))
    graph.node.append(helper.make_node("MatMul", [features_name(head.layer), "exit_weight"], ["exit_product"]))
    graph.node.append(helper.make_node("Add", ["exit_product", "exit_bias"], [EXIT_LOGITS]))
    del graph.output[-1]
    shape = [AXES[0], head.weight.shape[1]]
    graph.output.append(helper.make_tensor_value_info(EXIT_LOGITS, onnx.TensorProto.FLOAT, shape))
    return part
