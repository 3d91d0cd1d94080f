"""Planted errors: what is known of them is what an analysis must find."""

import numpy as np
from scipy.special import softmax


def calibrated(rows, seed=0, scale=1.0, classes=2):
    """Logits whose probabilities are true, then scaled."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(size=(rows, classes)) * 1.5
    gold = (generator.random((rows, 1)) > softmax(logits, axis=1).cumsum(1)).sum(1)
    return scale * logits, gold


def planted_texts(rows=800):
    """Rows of 5 to 24 words, every fourth with a negation, none of which depends on another."""
    words = [5 + 7 * row % 20 for row in range(rows)]
    return [(" ".join(["not" if row % 4 == 0 else "so", *["x"] * (count - 1)]),) for row, count in enumerate(words)]
