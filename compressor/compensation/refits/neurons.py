"""Neurons of a feed-forward block: how strongly each one reads and writes, and which stand out."""

import numpy as np
from torch import Tensor, nn

from compressor.model.families import Family

SATURATED_SDS = 3.0
"""A position is saturated when its co-magnitude is more than so many deviations above the layer's mean."""


def co_magnitude(reads: list[np.ndarray], writes: np.ndarray) -> np.ndarray:
    """Return the co-magnitude [F] of FFN positions from the energies [F] of their rows and columns.

    Plain block: |W_in[p, :]| |W_out[:, p]|. Gated block: |W_gate[p, :]| |W_up[p, :]|, what multiplies each other there.
    """
    return np.sqrt(reads[0] * (reads[1] if len(reads) > 1 else writes))


def saturated_positions(magnitude: np.ndarray) -> np.ndarray:
    """Return which positions of co-magnitudes [..., F] stand more than 3 deviations above the mean: bool [..., F]."""
    mean, spread = magnitude.mean(axis=-1, keepdims=True), magnitude.std(axis=-1, keepdims=True)
    return magnitude > mean + SATURATED_SDS * spread


def specialists(layer: nn.Module, family: Family) -> np.ndarray:
    """Return which neurons of a layer's feed-forward block are saturated: bool [F]."""
    first, last = layer.get_submodule(family.ffn_input), layer.get_submodule(family.ffn_output)
    reads = [_energy(weight, 1) for weight in first.weight.chunk(1 + family.gated)]
    return saturated_positions(co_magnitude(reads, _energy(last.weight, 0)))


def _energy(weight: Tensor, dim: int) -> np.ndarray:
    return weight.detach().double().square().sum(dim).cpu().numpy()
