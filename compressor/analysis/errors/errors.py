"""Confident errors: how sure a model is where it is wrong, what a temperature makes of it, where the answer was lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from compressor.analysis.errors.calibration import HIGH_CONFIDENCE, Estimate, bin_count, change, margins
from compressor.analysis.errors.confidence import CHANGES, ModelErrors, ModelOutputs, model_errors
from compressor.analysis.errors.readers import DepthStates, read_states
from compressor.analysis.errors.recovery import Recovery, recovery
from compressor.analysis.errors.slices import LEAST_ROWS, Slice, compare_slices, features
from compressor.errors import UserError
from compressor.measurement.statistics import Comparison, compare
from compressor.progress import Track, silent

EXAMPLES = 12
"""Texts of each outcome, the most confident errors first."""
FULL, COMPRESSED = "full", "compressed"


@dataclass(frozen=True)
class Matrix:
    """Full against compressed, in rows; changes are compressed minus full, paired."""

    both_right: int
    gained: int
    lost: int
    both_wrong_alike: int
    both_wrong_differently: int
    comparison: Comparison
    changes: dict[str, Estimate]


@dataclass(frozen=True)
class ErrorsAnalysis:
    """Everything that is said about the errors on the evaluation split; `models` has `full` and perhaps `compressed`.

    `examples`: {outcome, id, texts, gold, full, compressed, fixed_by}, each model as {label, confidence, margin}.
    """

    rows: int
    seed: int
    labels: list[str]
    label_rows: list[int]
    high_confidence_margin: float
    bins: int
    models: dict[str, ModelErrors]
    recovery: Recovery | None
    matrix: Matrix | None
    least_slice_rows: int
    slices: list[Slice]
    examples: list[dict]


def analyze_errors(
    models: Mapping[str, ModelOutputs],
    gold: np.ndarray | None,
    selection_gold: np.ndarray | None,
    texts: Sequence[tuple[str, ...]],
    ids: Sequence[str],
    label_names: Sequence[str],
    *,
    depth: DepthStates | None = None,
    activation: Callable[[Tensor], Tensor] = torch.tanh,
    column: Sequence[str] | None = None,
    column_name: str = "column",
    seed: int = 0,
    track: Track = silent,
) -> ErrorsAnalysis:
    """Analyse the errors of `models` (`full`, and perhaps `compressed`) against gold int64 [N] of the evaluation split.

    `depth` holds the full model's [CLS] states; without them nothing is said about recovery. `activation` is that of the
    family's head. `column` has one value a row, each a slice of its own. Raises UserError where labels are missing, or
    `column` does not have N values.
    """
    for part, labels in (("evaluation", gold), ("selection", selection_gold)):
        if labels is None or not len(labels) or labels.min() < 0 or labels.max() >= len(label_names):
            raise UserError(
                f"analysis errors: the {part} part has no gold labels, or not in every row, and errors are counted against them; "
                "name the label column in data.label, or leave errors out of analysis."
            )
    if column is not None and len(column) != len(gold):
        raise UserError(
            f"analysis errors: column {column_name!r} has {len(column)} values and the evaluation part {len(gold)} rows; "
            "give one value for every row."
        )
    found, values, draws = {}, {}, {}
    for name, outputs in track(models.items(), "calibration", total=len(models)):
        found[name], values[name], draws[name] = model_errors(outputs, gold, selection_gold, seed=seed)
    recovered = None
    if depth is not None:
        predictions = read_states(depth, len(label_names), activation, seed=seed, track=track)
        rows = depth.evaluation_rows
        recovered = recovery(depth, predictions, models[FULL].evaluation[rows], gold[rows], seed=seed)
    outcomes = {f"{name} errors": outputs.evaluation.argmax(1) != gold for name, outputs in models.items()}
    matrix = None
    if COMPRESSED in models:
        both = tuple((part[FULL], part[COMPRESSED]) for part in (values, draws))
        matrix = _matrix(models, gold, {key: change(key, *both) for key in CHANGES})
        outcomes["flips"] = models[FULL].evaluation.argmax(1) != models[COMPRESSED].evaluation.argmax(1)
    return ErrorsAnalysis(
        rows=len(gold),
        seed=seed,
        labels=list(label_names),
        label_rows=np.bincount(gold, minlength=len(label_names)).tolist(),
        high_confidence_margin=HIGH_CONFIDENCE,
        bins=bin_count(len(gold)),
        models=found,
        recovery=recovered,
        matrix=matrix,
        least_slice_rows=LEAST_ROWS,
        slices=compare_slices(outcomes, features(texts, gold, label_names, column, column_name)),
        examples=_examples(models, gold, texts, ids, label_names, recovered),
    )


def _matrix(models: Mapping[str, ModelOutputs], gold: np.ndarray, changes: dict[str, Estimate]) -> Matrix:
    full, compressed = (models[name].evaluation.argmax(1) for name in (FULL, COMPRESSED))
    comparison = compare(models[FULL].evaluation, models[COMPRESSED].evaluation, gold)
    both_wrong = (full != gold) & (compressed != gold)
    return Matrix(
        both_right=int(((full == gold) & (compressed == gold)).sum()),
        gained=comparison.gained,
        lost=comparison.lost,
        both_wrong_alike=int((both_wrong & (full == compressed)).sum()),
        both_wrong_differently=int((both_wrong & (full != compressed)).sum()),
        comparison=comparison,
        changes=changes,
    )


def _examples(
    models: Mapping[str, ModelOutputs],
    gold: np.ndarray,
    texts: Sequence[tuple[str, ...]],
    ids: Sequence[str],
    names: Sequence[str],
    recovered: Recovery | None,
) -> list[dict]:
    """Return texts that a model gets wrong, EXAMPLES of each outcome, by the largest margin of the wrong answers."""
    probabilities = {name: softmax(outputs.evaluation.astype(np.float64), axis=1) for name, outputs in models.items()}
    margin = {name: margins(outputs.evaluation, gold) for name, outputs in models.items()}
    wrong = {name: outputs.evaluation.argmax(1) != gold for name, outputs in models.items()}
    outcomes = {"wrong": wrong[FULL]}
    if COMPRESSED in models:
        outcomes = {
            "lost": ~wrong[FULL] & wrong[COMPRESSED],
            "gained": wrong[FULL] & ~wrong[COMPRESSED],
            "both wrong": wrong[FULL] & wrong[COMPRESSED],
        }
    fixed_by = {} if recovered is None else {found["row"]: found for found in recovered.by_error}
    made = []
    for outcome, holds in outcomes.items():
        rows = np.flatnonzero(holds)
        largest = np.max([margin[name][rows] for name in models], axis=0)
        for row in rows[np.argsort(-largest, kind="stable")][:EXAMPLES]:
            sides = {
                name: {
                    "label": names[p[row].argmax()],
                    "confidence": float(p[row].max()),
                    "margin": float(margin[name][row]),
                }
                for name, p in probabilities.items()
            }
            made.append({"outcome": outcome, "id": ids[row], "texts": list(texts[row]), "gold": names[gold[row]]}
                        | {FULL: sides[FULL], COMPRESSED: sides.get(COMPRESSED), "fixed_by": fixed_by.get(int(row))})  # fmt: skip
    return made
