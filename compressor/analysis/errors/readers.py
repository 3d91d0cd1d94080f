"""Readers of the [CLS] states: linear probes and nearest neighbours behind every layer, small heads on the last state."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from compressor.compensation.heads.head import cross_entropy, fit_head, hard_targets, standardisation
from compressor.compensation.readout import newton_readouts
from compressor.data.batches import Encodings
from compressor.errors import UserError
from compressor.model.families import Family, layer_list
from compressor.model.states.states import run_with_states
from compressor.progress import Track, silent
from compressor.recipe.training import HeadSpec

HEAD_NODES = (4, 16, 64)
NEIGHBOURS = 15
HELD_OUT = 5
"""One row in so many of the fit rows is kept from the fits: it sets the ridge of a probe and ends the training of a head."""
MOST_FIT_ROWS, MOST_EVALUATION_ROWS, LEAST_FIT_ROWS = 4000, 10_000, 20

ReaderKey = tuple[str, int]
"""(`probe`, layer), (`knn`, layer) or (`head`, nodes)."""


@dataclass(frozen=True)
class DepthStates:
    """[CLS] states 0..L of one model: `fit` [L+1, M, H] with gold `fit_labels` [M], `evaluation` [L+1, K, H], float32.

    `evaluation_rows` int64 [K] are their places in the evaluation split; `fit_source` says where the fit rows come from, and
    `fit_accuracy` is the model's own on them: far above that on evaluation, it has learned from them.
    """

    fit: np.ndarray
    fit_labels: np.ndarray
    fit_source: str
    evaluation: np.ndarray
    evaluation_rows: np.ndarray
    fit_accuracy: float | None = None


def cls_states(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    chosen: np.ndarray | None = None,
    *,
    batch_size: int = 32,
    track: Track = silent,
    description: str = "states",
) -> tuple[np.ndarray, np.ndarray]:
    """Return [CLS] states 0..L [L+1, K, H] of the `chosen` rows [K], None for all, and the logits [N, C] of all rows.

    Both are float32 and come from one pass.
    """
    chosen = np.arange(len(encodings)) if chosen is None else chosen
    place = np.full(len(encodings), -1)
    place[chosen] = np.arange(len(chosen))
    shape = len(layer_list(model, family)) + 1, len(chosen), model.config.hidden_size
    states, logits = np.zeros(shape, np.float32), np.zeros((len(encodings), model.config.num_labels), np.float32)

    def keep(rows: np.ndarray, _mask: Tensor, batch_logits: Tensor, batch_states: list[Tensor]) -> None:
        kept = place[rows] >= 0
        states[:, place[rows][kept]] = torch.stack(batch_states).float().cpu().numpy()[:, kept]
        logits[rows] = batch_logits.float().cpu().numpy()

    run_with_states(model, family, encodings, keep, batch_size=batch_size, track=track, description=description)
    return states, logits


def sample_rows(rows: int, most: int, seed: int) -> np.ndarray:
    """Return all of `rows` rows, or a sample of `most` of them, in order: int64."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def depth_states(
    model: nn.Module,
    family: Family,
    fit: Encodings,
    fit_labels: np.ndarray,
    evaluation: Encodings,
    *,
    fit_source: str,
    seed: int = 0,
    track: Track = silent,
) -> tuple[DepthStates, np.ndarray, np.ndarray]:
    """Return the states that `recovery` reads, and the logits of all fit and of all evaluation rows from the same passes.

    The states are those of at most MOST_FIT_ROWS and MOST_EVALUATION_ROWS rows.
    """
    fit_rows = sample_rows(len(fit), MOST_FIT_ROWS, seed)
    rows = sample_rows(len(evaluation), MOST_EVALUATION_ROWS, seed)
    fitted, fit_logits = cls_states(model, family, fit, fit_rows, track=track, description="states of the fit rows")
    states, logits = cls_states(
        model, family, evaluation, rows, track=track, description="states of the evaluation rows"
    )
    accuracy = float((fit_logits[fit_rows].argmax(1) == fit_labels[fit_rows]).mean())
    return DepthStates(fitted, fit_labels[fit_rows], fit_source, states, rows, accuracy), fit_logits, logits


def read_states(
    depth: DepthStates,
    classes: int,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    *,
    seed: int = 0,
    track: Track = silent,
) -> dict[ReaderKey, np.ndarray]:
    """Return what every reader predicts for the evaluation rows, int64 [K]: a probe and kNN behind every layer, and heads.

    All read standardised states. The probe is the penalised multinomial regression of `newton_readouts`, the heads those of
    `fit_head` with gold targets on the last state; both use the held-out fit rows to choose. Raises UserError where the fit
    rows are too few or of one class.
    """
    labels, rows = depth.fit_labels, len(depth.fit_labels)
    if rows < LEAST_FIT_ROWS or len(np.unique(labels)) < 2:
        raise UserError(
            f"analysis errors: the probes take at least {LEAST_FIT_ROWS} labelled rows of two classes or more, and the "
            f"{depth.fit_source} part gives {rows} rows of {len(np.unique(labels))}; give more labelled rows."
        )
    order = np.random.default_rng(seed).permutation(rows)
    held, fit = order[: max(1, rows // HELD_OUT)], order[max(1, rows // HELD_OUT) :]
    wanted = hard_targets(labels, classes)
    found: dict[ReaderKey, np.ndarray] = {}
    layers = len(depth.fit) - 1
    for layer in track(range(1, layers + 1), "probes", total=layers):
        states = torch.from_numpy(depth.fit[layer])
        mean, deviation = standardisation(states)
        inputs, evaluation = [
            (part.double() - mean) / deviation for part in (states, torch.from_numpy(depth.evaluation[layer]))
        ]
        _, weight, bias = min(
            newton_readouts(inputs[fit], wanted[fit]),
            key=lambda readout: cross_entropy(inputs[held] @ readout[1] + readout[2], wanted[held]),
        )
        found["probe", layer] = (evaluation @ weight + bias).argmax(1).numpy()
        neighbours = KNeighborsClassifier(min(NEIGHBOURS, rows), algorithm="brute").fit(inputs.float().numpy(), labels)
        found["knn", layer] = neighbours.predict(evaluation.float().numpy())
    last, evaluation = torch.from_numpy(depth.fit[-1]), torch.from_numpy(depth.evaluation[-1])
    for nodes in track([nodes for nodes in HEAD_NODES if nodes <= last.shape[1]], "heads"):
        spec = HeadSpec(nodes=nodes, targets="gold", class_weights="none")
        made = fit_head(last[fit], wanted[fit], last[held], wanted[held], spec, activation, seed=seed)
        found["head", nodes] = made.head.logits(evaluation, activation).argmax(1).detach().numpy()
    return found
