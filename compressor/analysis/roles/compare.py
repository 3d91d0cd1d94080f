"""Roles of two checkpoints side by side, or of several in the order of a training: what moved, and how surely."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import eq

import numpy as np

from compressor.analysis.roles.roles import RolesAnalysis
from compressor.errors import UserError
from compressor.measurement.statistics import percentile_interval


@dataclass(frozen=True)
class LayerChange:
    """One layer in a checkpoint `before` and another `after`.

    `flattening`: the coefficient of variation of the FFN's co-magnitudes before over that after, above 1 where the profile
    became flatter; its interval draws the same positions in both. `kept`, `gained`, `lost` count saturated positions, and
    `kept_by_chance` is how many would be kept if the later ones stood anywhere. `features` maps each feature to its
    (before, after), `rank_change` is that of the attention output relative to before.
    """

    layer: int
    role_before: str | None
    role_after: str | None
    flattening: float | None
    flattening_ci95: tuple[float, float] | None
    saturated_before: int
    saturated_after: int
    kept: int
    gained: int
    lost: int
    kept_by_chance: float
    rank_change: float | None
    ffn_rank_change: float | None
    features: dict[str, tuple[float | None, float | None]]


@dataclass(frozen=True)
class RoleComparison:
    """Two checkpoints of the same shape, layer by layer, as plain values for JSON; `same_roles` layers kept their role."""

    before: str
    after: str
    positions: int
    draws: int
    same_roles: int
    layers: tuple[LayerChange, ...]


@dataclass(frozen=True)
class RoleTrajectory:
    """Several checkpoints of the same shape in order, as plain values for JSON.

    `roles` has one row a checkpoint; `features` maps each feature to one row a checkpoint, with one value a layer.
    `same_roles` counts the layers whose role stayed from each checkpoint to the next.
    """

    models: tuple[str, ...]
    roles: tuple[tuple[str | None, ...], ...]
    features: dict[str, list[list[float | None]]]
    same_roles: tuple[int, ...]


def compare_roles(before: RolesAnalysis, after: RolesAnalysis) -> RoleComparison:
    """Return what changed from one checkpoint to the other; raises UserError where their shapes differ."""
    _check_shapes([before, after])
    changes = tuple(_layer_change(before, after, index) for index in range(before.layers))
    return RoleComparison(
        before=before.model,
        after=after.model,
        positions=before.positions,
        draws=before.draws if _paired(before, after) else 0,
        same_roles=sum(change.role_before == change.role_after for change in changes),
        layers=changes,
    )


def role_trajectory(analyses: Sequence[RolesAnalysis]) -> RoleTrajectory:
    """Return roles and features of checkpoints in their order.

    Raises UserError where there are fewer than two or their shapes differ.
    """
    if len(analyses) < 2:
        raise UserError("a trajectory of roles needs two checkpoints at least; give more directories to --steps.")
    _check_shapes(analyses)
    names = [name for name in analyses[0].features if all(name in analysis.features for analysis in analyses)]
    roles = tuple(tuple(layer.role for layer in analysis.roles) for analysis in analyses)
    return RoleTrajectory(
        models=tuple(analysis.model for analysis in analyses),
        roles=roles,
        features={name: [analysis.features[name] for analysis in analyses] for name in names},
        same_roles=tuple(sum(map(eq, *neighbours)) for neighbours in pairwise(roles)),
    )


def _layer_change(before: RolesAnalysis, after: RolesAnalysis, index: int) -> LayerChange:
    old, new = set(before.saturated[index]), set(after.saturated[index])
    values = {
        name: (column[index], after.features[name][index])
        for name, column in before.features.items() if name in after.features
    }  # fmt: skip
    old_spread, new_spread = values["magnitude_cv"]
    return LayerChange(
        layer=index + 1,
        role_before=before.roles[index].role,
        role_after=after.roles[index].role,
        flattening=None if old_spread is None or not new_spread else old_spread / new_spread,
        flattening_ci95=_flattening_interval(before, after, index),
        saturated_before=len(old),
        saturated_after=len(new),
        kept=len(old & new),
        gained=len(new - old),
        lost=len(old - new),
        kept_by_chance=len(old) * len(new) / before.positions,
        rank_change=_relative(*values["attention_rank"]),
        ffn_rank_change=_relative(*values["ffn_rank"]),
        features=values,
    )


def _flattening_interval(before: RolesAnalysis, after: RolesAnalysis, index: int) -> tuple[float, float] | None:
    if not _paired(before, after):
        return None
    old, new = (np.array(side.flatness_draws[index], dtype=float) for side in (before, after))
    ratios = np.divide(old, new, out=np.full_like(old, np.nan), where=new > 0)
    return percentile_interval(ratios) if np.isfinite(ratios).all() else None


def _paired(before: RolesAnalysis, after: RolesAnalysis) -> bool:
    """Tell whether both drew the same positions."""
    return before.draws > 0 and (before.draws, before.seed) == (after.draws, after.seed)


def _relative(before: float | None, after: float | None) -> float | None:
    return None if not before or after is None else after / before - 1


def _check_shapes(analyses: Sequence[RolesAnalysis]) -> None:
    first = analyses[0]
    for other in analyses[1:]:
        for what, name in (("layers", "layers"), ("positions", "FFN positions"), ("heads", "attention heads")):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise UserError(
                    f"model {other.model}: it has {theirs} {name}, {first.model} has {ours}; give checkpoints of the same shape."
                )
