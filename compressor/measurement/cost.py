"""Parameters, floating-point operations, file sizes, and the latency to expect; no torch, so that reports load fast."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

FLOPS_TOKENS = 128
"""Sequence length at which encoder FLOPs are reported."""


def encoder_flops(layers: int, hidden: int, ffn: int, tokens: int = FLOPS_TOKENS, *, attention: bool = True) -> int:
    """Return the FLOPs (two per multiply-add) of the encoder layers for one sequence.

    A layer costs `s (8 d^2 + 4 d f) + 4 s^2 d` at s tokens, width d and FFN width f; with f = 4d that is
    `24 s d^2 + 4 s^2 d`. Norms, softmax and activations are left out, as is usual. Without attention `4 s d f` is left.
    """
    attending = tokens * 8 * hidden**2 + 4 * tokens**2 * hidden if attention else 0
    return layers * (attending + tokens * 4 * hidden * ffn)


def shape_flops(widths: Sequence[int], attention: Sequence[bool], hidden: int) -> int:
    """Return the FLOPs of encoder layers whose feed-forward blocks have `widths`, and which attend or do not."""
    pairs = zip(widths, attention, strict=True)
    return sum(encoder_flops(1, hidden, width, attention=attends) for width, attends in pairs)


def cls_row_flops(
    hidden: int, ffn: int, heads: int, tokens: int = FLOPS_TOKENS, form: str = "reassociated", *, attention: bool = True
) -> int:
    """Return the FLOPs of one layer's [CLS] row alone (`model/cls_row.py`) for one sequence.

    Re-associated, six maps of a single row (query, key, value, attention output; both of the FFN) cost `8 d^2 + 4 d f`,
    the scores and the weighted sum of the tokens `4 n s d` with n heads. With `single_row`, keys and values of all tokens
    cost `4 s d^2`, the other maps `4 d^2 + 4 d f`, scores and sum `4 s d`.
    """
    if not attention:
        return 4 * hidden * ffn
    if form == "single_row":
        return 4 * tokens * hidden**2 + 4 * hidden**2 + 4 * hidden * ffn + 4 * tokens * hidden
    return 8 * hidden**2 + 4 * hidden * ffn + 4 * heads * tokens * hidden


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


def layers_saved(cell: Mapping[str, Any], parts: Collection[str]) -> float:
    """Return how many layers' time goes with `parts` in a timed cell; "" stands for a whole layer."""
    return sum(1 - cell["parts_ms"][part] / cell["layer_ms"] if part else 1.0 for part in parts)


def predicted_speedup(cell: Mapping[str, Any], skipped: float) -> float:
    """Return full time over the time without `skipped` layers, each as long as the timed one: the rest stays."""
    return cell["full_ms"] / predicted_ms(cell, skipped)


def predicted_ms(cell: Mapping[str, Any], skipped: float) -> float:
    """Return the predicted median in milliseconds. Never below a tenth of the full time: noise must not promise more."""
    return max(cell["full_ms"] - skipped * cell["layer_ms"], 0.1 * cell["full_ms"])
