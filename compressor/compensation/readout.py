"""Closed-form linear readout of the teacher's logits from [CLS] states: no labels, no gradients."""

import numpy as np


def ridge_readout(states: np.ndarray, targets: np.ndarray, strength: float = 1e-2) -> tuple[np.ndarray, np.ndarray]:
    """Return (weight [H, C], bias [C]) minimising |X W + b - T|^2 + strength * N * mean variance * |W|^2.

    `states` X [N, H], `targets` T [N, C]; float64 normal equations on centred data (Hoerl and Kennard 1970). The
    penalty scales with the mean variance of the states, so `strength` means the same at every layer and width.
    """
    states, targets = states.astype(np.float64), targets.astype(np.float64)
    mean, offset = states.mean(axis=0), targets.mean(axis=0)
    centred = states - mean
    gram = centred.T @ centred
    penalty = strength * max(np.trace(gram) / len(gram), np.finfo(float).tiny)
    weight = np.linalg.solve(gram + penalty * np.eye(len(gram)), centred.T @ (targets - offset))
    return weight, offset - mean @ weight


def crossfit_readout(states: np.ndarray, targets: np.ndarray, folds: int = 2) -> np.ndarray:
    """Return the logits [N, C] that readouts fitted on the other folds give each row: no row judges its own fit.

    Folds are every `folds`-th row, so they do not depend on chance.
    """
    logits = np.zeros(targets.shape)
    fold = np.arange(len(states)) % folds
    for held_out in range(folds):
        weight, bias = ridge_readout(states[fold != held_out], targets[fold != held_out])
        logits[fold == held_out] = states[fold == held_out] @ weight + bias
    return logits
