"""Pathologies of a checkpoint: NaN and infinity, matrices far larger than those of other layers, layers that write nothing."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.analysis.roles.features import LayerMeasure
from compressor.analysis.roles.weights import Weights
from compressor.progress import Track, silent

SPECTRAL_LIMIT = 30.0
"""Spectral norm over the median of the same matrix in the other layers, from which it is a pathology."""
DEAD_SHARE = 1e-3
"""A layer that writes less than this share of the median of the others is dead."""


@dataclass(frozen=True)
class Alarm:
    """A pathology: `kind` is `spectral`, `nonfinite` or `dead`; `layer` None outside the layers; `ratio` what was found."""

    kind: str
    layer: int | None
    tensor: str
    ratio: float | None
    text: str


def spectral_ratios(measures: Sequence[LayerMeasure]) -> np.ndarray:
    """Return the spectral norms of the layers' matrices [L, M] over the median of the same matrix in the other layers."""
    return over_others(np.array([list(measure.spectral.values()) for measure in measures]))


def find_alarms(weights: Weights, measures: Sequence[LayerMeasure], track: Track = silent) -> tuple[Alarm, ...]:
    """Return what is wrong with the weights: NaN or infinity, spectral norms far above those of the others, dead layers.

    A spectral norm needs two other layers to stand out from. Reads every tensor outside the layers' matrices once.
    """
    return (*_nonfinite(weights, measures, track), *_spectral(measures), *_dead(measures))


def _nonfinite(weights: Weights, measures: Sequence[LayerMeasure], track: Track) -> Iterator[Alarm]:
    seen = {name for names in weights.layers for name in names.matrices}
    broken = {name for measure in measures for name in measure.broken}
    for name in track(weights.names, "roles: NaN and infinity", total=len(weights.names)):
        if name in broken or (name not in seen and not _finite(weights, name)):
            layer = next(
                (index for index, names in enumerate(weights.layers, 1) if name.startswith(names.prefix)), None
            )
            yield Alarm("nonfinite", layer, name, None, f"tensor {name} holds NaN or infinity")


def _finite(weights: Weights, name: str) -> bool:
    tensor = weights.read(name)
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _spectral(measures: Sequence[LayerMeasure]) -> Iterator[Alarm]:
    for layer, (measure, row) in enumerate(zip(measures, spectral_ratios(measures), strict=True), 1):
        for name, ratio in zip(measure.spectral, row, strict=True):
            if ratio >= SPECTRAL_LIMIT:
                text = f"spectral norm of {name} is {ratio:.3g} times the median of the other layers"
                yield Alarm("spectral", layer, name, float(ratio), text)


def _dead(measures: Sequence[LayerMeasure]) -> Iterator[Alarm]:
    writes = np.array([math.sqrt(measure.attention_writes.sum() + measure.ffn_writes.sum()) for measure in measures])
    shares = over_others(writes[:, None], least=1)[:, 0]
    for layer, (write, share) in enumerate(zip(writes, shares, strict=True), 1):
        if write == 0 or share < DEAD_SHARE:
            ratio = 0.0 if write == 0 else float(share)
            written = "nothing" if write == 0 else f"{ratio:.2g} times what the median layer writes"
            yield Alarm("dead", layer, "attention and FFN output", ratio, f"layer {layer} writes {written}")


def over_others(table: np.ndarray, least: int = 2) -> np.ndarray:
    """Return values [L, M] over the median of the same column in the other layers; NaN with fewer than `least` others."""
    ratios = np.full(table.shape, np.nan)
    for index in range(len(table)):
        for column, values in enumerate(np.delete(table, index, axis=0).T):
            others = values[np.isfinite(values)]
            median = np.median(others) if len(others) >= least else 0.0
            if median > 0:
                ratios[index, column] = table[index, column] / median
    return ratios
