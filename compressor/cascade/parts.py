"""The ONNX parts of a cascade: the fused graph of the model, cut behind each exit, with the exit's head at the cut.

The graph may be in float32 or in 8 bits, where it is quantised before it is cut: the parts then have its scales and round as
it does. Heads are in float32 either way: they cost little, and they decide.
"""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import compose, helper
from torch import Tensor, nn

from compressor.cascade.exits import ExitHead, ExitModule, Reader
from compressor.measurement.runtime import feeds, session
from compressor.model.families import Family, layer_list
from compressor.model.onnx_graph import module_graph

NORMS = "SkipLayerNormalization", "LayerNormalization"
"""A norm behind a block that is gone has no skip to add, but a constant."""
HIDDEN, EXIT_LOGITS = "hidden", "exit_logits"
"""Names of the state that the next part takes, and of an exit's logits."""


FULL = "full.onnx"
"""File name of the full model in float32, where texts that no part is sure of start again."""


def part_names(exits: int, *, full: bool = False) -> list[str]:
    """Return the file names of the parts of a cascade with up to two exits, with the `full` model behind them or without."""
    return [*["front.onnx", "middle.onnx"][:exits], "back.onnx", *([FULL] if full else [])]


def write_parts(
    fused: Path, model: nn.Module, family: Family, heads: Sequence[ExitHead], folder: Path, full: Path | None = None
) -> None:
    """Cut the fused ONNX classifier `fused` behind the layers of `heads`; write the parts into `folder`.

    `full` is the fused file of the full model in float32, which is then the last part, whole.

    Every part but the last gives `hidden` [B, S, H] and `exit_logits` [B, C], the last `logits` [B, C]. The nodes are
    those of `fused`, so front and back together compute what it computes, bit for bit.
    """
    whole = onnx.load(str(fused))
    states = layer_states(whole, len(layer_list(model, family)))
    width, begin = model.config.hidden_size, None
    names = part_names(len(heads))
    for name, head in zip(names, [*heads, None], strict=True):
        end = whole.graph.output[0].name if head is None else states[head.layer - 1]
        part = _between(whole, begin, end, width)
        if head is not None:
            part = _with_exit(part, model, family, head)
        _save(part, folder / name)
        begin = end
    if full is not None:
        _save(onnx.load(str(full)), folder / FULL)


def file_reader(fused: Path, layers: int, wanted: Sequence[int], threads: int | None = None) -> Reader:
    """Return the reader of the states that the fused ONNX classifier of `layers` computes behind those `wanted` (from 1).

    Of an 8-bit file these are the states that its exits will see, rounding included.
    """
    whole = onnx.load(str(fused))
    states, logits = layer_states(whole, layers), whole.graph.output[0].name
    names = [states[layer - 1] for layer in wanted]
    axes = ["batch_size", "sequence_length", None]
    whole.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, axes) for name in names)
    with tempfile.TemporaryDirectory() as folder:
        _save(whole, Path(folder) / "states.onnx")
        opened = session(Path(folder) / "states.onnx", threads=threads)
    inputs = [value.name for value in opened.get_inputs()]

    def read(batch: dict[str, np.ndarray]) -> tuple[Mapping[int, Tensor], Tensor]:
        own, *found = map(torch.from_numpy, opened.run([logits, *names], feeds(inputs, batch)))
        return dict(zip(wanted, found, strict=True)), own

    return read


def _save(graph: onnx.ModelProto, file: Path) -> None:
    """Write a graph and check it; weights beyond protobuf's limit go into a file beside it."""
    large = graph.ByteSize() > 2**31 - 2**20
    onnx.save_model(graph, str(file), save_as_external_data=large, location=f"{file.name}.data")
    onnx.checker.check_model(str(file))


