"""What chance makes of the class-specific part: shuffled labels, and p-values corrected for the number of layers."""

from dataclasses import dataclass

import numpy as np

from compressor.measurement.statistics import holm

CHUNK = 2**24
"""Numbers of the indicator matrix held at a time."""


@dataclass(frozen=True)
class PermutationNull:
    """The class-specific energy of a sample against that with shuffled labels.

    `p` = (1 + shuffles that reach the measured energy) / (1 + shuffles), `p_holm` the same corrected for all layers. The
    `ratio_null_*` are R with shuffled labels: its median and the 95 % between which it falls; no interval of a true R.
    """

    rows: int
    permutations: int
    class_specific: float
    class_null_mean: float
    ratio_null_median: float | None
    ratio_null_low: float | None
    ratio_null_high: float | None
    p: float
    p_holm: float


def permutation_nulls(
    changes: np.ndarray, labels: np.ndarray, *, permutations: int = 1000, seed: int = 0
) -> list[PermutationNull]:
    """Return the null of each layer: changes [L, M, H] of a sample of rows, labels int64 [M].

    All layers see the same shuffles. Shuffling keeps class sizes, so the uncorrected energies compare like with like.
    """
    classes, index = np.unique(labels, return_inverse=True)
    generator = np.random.default_rng(seed)
    shuffled = np.stack([index, *(generator.permutation(index) for _ in range(permutations))])
    centred = changes - changes.mean(axis=1, keepdims=True, dtype=np.float64).astype(changes.dtype)
    energy = class_energies(centred, shuffled, len(classes))
    common = np.square(changes.mean(axis=1, dtype=np.float64)).sum(axis=1)
    # shuffles that only rounding tells from the measured order count as reaching it
    p_values = (1 + (energy[:, 1:] >= energy[:, :1] * (1 - 1e-6)).sum(axis=1)) / (1 + permutations)
    made = []
    for values, together, p_value, corrected in zip(energy, common, p_values, holm(p_values.tolist()), strict=True):
        quantiles = np.quantile(values[1:], [0.5, 0.975, 0.025])
        ratios = [float((together / value) ** 0.5) if value > 0 else None for value in quantiles]
        measured, by_chance = float(values[0]), float(values[1:].mean())
        made.append(PermutationNull(len(labels), permutations, measured, by_chance, *ratios, float(p_value), corrected))
    return made


def class_energies(centred: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return sum pi_c |mean_c|^2 of centred rows [L, M, H] for each labelling int64 [P, M], as [L, P].

    One matrix product with the classes' indicators serves many labellings: nothing of size P x M x H is made.
    """
    rows, made = centred.shape[1], np.zeros((len(centred), len(labels)))
    step = max(1, CHUNK // (classes * rows))
    for start in range(0, len(labels), step):
        chunk = labels[start : start + step]
        indicator = (chunk[:, None] == np.arange(classes)[:, None]).astype(centred.dtype)
        count = indicator.sum(axis=2, dtype=np.float64)
        for layer, states in enumerate(centred):
            sums = (indicator.reshape(-1, rows) @ states).reshape(*count.shape, -1)
            energy = np.square(sums, dtype=np.float64).sum(axis=2) / count / rows
            made[layer, start : start + step] = energy.sum(axis=1)
    return made
