"""How much each layer's feed-forward block matters, from models that lack some: by equal shares, and by regression."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compressor.measurement.statistics import percentile_interval

STRENGTHS = tuple(np.logspace(-3, 2, 26).tolist())
"""Ridge strengths to choose from."""
DRAWS = 2000
FLIPS = 200
"""Draws of losses that say nothing of the layers: those of each placement, with signs thrown."""


@dataclass(frozen=True)
class Importance:
    """What it costs that a layer has no block, as a share of the uniform model's value, by either way; None where unknown.

    `determined` is the share (0..1) of the layer's own effect that the placements tell apart from the others': the
    diagonal of the projection onto what they span.
    """

    layer: int
    placements_off: int
    equal: float | None
    equal_ci95: tuple[float, float] | None
    regression: float | None
    regression_ci95: tuple[float, float] | None
    determined: float


@dataclass(frozen=True)
class Importances:
    """Both ways for all layers in one metric.

    Condition (of the directions that are spanned) and rank are those of the matrix which placement lacks which layer;
    `alike` are groups of layers that no placement tells apart. `explained` is the share of the squared losses of
    placements left out of the fit, and of the choice of its strength, that the sum over layers foretells; below 0 where it
    foretells them worse than nothing would. `explained_by_noise` is what pure noise stays below in 95 % of cases. Both are
    None where there are too few placements.
    """

    metric: str
    placements: int
    seeds: int
    strength: float | None
    rank: int
    condition: float | None
    alike: list[list[int]]
    explained: float | None
    explained_by_noise: float | None
    layers: list[Importance]


def equal_shares(off: np.ndarray, caused: np.ndarray) -> np.ndarray:
    """Return by layer the mean over models that lack its block of the loss caused, shared equally among the layers off.

    off: bool [M, L], caused: [M], the loss against the uniform model. NaN for a layer that is never off.
    """
    shares = np.where(off, (caused / np.maximum(off.sum(1), 1))[:, None], 0.0)
    times = off.sum(0)
    return np.where(times > 0, shares.sum(0) / np.maximum(times, 1), np.nan)


def ridge(off: np.ndarray, caused: np.ndarray, strength: float) -> np.ndarray:
    """Return the loss [L] that each missing block causes by itself, where losses add up over the layers off.

    Ridge regression without intercept, for a model that lacks nothing loses nothing: (X'X + strength I)^-1 X'y with X = off
    [M, L]. Ridge rather than lasso, since neighbours are off together: lasso would give all to one of them.
    """
    x = np.asarray(off, dtype=float)
    return np.linalg.solve(x.T @ x + strength * np.eye(x.shape[1]), x.T @ caused)


def left_out(off: np.ndarray, caused: np.ndarray, groups: np.ndarray, strength: float) -> np.ndarray:
    """Return the loss foretold for every model, [M] or [M, K] as `caused`, by a fit without its placement (`groups`: int [M])."""
    foretold = np.zeros(caused.shape)
    for group in np.unique(groups):
        inside = groups == group
        foretold[inside] = np.asarray(off, dtype=float)[inside] @ ridge(off[~inside], caused[~inside], strength)
    return foretold


def explained_shares(off: np.ndarray, caused: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the share [K] of the squared losses `caused` [M, K] that fits foretell of placements they know nothing of.

    Nested: each placement is left out of the choice of the strength as well, which goes by the error on placements left out
    among the others. The best of all strengths on the same errors would explain something of pure noise.
    """
    foretold = np.zeros(caused.shape)
    for group in np.unique(groups):
        inside = groups == group
        rest = off[~inside], caused[~inside]
        errors = [((left_out(*rest, groups[~inside], each) - rest[1]) ** 2).sum(0) for each in STRENGTHS]
        by_strength = np.array([np.asarray(off[inside], dtype=float) @ ridge(*rest, each) for each in STRENGTHS])
        foretold[inside] = np.take_along_axis(by_strength, np.argmin(errors, axis=0)[None, None], axis=0)[0]
    return 1 - ((foretold - caused) ** 2).sum(0) / (caused**2).sum(0)


def importances(
    metric: str, widths: Mapping[str, Sequence[int]], improvements: Mapping[str, Mapping[int, float]], seed: int = 0
) -> Importances:
    """Return the importance of each layer from the relative improvements of placements, by seed.

    `widths` holds the placements with a layer off. Intervals (95 %) draw placements and, within them all alike, seeds with
    replacement, 2,000 times; the strength is chosen once, by the error on placements left out of the fit.
    """
    names = [name for name in widths if 0 in widths[name] and improvements.get(name)]
    layers = len(next(iter(widths.values())))
    rows = [(index, each, -value) for index, name in enumerate(names) for each, value in improvements[name].items()]
    groups, seeds = (np.array([row[column] for row in rows], dtype=int) for column in (0, 1))
    caused = np.array([row[2] for row in rows], dtype=float)
    patterns = np.array([[width == 0 for width in widths[name]] for name in names], dtype=bool).reshape(-1, layers)
    off = patterns[groups]
    strength = explained = noise = None
    if len(names) > 2:
        errors = [float(((left_out(off, caused, groups, each) - caused) ** 2).sum()) for each in STRENGTHS]
        strength = STRENGTHS[int(np.argmin(errors))]
        if caused.any():
            signs = np.random.default_rng(seed).choice([-1.0, 1.0], (len(names), FLIPS))
            shares = explained_shares(off, np.column_stack([caused, caused[:, None] * signs[groups]]), groups)
            explained, noise = float(shares[0]), float(np.quantile(shares[1:], 0.95))
    singular = np.linalg.svd(patterns.astype(float), compute_uv=False)
    spanned = singular[singular > 1e-9]
    projection = np.linalg.pinv(patterns.astype(float)) @ patterns
    equal, regression = equal_shares(off, caused), ridge(off, caused, strength) if strength else np.full(layers, np.nan)
    drawn_equal, drawn_ridge = _draws(off, caused, groups, seeds, strength, seed)
    return Importances(
        metric=metric,
        placements=len(names),
        seeds=len(set(seeds.tolist())),
        strength=strength,
        rank=len(spanned),
        condition=float(spanned[0] / spanned[-1]) if len(spanned) else None,
        alike=_alike(patterns),
        explained=explained,
        explained_by_noise=noise,
        layers=[
            Importance(
                layer + 1, int(patterns[:, layer].sum()),
                _number(equal[layer]), _interval(drawn_equal[:, layer]),
                _number(regression[layer]) if patterns[:, layer].any() else None,
                _interval(drawn_ridge[:, layer]) if patterns[:, layer].any() else None,
                float(projection[layer, layer]),
            )
            for layer in range(layers)
        ],
    )  # fmt: skip


def _draws(
    off: np.ndarray, caused: np.ndarray, groups: np.ndarray, seeds: np.ndarray, strength: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return bootstrap draws of both importances, each [draws, L]; NaN where a draw leaves a layer unknown."""
    generator, layers = np.random.default_rng(seed), off.shape[1]
    equal, regression = np.full((DRAWS, layers), np.nan), np.full((DRAWS, layers), np.nan)
    kinds, known = np.unique(groups), np.unique(seeds)
    if len(kinds) < 2:
        return equal, regression
    place = {(group, each): row for row, (group, each) in enumerate(zip(groups.tolist(), seeds.tolist(), strict=True))}
    for draw in range(DRAWS):
        some, others = generator.choice(kinds, len(kinds)).tolist(), generator.choice(known, len(known)).tolist()
        rows = [place[pair] for group in some for each in others if (pair := (group, each)) in place]
        if rows:
            equal[draw] = equal_shares(off[rows], caused[rows])
            if strength:
                regression[draw] = ridge(off[rows], caused[rows], strength)
    return equal, regression


def _alike(patterns: np.ndarray) -> list[list[int]]:
    """Return groups of layers (from 1), two or more, whose blocks are there and gone in the same placements."""
    groups: dict[bytes, list[int]] = {}
    for layer, column in enumerate(patterns.T, start=1):
        groups.setdefault(column.tobytes(), []).append(layer)
    return [group for group in groups.values() if len(group) > 1]


def _interval(draws: np.ndarray) -> tuple[float, float] | None:
    draws = draws[np.isfinite(draws)]
    return percentile_interval(draws) if len(draws) >= 0.9 * DRAWS else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
