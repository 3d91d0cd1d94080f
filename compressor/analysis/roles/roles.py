"""Layer roles: what each layer's weights (and a trace, if there is one) say it is, against the other layers of the model.

Every feature is standardised over the layers; each role has the features that speak for or against it (`ROUTING`); its
score is the sigmoid of their mean. So a role is relative: a model of equal layers has none, and two models' scores do
not compare. How far a role holds is seen by drawing rows, positions, heads, steps and texts with replacement.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressor.analysis.roles.alarms import Alarm, find_alarms, spectral_ratios
from compressor.analysis.roles.features import RESAMPLED, by_neuron, layer_features, measure_layer
from compressor.analysis.roles.trace import RoleTrace
from compressor.analysis.roles.weights import Weights, open_weights
from compressor.compensation.refits.neurons import co_magnitude, saturated_positions
from compressor.errors import UserError
from compressor.measurement.statistics import percentile_interval
from compressor.progress import Track, silent

ROUTING: dict[str, dict[str, int]] = {
    # mixes: what heads found is written in many directions, and neither block outweighs the other
    "hub": {"attention_rank": +1, "energy_balance": +1},
    # presses down or lifts the whole state: the output map is large against the input map, and training pushes the
    # weights out rather than along themselves
    "damper": {"write_ratio": +1, "momentum_cosine": -1},
    # hands the state on: no FFN position stands out, little is added, what comes out points where it pointed before
    "passthrough": {"magnitude_cv": -1, "saturated": -1, "total_write": -1, "write_on_text": -1, "alignment": +1},
    # answers to few things: some FFN positions carry the block, and heads write to different directions
    "specialist": {"magnitude_cv": +1, "saturated": +1, "head_diversity": +1},
}
"""Role -> feature -> whether a high value speaks for it (+1) or against it (-1). Features that were not measured count for
nothing; `CONTEXT` is measured and told, but is evidence for no role."""
CONTEXT = "ffn_rank", "attention_share", "norm_concentration", "spectral_ratio"
MARGIN = 0.05
"""A role whose score leads the next by no more than this shares the layer with it: a tie."""
TIE = "tie"


@dataclass(frozen=True)
class LayerRole:
    """The role of one layer, numbered from 1: one of `ROUTING`, `tie`, or None where a score is unknown.

    `leads` and `follows` are the roles of the two highest scores, `margin` their difference. `stability`: the share of
    draws that give the same role (or again a tie); `scores_ci95` holds the 95 % intervals of the draws.
    """

    layer: int
    role: str | None
    leads: str | None
    follows: str | None
    margin: float | None
    scores: dict[str, float | None]
    scores_ci95: dict[str, tuple[float, float] | None]
    stability: float | None


@dataclass(frozen=True)
class RolesAnalysis:
    """Roles of all layers of a checkpoint, as plain values for JSON.

    `features` and `standardised` hold one value a layer, by feature; None where it is not defined. `intervals` are 95 %
    intervals of the features that draws resample (`resampled` says what is drawn); `reliability` is the share of such a
    feature's variance over layers that is not that of its draws: at 0, layers differ by no more than chance makes them.
    `saturated` lists the saturated FFN positions (from 0) of every layer and `flatness_draws` the coefficients of variation
    of its draws: what comparisons of two checkpoints need. `positions` is the width of the FFN. `trace` says what was
    traced, None without.
    """

    model: str
    model_type: str
    naming: str
    layers: int
    heads: int
    positions: int
    seed: int
    draws: int
    trace: dict[str, Any] | None
    routing: dict[str, dict[str, int]]
    context: tuple[str, ...]
    resampled: dict[str, str]
    features: dict[str, list[float | None]]
    standardised: dict[str, list[float | None]]
    intervals: dict[str, list[tuple[float, float] | None]]
    reliability: dict[str, float | None]
    roles: tuple[LayerRole, ...]
    saturated: tuple[tuple[int, ...], ...]
    flatness_draws: list[list[float | None]]
    alarms: tuple[Alarm, ...]
    against: dict[str, Any] | None = None
    """What `compare_roles` found beside another checkpoint."""
    steps: dict[str, Any] | None = None
    """What `role_trajectory` found along others."""


def analyze_roles(
    model_dir: Path, *, trace: RoleTrace | None = None, seed: int = 0, draws: int = 200, track: Track = silent
) -> RolesAnalysis:
    """Return the roles of the layers of a model directory: an encoder or a decoder checkpoint, read tensor by tensor.

    Raises UserError where the weights cannot be read or named, or the model has a single layer.
    """
    return roles_of(open_weights(model_dir), trace=trace, seed=seed, draws=draws, track=track)


def roles_of(
    weights: Weights, *, trace: RoleTrace | None = None, seed: int = 0, draws: int = 200, track: Track = silent
) -> RolesAnalysis:
    """Return the roles of the layers whose weights these are; see `analyze_roles`."""
    count = len(weights.layers)
    if count < 2:
        raise UserError(f"{weights.source}: it has one layer; roles compare layers, so give a model of two or more.")
    if trace is not None and trace.momentum.shape[1] != count:
        raise UserError(f"{weights.source}: it has {count} layers, the traced model {trace.momentum.shape[1]}.")
    measures, made = [], []
    for index, names in enumerate(track(weights.layers, "roles: weights of every layer", total=count)):
        rng = np.random.default_rng([seed, index])
        with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity in the weights become NaN features
            measures.append(measure_layer(weights, names, draws, rng))
            made.append(layer_features(measures[-1], trace.of_layer(index) if trace else {}, draws, rng))
    drawn = {name: np.stack([layer[name] for layer in made], axis=1) for name in made[0]}
    largest = [np.max(row[np.isfinite(row)], initial=-np.inf) for row in spectral_ratios(measures)]
    drawn["spectral_ratio"] = np.tile(largest, (1 + draws, 1))
    standardised = {name: standardise(values) for name, values in drawn.items()}
    scores = role_scores(standardised)
    resampled = {name: what for name, what in RESAMPLED.items() if name in drawn}
    return RolesAnalysis(
        model=weights.source.removeprefix("model "),
        model_type=weights.model_type,
        naming=weights.naming,
        layers=count,
        heads=weights.heads,
        positions=len(measures[0].magnitude),
        seed=seed,
        draws=draws,
        trace=None
        if trace is None
        else {"steps": len(trace.momentum), "texts": len(trace.write), "lr": trace.lr, "batch_size": trace.batch_size},
        routing=ROUTING,
        context=CONTEXT,
        resampled=resampled,
        features={name: _plain(values[0]) for name, values in drawn.items()},
        standardised={name: _plain(values[0]) for name, values in standardised.items()},
        intervals={name: [_interval(column) for column in drawn[name][1:].T] for name in resampled},
        reliability={name: _reliability(drawn[name]) for name in resampled},
        roles=tuple(_layer_role(index, scores) for index in range(count)),
        saturated=tuple(tuple(np.flatnonzero(saturated_positions(each.magnitude)).tolist()) for each in measures),
        flatness_draws=[_plain(values.round(6)) for values in drawn["magnitude_cv"][1:].T],
        alarms=find_alarms(weights, measures, track),
    )


def passthrough_scores(weights: Weights) -> np.ndarray:
    """Return the passthrough score [L] of every layer from the weights alone: near 1, a layer that might as well go.

    It needs norms of rows and columns only, so it takes a moment where all features may take minutes. NaN where weights
    are not finite.
    """
    found: dict[str, list[float]] = {"magnitude_cv": [], "saturated": [], "total_write": []}
    for names in weights.layers:
        reads = [weights.matrix(name).double().square().sum(1).numpy() for name in names.ffn_in]
        reads = by_neuron(weights, reads)
        columns = weights.matrix(names.ffn_out).double().square().sum(0).numpy()
        write = float(weights.matrix(names.attention_out).double().square().sum()) + float(columns.sum())
        magnitude = co_magnitude(reads, columns)
        mean = magnitude.mean()
        found["magnitude_cv"].append(float(magnitude.std() / mean if mean else 0.0))
        found["saturated"].append(float(saturated_positions(magnitude).sum()))
        found["total_write"].append(math.sqrt(write))
    values = {name: standardise(np.array(column)[None]) for name, column in found.items()}
    return role_scores(values)["passthrough"][0]


def standardise(values: np.ndarray) -> np.ndarray:
    """Return the values [D, L] in deviations from the mean over layers; 0 where all layers are alike, NaN stays NaN."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    count = np.maximum(finite.sum(axis=1, keepdims=True), 1)
    centred = np.where(finite, values - known.sum(axis=1, keepdims=True) / count, np.nan)
    spread = np.sqrt(np.where(finite, centred**2, 0.0).sum(axis=1, keepdims=True) / count)
    # rounding must not make a feature of layers that are alike
    alike = spread <= 1e-9 * np.abs(known).max(axis=1, keepdims=True)
    return np.where(alike & finite, 0.0, np.divide(centred, spread, out=centred.copy(), where=spread > 0))


