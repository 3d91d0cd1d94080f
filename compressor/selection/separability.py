"""Separability of the state behind every layer, at [CLS] or over all tokens, and what each layer adds to it."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from sklearn.covariance import ledoit_wolf
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import KFold, StratifiedKFold, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compressor.errors import UserError
from compressor.model.states.geometry import linear_cka
from compressor.model.states.sums import ClassStates
from compressor.model.units import ATTENTION, FFN
from compressor.progress import Track, silent

# Below this share of the state's own energy, scatter is rounding: state 0's [CLS] is one vector for every text.
DEGENERATE = 1e-10
POOLED = "pooled_trace_ratio"
"""The one score that reads the mean over all tokens, which differs between texts where the [CLS] state does not yet."""


@dataclass(frozen=True)
class LayerScore:
    """Scores of one state. `separability` is the chosen score, `gain` its rise over the state before (None at state 0)."""

    layer: int
    separability: float
    gain: float | None
    degenerate: bool
    trace_ratio: float
    shrunk_fisher: float
    h_score: float
    linear_probe: float
    pooled_trace_ratio: float


@dataclass(frozen=True)
class LayerScores:
    """Scores of states 0..L; `rows` went into moments and cosines, `sample_rows` into Ledoit-Wolf, CKA and the probe.

    `pairs` holds how alike the states i and j are, one matrix [L+1, L+1] a measure: see `Geometry` and `linear_cka`.
    """

    score: str
    labels: str
    rows: int
    sample_rows: int
    layers: tuple[LayerScore, ...]
    pairs: dict[str, list[list[float]]]


def trace_ratio(count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> float:
    """Return tr(S_b) / tr(S_w) from class counts [C], means [C, H] and centred square sums [C].

    S_b = sum pi_c (mu_c - mu)(mu_c - mu)^T and S_w = sum pi_c Cov_c, with class shares pi_c (Fukunaga 1990, ch. 10).
    Classes without rows count for nothing. 0.0 where all states are one point; infinity where only the classes differ.
    """
    between, within = scatter(count, mean, squares)
    if within > 0:
        return between / within
    return float("inf") if between > 0 else 0.0


def scatter(count: np.ndarray, mean: np.ndarray, squares: np.ndarray) -> tuple[float, float]:
    """Return (tr S_b, tr S_w)."""
    share = count / count.sum()
    overall = share @ mean
    return float(share @ np.square(mean - overall).sum(axis=1)), float(squares.sum() / count.sum())


def trace_ratio_gradient(
    states: np.ndarray, labels: np.ndarray, count: np.ndarray, mean: np.ndarray, squares: np.ndarray
) -> np.ndarray:
    """Return the gradient of the trace ratio J of all N rows with respect to the states [B, H] of some of them.

    `labels` int64 [B] are their classes; counts, means and square sums are those of all rows, as in `trace_ratio`. With
    J = B / W, a row x of class c has dB = 2/N (mu_c - mu) and dW = 2/N (x - mu_c), hence 2 / (N W) (mu_c - mu - J (x - mu_c)).
    Zeros where nothing varies within the classes.
    """
    between, within = scatter(count, mean, squares)
    if within <= 0:
        return np.zeros_like(states)
    overall = count @ mean / count.sum()
    apart = mean[labels] - overall - between / within * (states - mean[labels])
    return 2 / (count.sum() * within) * apart


def shrunk_fisher(states: np.ndarray, labels: np.ndarray) -> float:
    """Return tr(S_w^-1 S_b) of states [M, H] with the within-class covariance shrunk by Ledoit and Wolf (2004).

    Shrinkage keeps S_w invertible where there are fewer rows than dimensions. Affine maps hardly change the value,
    unlike the trace ratio's.
    """
    states, means, index, share = _class_means(states, labels)
    return _between_over(states - means[index], means, share)


def h_score(states: np.ndarray, labels: np.ndarray) -> float:
    """Return tr(S_t^-1 S_b) of states [M, H]: the H-score (Bao et al. 2019) with the total covariance S_t shrunk.

    Ledoit-Wolf shrinkage as in Ibrahim et al. (2021). Its values are below C - 1, C classes: S_t contains S_b.
    """
    states, means, _, share = _class_means(states, labels)
    return _between_over(states - states.mean(axis=0), means, share)


def _class_means(states: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return states in float64, class means [C, H], the class index of every row, and the class shares [C]."""
    classes, index, count = np.unique(labels, return_inverse=True, return_counts=True)
    states = states.astype(np.float64)
    means = np.stack([states[labels == label].mean(axis=0) for label in classes])
    return states, means, index, count / count.sum()


