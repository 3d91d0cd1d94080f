"""Does an ONNX file answer like the PyTorch model? Compared on real texts, in padded batches of many lengths."""

from dataclasses import dataclass

import numpy as np

from compressor.data.answers.kinds import SINGLE, Task
from compressor.errors import UserError

MAX_ABS = {"fp32": 1e-3, "alltokens": 5e-3, "optimized": 5e-3}
"""Largest logit difference that rounding may cause, for logits that deviate by 1 or less; larger ones round by as much
more. fp16 and int8 are absent: they are judged by changed predictions."""
MAX_MARGIN = 1e-4
"""A label may change only where the reference's two largest logits are closer than this, likewise scaled: rounding decides."""


@dataclass(frozen=True)
class Parity:
    """Largest absolute logit difference and share of equal labels (0..1) over `rows` texts.

    `decided` is the share of equal labels among the rows that the reference decides by `MAX_MARGIN` or more. `scale` is the
    standard deviation of the reference's logits, 1 at least: float32 rounds in proportion to what it adds up.
    """

    max_abs: float
    agreement: float
    rows: int
    decided: float = 1.0
    scale: float = 1.0


def parity(reference_logits: np.ndarray, logits: np.ndarray, task: Task = SINGLE) -> Parity:
    """Compare logits [N, C] with the reference's [N, C], row by row; NaN or infinity makes `max_abs` NaN or infinite.

    Raises ValueError for shapes that differ, and for N = 0.
    """
    if reference_logits.shape != logits.shape or not len(logits):
        raise ValueError(f"parity needs two equal non-empty shapes, not {reference_logits.shape} and {logits.shape}")
    reference = reference_logits.astype(np.float64)
    equal = ~task.changed(reference, logits)
    spread = float(reference.std())
    scale = max(1.0, spread) if np.isfinite(spread) else 1.0
    clear = task.margins(reference) >= MAX_MARGIN * scale
    with np.errstate(invalid="ignore"):  # infinity minus infinity is NaN, which is what should come out
        max_abs = float(np.abs(reference - logits).max())
    decided = float(equal[clear].mean()) if clear.any() else 1.0
    return Parity(max_abs, float(equal.mean()), len(equal), decided, scale)


def check_parity(variant: str, parity: Parity) -> None:
    """Raise RuntimeError when the file of `variant` does not answer like the model it was made from.

    Raises UserError for float16 logits that are not finite: the model's states leave that format's range on real text.
    """
    if variant == "fp16" and not np.isfinite(parity.max_abs):
        raise UserError(
            f"export.variants: fp16 overflows with this model, its logits are not finite on {parity.rows} real texts; "
            "leave fp16 out."
        )
    if not np.isfinite(parity.max_abs):
        raise RuntimeError(f"parity failure: {variant} or its reference gives logits that are not finite")
    if parity.max_abs > MAX_ABS.get(variant, np.inf) * parity.scale:
        raise RuntimeError(
            f"parity failure: logits of {variant} differ by up to {parity.max_abs:.2g} from PyTorch's over "
            f"{parity.rows} rows, allowed is {MAX_ABS[variant] * parity.scale:.2g}"
        )
    if variant in MAX_ABS and parity.decided < 1:
        raise RuntimeError(
            f"parity failure: {variant} and PyTorch agree on {parity.agreement:.2%} of {parity.rows} labels, "
            "and not every difference is a tie"
        )