def layer_states(whole: onnx.ModelProto, layers: int) -> list[str]:
    """Return the names of the states behind each of the `layers` of a fused classifier.

    Every layer ends with the second of its two norms, also where a block is gone or one row alone is computed; the norms
    of the layers are the last ones of the graph, as heads have none.
    """
    norms = [node for node in whole.graph.node if node.op_type in NORMS][-2 * layers :]
    return [node.output[0] for node in norms[1::2]]


def _between(whole: onnx.ModelProto, begin: str | None, end: str, width: int) -> onnx.ModelProto:
    """Return the nodes of `whole` that lead from the state `begin` (None: the inputs) to the tensor `end`."""
    read = {output: node.input for node in whole.graph.node for output in node.output if output != begin}
    wanted, seen = [end], {""}  # an input that a node leaves out has no name
    while wanted:
        name = wanted.pop()
        if name not in seen:
            seen.add(name)
            wanted += read.get(name, ())
    seen.remove("")
    nodes = [node for node in whole.graph.node if seen & set(node.output) - {begin}]
    shape = ["batch_size", "sequence_length", width]
    taken = [value for value in whole.graph.input if value.name in seen]
    if begin is not None:
        nodes.insert(0, helper.make_node("Identity", [HIDDEN], [begin], name="from_the_part_before"))
        taken.insert(0, helper.make_tensor_value_info(HIDDEN, onnx.TensorProto.FLOAT, shape))
    given = whole.graph.output[0]
    if end != given.name:
        hidden = HIDDEN if begin is None else f"{HIDDEN}_out"
        nodes.append(helper.make_node("Identity", [end], [hidden], name="to_the_part_behind"))
        given = helper.make_tensor_value_info(hidden, onnx.TensorProto.FLOAT, shape)
    held = [value for value in whole.graph.initializer if value.name in seen]
    graph = helper.make_graph(nodes, "part", taken, [given], held)
    return helper.make_model(graph, opset_imports=whole.opset_import, ir_version=whole.ir_version)


def _with_exit(part: onnx.ModelProto, model: nn.Module, family: Family, head: ExitHead) -> onnx.ModelProto:
    """Return `part` with the exit's head on its hidden state, and a second output, `exit_logits`."""
    # a copy: moving the head to the CPU would take the layer of a model on the GPU along
    module = copy.deepcopy(ExitModule(model, family, head)).cpu().eval()
    example = torch.zeros(2, 3, model.config.hidden_size), torch.ones(2, 3, dtype=torch.int64)
    exit_graph = compose.add_prefix(module_graph(module, example, [HIDDEN, "attention_mask"], EXIT_LOGITS), "exit/")
    state = part.graph.output[0].name
    joined = compose.merge_graphs(
        part.graph, exit_graph.graph, io_map=[(state, f"exit/{HIDDEN}")], outputs=[state, f"exit/{EXIT_LOGITS}"]
    )
    nodes = list(joined.node)
    # the mask enters twice: the head reads the model's own input
    inputs = [value for value in joined.input if value.name != "exit/attention_mask"]
    if "attention_mask" not in [value.name for value in inputs]:
        # where no layer in front of the exit attends, the front itself has no mask
        mask = helper.make_tensor_value_info(
            "attention_mask", onnx.TensorProto.INT64, ["batch_size", "sequence_length"]
        )
        inputs.append(next((value for value in part.graph.input if value.name == "attention_mask"), mask))
    nodes.insert(0, helper.make_node("Identity", ["attention_mask"], ["exit/attention_mask"]))
    nodes.append(helper.make_node("Identity", [f"exit/{EXIT_LOGITS}"], [EXIT_LOGITS]))
    logits = helper.make_tensor_value_info(EXIT_LOGITS, onnx.TensorProto.FLOAT, ["batch_size", head.weight.shape[1]])
    graph = helper.make_graph(nodes, "part", inputs, [part.graph.output[0], logits], joined.initializer)
    return helper.make_model(graph, opset_imports=part.opset_import, ir_version=part.ir_version)