def _between_over(centred: np.ndarray, means: np.ndarray, share: np.ndarray) -> float:
    """Return tr(S^-1 S_b), S the Ledoit-Wolf covariance of rows that are centred already."""
    covariance, _ = ledoit_wolf(centred, assume_centered=True)
    if not np.trace(covariance) > 0:
        return float("inf")
    apart = means - share @ means
    return float(np.sum(share[:, None] * apart * np.linalg.solve(covariance, apart.T).T))


def linear_probe(states: np.ndarray, labels: np.ndarray, seed: int = 0) -> float:
    """Return the cross-validated accuracy of a logistic regression on standardised states [M, H].

    Three stratified folds, or as many as the rarest class has rows; classes with a single row are left out.
    """
    classes, count = np.unique(labels, return_counts=True)
    if (count > 1).sum() < 2:
        return float(count.max() / count.sum())  # too few rows of too few classes: chance is all there is
    rows = np.isin(labels, classes[count > 1])
    states, labels = states[rows], labels[rows]
    folds = min(3, int(count[count > 1].min(initial=3)))
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200, tol=1e-3))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an upper bound on effort, not on quality
        return float(cross_val_score(probe, states, labels, cv=split).mean())


SCORES: dict[str, Callable[[ClassStates, int, int], float]] = {
    "trace_ratio": lambda states, layer, _seed: trace_ratio(
        states.moments.count, states.moments.mean[layer], states.moments.squares[layer]
    ),
    "shrunk_fisher": lambda states, layer, _seed: shrunk_fisher(states.sample[layer], states.sample_labels),
    "h_score": lambda states, layer, _seed: h_score(states.sample[layer], states.sample_labels),
    "linear_probe": lambda states, layer, seed: linear_probe(states.sample[layer], states.sample_labels, seed),
    POOLED: lambda states, layer, _seed: trace_ratio(
        states.pooled.count, states.pooled.mean[layer], states.pooled.squares[layer]
    ),
}
"""Score name -> value of one state, higher is easier to separate; keys = SeparabilitySpec.score."""


def explained_tenth(states: np.ndarray, tenths: np.ndarray, seed: int = 0) -> float:
    """Return the share of the variance of the tenths [M] of a score that a ridge regression on states [M, H] explains.

    `1 - residual / total` on rows that were not fitted to, by three folds; 0 or less where it explains nothing.
    """
    folds = KFold(min(3, len(tenths)), shuffle=True, random_state=seed)
    made = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 6)))
    found = cross_val_predict(made, states, tenths.astype(np.float64), cv=folds)
    return 1 - float(np.square(tenths - found).sum() / np.square(tenths - tenths.mean()).sum())


def views(states: ClassStates, members: np.ndarray | None) -> list[tuple[float, ClassStates]]:
    """Return (weight, states by class): one, or for groups with several labels one for each label, weighted by its support.

    `members` [G, C] says which labels each group has; labels that all rows or none have say nothing and are left out.
    """
    if members is None:
        return [(1.0, states)]
    support = states.moments.count @ members
    told = np.flatnonzero((support > 1) & (states.moments.count.sum() - support > 1))
    return [(support[label] / support[told].sum(), states.of_label(members[:, label])) for label in told]


