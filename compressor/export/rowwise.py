"""Nodes and weights of 8-bit products: activations with one scale a row, weights with one a column or a block."""

from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import helper, numpy_helper

from compressor.export.calibration import Columns

MS = "com.microsoft"
BLOCK = 32
"""Weights that share a scale where few rows are multiplied."""
ALPHA = 0.8
"""How much of a column's reach moves from the activation into the weights: 0 nothing, 1 all of it."""
DIP = 0.17
"""No activation of the GELU kind goes below minus this."""


@dataclass
class Graph:
    """The graph that is being rewritten: its nodes in order, and its weights as arrays."""

    graph: onnx.GraphProto
    opset: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)

    def constant(self, name: str, values: np.ndarray) -> str:
        """Add a weight and return its name; one that is there already stays."""
        if all(tensor.name != name for tensor in self.graph.initializer):
            self.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add(self, kind: str, inputs: list[str], output: str | list[str], **attributes: object) -> str:
        """Append a node named after its first output, and return that."""
        outputs = [output] if isinstance(output, str) else output
        self.nodes.append(helper.make_node(kind, inputs, outputs, name=outputs[0], **attributes))
        return outputs[0]

    def row_max(self, tensor: str, output: str) -> str:
        """Append the maximum over the last axis, which stays as 1."""
        if self.opset < 18:
            return self.add("ReduceMax", [tensor], output, axes=[-1], keepdims=1)
        axes = self.constant("int8_last_axis", np.array([-1], dtype=np.int64))
        return self.add("ReduceMax", [tensor, axes], output, keepdims=1)


@dataclass(frozen=True)
class Rows:
    """A quantised activation: uint8 rows, the constants of scale and zero point, the factor of each row [..., 1].

    `shift` and `stretch` [K] are what was subtracted from and then multiplied into the columns, None where nothing was.
    """

    values: str
    scale: str
    zero: str
    factor: str
    shift: np.ndarray | None = None
    stretch: np.ndarray | None = None


def balanced(columns: Columns, weights: np.ndarray) -> np.ndarray:
    """Return the factors [K] that even out columns: `max |w|^(1 - ALPHA) / reach^ALPHA`, row by row of `weights` [K, N].

    SmoothQuant's scales (Xiao et al. 2023, https://arxiv.org/abs/2211.10438). Columns that never move, and those nobody
    reads, count as a thousandth of the largest.
    """
    reach, heard = columns.reach, np.abs(weights).max(1).astype(np.float64)
    reach, heard = (np.maximum(part, max(1e-3 * part.max(), 1e-12)) for part in (reach, heard))
    return heard ** (1 - ALPHA) / reach**ALPHA


def quantised_rows(graph: Graph, tensor: str, *, one_sided: bool, columns: Columns | None, heard: np.ndarray) -> Rows:
    """Append the nodes that quantise the rows of `tensor` [..., K] one by one, each by its own largest value.

    `one_sided` says that the tensor comes from an activation such as GELU, whose values reach from -0.17 up; a row's scale
    then counts as 1 at least, so that the dip has a fixed place in the 255 steps. Where `columns` are known they are
    moved to their mean and evened out before. `heard` [K, N]: the weights that read the tensor, side by side.
    """
    shift = stretch = None
    rows = tensor
    if columns is not None:
        shift, stretch = columns.mean.astype(np.float32), balanced(columns, heard).astype(np.float32)
        rows = graph.add("Sub", [rows, graph.constant(f"{tensor}_mean", shift)], f"{tensor}_centred")
        rows = graph.add("Mul", [rows, graph.constant(f"{tensor}_stretch", stretch)], f"{tensor}_even")
    peak = rows if one_sided else graph.add("Abs", [rows], f"{tensor}_abs")
    step = (1 + DIP) / 255 if one_sided else 1 / 127
    # a row of zeros must not be divided by zero
    least = graph.constant(f"int8_least_{int(one_sided)}", np.float32(1.0 if one_sided else 1e-12))
    factor = graph.add("Max", [graph.row_max(peak, f"{tensor}_peak"), least], f"{tensor}_factor")
    inverse = graph.add("Reciprocal", [factor], f"{tensor}_inverse")
    rows = graph.add("Mul", [rows, inverse], f"{tensor}_unit")
    scale = graph.constant(f"int8_step_{int(one_sided)}", np.float32(step))
    zero = graph.constant(f"int8_zero_{int(one_sided)}", np.uint8(round(DIP / step) if one_sided else 128))
    values = graph.add("QuantizeLinear", [rows, scale, zero], f"{tensor}_rows")
    return Rows(values, scale, zero, factor, shift, stretch)


