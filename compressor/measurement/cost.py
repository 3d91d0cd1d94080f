"""Parameters, floating-point operations, file sizes, and the latency to expect; no torch, so that reports load fast."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.model.units import Shape, Unit, heads_left, neurons_left, parts_of, pieces, whole_layers

if TYPE_CHECKING:
    from torch import nn

FLOPS_TOKENS = 128
"""Sequence length at which encoder FLOPs are reported."""


def shape_flops(shape: Shape, hidden: int, tokens: int = FLOPS_TOKENS) -> int:
    """Return the FLOPs (two per multiply-add) of encoder layers of this shape for one sequence; `tokens` may be an array.

    At s tokens and width d, with heads of a numbers together and f neurons, a layer costs `s (8 d a + 2 m d f) + 4 s^2 a`: the
    maps of attention, the m of the feed-forward block (2, gated 3), scores and weighted sums. K of N heads have a = d K / N,
    all have a = d, which with f = 4d and m = 2 gives `24 s d^2 + 4 s^2 d`. Norms, softmax and activations are left out, as is
    usual; a layer that attends to a window computes all scores and hides those outside, as stock models and files do.
    """
    attended = hidden * sum(shape.heads) // shape.full_heads
    maps = 4 * attended + shape.ffn_maps * sum(shape.ffn_widths)
    return tokens * 2 * hidden * maps + 4 * tokens**2 * attended


def cls_row_flops(layer: Shape, hidden: int, tokens: int = FLOPS_TOKENS, form: str = "reassociated") -> int:
    """Return the FLOPs of the [CLS] row alone (`model/cls_row.py`) of one layer for one sequence; `tokens` may be an array.

    Re-associated, six maps of a single row cost `8 d a + 4 d f` (query, the key's weights, the value's, attention output;
    both of the FFN), and in K heads the scores and the weighted sum of the tokens, which are d wide, `4 K s d`. With
    `single_row`, keys and values of all tokens cost `4 s d a`, the other maps `4 d a + 4 d f`, scores and sum `4 s a`.
    `attended`, attention costs what it costs for all rows, the m maps of the feed-forward block `2 m d f`.
    """
    heads, ffn = layer.heads[0], layer.ffn_widths[0]
    if form == "attended":
        return shape_flops(replace(layer, ffn_widths=(0,)), hidden, tokens) + 2 * layer.ffn_maps * hidden * ffn
    attended = hidden * heads // layer.full_heads
    if form == "single_row":
        return 4 * tokens * attended * (hidden + 1) + 4 * hidden * (attended + ffn)
    return 4 * hidden * (2 * attended + ffn + heads * tokens)


def parameter_count(model: "nn.Module") -> int:
    """Return the number of parameters, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def weight_bytes(directory: Path) -> int:
    """Return the size of the weight files of a model directory: safetensors if there are any, else .bin, else .onnx."""
    for patterns in (["model*.safetensors"], ["pytorch_model*.bin"], ["*.onnx", "*.onnx_data"]):
        files = [file for pattern in patterns for file in directory.glob(pattern)]
        if files:
            return sum(file.stat().st_size for file in files)
    return 0


def layers_saved(cell: Mapping[str, Any], units: Collection[Unit], layers: int) -> float:
    """Return how many layers' time goes with `units` of a model of `layers` in a timed cell.

    What a layer loses of its two blocks adds up: they run one after the other. The last layer that stays saves the less
    with its parts, the less of it is worked out (`last_ms`, where the cell has it). Amounts of heads and neurons that were not
    timed lie on the line between those that were.
    """
    skip, parts = whole_layers(units), parts_of(units)
    last = max(set(range(1, layers + 1)) - set(skip), default=0)
    return len(skip) + sum(part_saved(cell, part, last=layer == last) for layer, part in parts.items())


def part_saved(cell: Mapping[str, Any], part: str, *, last: bool = False) -> float:
    """Return which share of a layer's time goes with `part` ("": all of it), in the `last` layer or in another."""
    if not part:
        return 1.0
    share = sum(1 - _piece_ms(cell, piece) / cell["layer_ms"] for piece in pieces(part) if piece)
    return share * cell.get("last_ms", cell["layer_ms"]) / cell["layer_ms"] if last else share


def _piece_ms(cell: Mapping[str, Any], piece: str) -> float:
    """Return the time of a layer without a piece, interpolated where only other amounts of its block were timed."""
    timed = cell["parts_ms"]
    if piece in timed:
        return timed[piece]
    block = 0 if pieces(piece)[0] else 1
    size, left = (cell["heads"], heads_left) if block == 0 else (cell["width"], neurons_left)
    known = {left(other, size): time for other, time in timed.items() if pieces(other)[block]} | {
        size: cell["layer_ms"]
    }
    counts = sorted(known)
    return float(np.interp(left(piece, size), counts, [known[count] for count in counts]))


def predicted_speedup(cell: Mapping[str, Any], skipped: float) -> float:
    """Return full time over the time without `skipped` layers, each as long as the timed one: the rest stays."""
    return cell["full_ms"] / predicted_ms(cell, skipped)


def predicted_ms(cell: Mapping[str, Any], skipped: float) -> float:
    """Return the predicted median in milliseconds. Never below a tenth of the full time: noise must not promise more."""
    return max(cell["full_ms"] - skipped * cell["layer_ms"], 0.1 * cell["full_ms"])