def score_layers(
    states: ClassStates,
    score: str,
    labels: str,
    *,
    members: np.ndarray | None = None,
    ordered: bool = False,
    seed: int = 0,
    track: Track = silent,
) -> LayerScores:
    """Score states 0..L with every score; `score` names the one that sets separability and gain.

    With `members` the classes are groups that have several labels, and a score is the mean over the labels (see `views`).
    `ordered` classes are tenths of a number: the probe then explains the number (`explained_tenth`).

    Raises UserError where fewer than two classes have two rows or more: nothing is there to separate.
    """
    count, looks = states.moments.count, views(states, members)
    if (count > 1).sum() < 2 and (members is None or not looks):
        sizes = ", ".join(f"{rows:.0f}" for rows in count)
        raise UserError(
            f"data.calibration: its classes (by {labels} labels) have {sizes} rows, and separability needs two classes of "
            "two rows or more; use more or other calibration text."
        )
    largest = sum(weight * look.moments.count.max() for weight, look in looks) / count.sum()
    at_rest = {**dict.fromkeys(SCORES, 0.0), "linear_probe": 0.0 if ordered else float(largest)}
    layers: list[LayerScore] = []
    for layer in track(range(len(states.sample)), "scores", total=len(states.sample)):
        degenerate = is_degenerate(states, layer)
        values = {
            name: at_rest[name] if degenerate and name != POOLED else _value(states, looks, name, layer, ordered, seed)
            for name in SCORES
        }
        if not np.isfinite(list(values.values())).all():
            raise UserError(
                f"data.calibration: the rows of each class have the same state {layer}, so no scatter within the classes "
                "can be measured; use more or other calibration text."
            )
        gain = values[score] - layers[-1].separability if layers else None
        layers.append(LayerScore(layer, values[score], gain, degenerate, **values))
    pairs = {name: getattr(states.geometry, name).tolist() for name in ("token_cosine", "cls_cosine", "cls_angle")}
    pairs["cka"] = linear_cka(states.sample).tolist()
    return LayerScores(score, labels, int(count.sum()), states.sample.shape[1], tuple(layers), pairs)


def score_parts(
    states: ClassStates,
    score: str,
    *,
    members: np.ndarray | None = None,
    ordered: bool = False,
    seed: int = 0,
    track: Track = silent,
) -> dict[tuple[int, str], float]:
    """Return the gain of each part, (layer from 1, `attention` or `ffn`) -> rise of `score` over the state before it.

    `states` are those of `class_states(..., inner=True)`. The gains of a layer's two parts add up to the layer's.
    """
    looks = views(states, members)

    values = [
        0.0 if is_degenerate(states, index) and score != POOLED else _value(states, looks, score, index, ordered, seed)
        for index in track(range(len(states.sample)), "scores of parts", total=len(states.sample))
    ]
    rises = [after - before for before, after in pairwise(values)]
    return {(1 + index // 2, (ATTENTION, FFN)[index % 2]): rise for index, rise in enumerate(rises)}


def _value(
    states: ClassStates, looks: list[tuple[float, ClassStates]], score: str, index: int, ordered: bool, seed: int
) -> float:
    """Return a score of a state, the mean over `looks` (see `views`); of `ordered` classes the probe explains the number."""
    if ordered and score == "linear_probe":
        return explained_tenth(states.sample[index], states.sample_labels, seed)
    return sum(weight * SCORES[score](look, index, seed) for weight, look in looks)


def is_degenerate(states: ClassStates, layer: int) -> bool:
    """Tell whether all rows share one [CLS] state, up to rounding: its score is 0 by definition, not 0/0."""
    moments = states.moments
    between, within = scatter(moments.count, moments.mean[layer], moments.squares[layer])
    return between + within <= DEGENERATE * max(float(np.square(moments.mean[layer]).sum(axis=1).max()), 1e-300)