def _scales(weights: np.ndarray, axis: int, *, keepdims: bool = False) -> np.ndarray:
    """Return the scale that takes the largest number along `axis` to 127; 1 where all are 0."""
    scales = np.abs(weights).max(axis, keepdims=keepdims) / 127
    scales[scales == 0] = 1
    return scales


def rounded(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 weights [K, N] and the scale of each output channel [N]."""
    scales = _scales(weights, 0)
    return np.rint(weights / scales).astype(np.int8), scales.astype(np.float32)


def product(graph: Graph, rows: Rows, weights: np.ndarray, output: str) -> np.ndarray | None:
    """Append `output` = rows @ weights [K, N]; return what is to be added to it [N] for the shift, None for nothing."""
    even = weights if rows.stretch is None else weights / rows.stretch[:, None]
    values, scales = rounded(even)
    names = [graph.constant(f"{output}_int8", values), graph.constant(f"{output}_scales", scales)]
    zeros = graph.constant(f"{output}_zeros", np.zeros(len(scales), dtype=np.int8))
    inputs = [rows.values, names[0], rows.scale, names[1], rows.zero, zeros]
    unit = graph.add("MatMulIntegerToFloat", inputs, f"{output}_unit", domain=MS)
    graph.add("Mul", [unit, rows.factor], output)
    return None if rows.shift is None else (rows.shift.astype(np.float64) @ weights).astype(np.float32)


def block_product(graph: Graph, tensor: str, weights: np.ndarray, output: str) -> None:
    """Append `output` = tensor [..., K] @ weights [K, N] with one scale for 32 numbers of either factor.

    The kernel for few rows: as fast as the other for one row, and several times slower for many.
    """
    inner, outer = weights.shape
    blocks = -(-inner // BLOCK)
    padded = np.zeros((outer, blocks * BLOCK), dtype=np.float32)
    padded[:, :inner] = weights.T
    padded = padded.reshape(outer, blocks, BLOCK)
    scales = _scales(padded, 2)
    values = (np.rint(padded / scales[..., None]) + 128).astype(np.uint8)  # 128 stands for 0
    inputs = [tensor, graph.constant(f"{output}_int8", values), graph.constant(f"{output}_scales", scales)]
    graph.add(
        "MatMulNBits", inputs, output, domain=MS, K=inner, N=outer, bits=8, block_size=BLOCK, accuracy_level=4
    )  # fmt: skip


def table_rows(graph: Graph, table: np.ndarray, indices: str, name: str, output: str) -> None:
    """Append `output` = rows of an int8 embedding table [V, H] with one scale a row, made float32 as they are read."""
    scales = _scales(table, 1, keepdims=True)
    values = graph.constant(f"{name}_int8", np.rint(table / scales).astype(np.int8))
    factors = graph.constant(f"{name}_scales", scales.astype(np.float32))
    read = graph.add("Gather", [values, indices], f"{output}_int8", axis=0)
    read = graph.add("Cast", [read], f"{output}_float", to=onnx.TensorProto.FLOAT)
    factor = graph.add("Gather", [factors, indices], f"{output}_scale", axis=0)
    graph.add("Mul", [read, factor], output)
