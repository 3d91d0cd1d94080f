"""Predictions as results keep them: one digit a row, so that every figure can be computed anew from the file."""

import numpy as np


def digits(logits: np.ndarray) -> str:
    """Return the predicted class of every row of logits [N, C], a digit each."""
    return "".join(map(str, logits.argmax(1)))


def classes_of(text: str) -> np.ndarray:
    """Return the classes [N] that `digits` wrote."""
    return np.array(list(text), dtype=int)