def role_scores(standardised: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the score [D, L] of every role: the sigmoid of the mean of its features [D, L], signed by `ROUTING`.

    NaN where none of its features is known; roles without a measured feature have no entry.
    """
    scores = {}
    for role, routed in ROUTING.items():
        measured = [sign * standardised[name] for name, sign in routed.items() if name in standardised]
        if not measured:
            continue
        parts = np.stack(measured)
        known = np.isfinite(parts)
        total, count = np.where(known, parts, 0.0).sum(axis=0), known.sum(axis=0)
        mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
        scores[role] = 1 / (1 + np.exp(-mean))
    return scores


def winning(scores: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the index in `ROUTING` of the role that wins by scores [...]; -1 for a tie, -2 where a score is not known."""
    stacked = np.stack([scores[role] for role in ROUTING])
    ordered = np.sort(stacked, axis=0)
    winner = np.where(ordered[-1] - ordered[-2] > MARGIN, np.argmax(stacked, axis=0), -1)
    return np.where(np.isfinite(stacked).all(axis=0), winner, -2)


def _layer_role(index: int, scores: Mapping[str, np.ndarray]) -> LayerRole:
    """Return the role of the layer at `index` from scores [1 + draws, L], the first being those of the weights as they are."""
    own = {role: values[:, index] for role, values in scores.items()}
    winners = winning(own)
    first = dict(zip(own, _plain(values[0] for values in own.values()), strict=True))
    intervals = {role: _interval(values[1:]) for role, values in own.items()}
    if winners[0] == -2:
        return LayerRole(index + 1, None, None, None, None, first, intervals, None)
    leads, follows = sorted(first, key=lambda role: -first[role])[:2]
    role = TIE if winners[0] == -1 else list(ROUTING)[winners[0]]
    stability = float((winners[1:] == winners[0]).mean()) if len(winners) > 1 else None
    return LayerRole(index + 1, role, leads, follows, first[leads] - first[follows], first, intervals, stability)


def _interval(draws: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of draws [D]; None where a draw is undefined or there are none."""
    return percentile_interval(draws) if len(draws) and np.isfinite(draws).all() else None


def _reliability(values: np.ndarray) -> float | None:
    """Return 1 - the mean variance of the draws [1:, L] over the variance of the estimates [0, L], 0 at least."""
    known = values[:, np.isfinite(values).all(axis=0)]
    if len(known) < 3 or known.shape[1] < 2 or not known[0].var(ddof=1):
        return None
    return max(0.0, 1 - float(known[1:].var(axis=0, ddof=1).mean() / known[0].var(ddof=1)))


def _plain(values: Any) -> list[float | None]:  # noqa: ANN401
    return [float(value) if math.isfinite(value) else None for value in values]
