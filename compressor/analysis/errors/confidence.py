"""The errors of one model: how many, how sure it was of them, how well it is calibrated, what one temperature changes."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from compressor.analysis.errors.calibration import (
    HIGH_CONFIDENCE,
    Estimate,
    Interval,
    change,
    ece_if_calibrated,
    estimate,
    fit_temperature,
    margins,
    measured,
    reliability,
)
from compressor.measurement.statistics import share_interval

CURVE = tuple(step / 20 for step in range(20))
"""Margins at which the share of errors above them is given."""
CHANGES = "ece", "nll", "high_confidence_share"
"""Statistics whose changes are reported."""


@dataclass(frozen=True)
class ModelOutputs:
    """Logits of one model on the evaluation split [N, C] and on the selection split [M, C]."""

    evaluation: np.ndarray
    selection: np.ndarray


@dataclass(frozen=True)
class Calibration:
    """Of one model, before or after its temperature; ECE over bins of equal mass, NLL in nats.

    `ece_if_calibrated` is the ECE that as many rows of true confidences would show, `ece_p` the p of the one found.
    `overconfidence` is mean confidence minus accuracy. `reliability`: {rows, confidence, accuracy, accuracy_ci95} by bin.
    """

    ece: Estimate
    ece_if_calibrated: float
    ece_p: float
    overconfidence: Estimate
    nll: Estimate
    high_confidence_share: Estimate
    mean_margin: Estimate
    reliability: list[dict[str, float | int | Interval]]


@dataclass(frozen=True)
class Temperature:
    """One temperature, fitted on the selection split; changes on evaluation are after minus before, paired.

    Where every row of the selection split is right the likelihood has no maximum, nothing is `fitted` and it is 1.
    `evaluation_temperature` is what the evaluation split itself would ask for: shown to judge the fit, used for nothing.
    """

    temperature: float
    fitted: bool
    selection_rows: int
    selection_accuracy: float
    evaluation_temperature: float | None
    changes: dict[str, Estimate]


@dataclass(frozen=True)
class ModelErrors:
    """The errors of one model. `curve`: {margin, count, share, share_ci95} of the errors above each margin."""

    accuracy: float
    errors: int
    error_rate: Estimate
    high_confidence: int
    high_confidence_share: Estimate
    mean_margin: Estimate
    curve: list[dict[str, float | int | Interval]]
    before: Calibration
    after: Calibration
    temperature: Temperature


def model_errors(
    outputs: ModelOutputs, gold: np.ndarray, selection_gold: np.ndarray, *, seed: int = 0
) -> tuple[ModelErrors, dict[str, float | None], dict[str, np.ndarray]]:
    """Return what is said of one model, and the statistics before its temperature with their bootstrap draws."""
    chosen = chosen_temperature(outputs.selection, selection_gold)
    temperature = 1.0 if chosen is None else chosen
    logits = {"before": outputs.evaluation, "after": outputs.evaluation / temperature}
    values, draws = measured(logits, gold, seed=seed)
    before, after = (_calibration(logits[when], gold, values[when], draws[when], seed) for when in logits)
    both = tuple(values.values()), tuple(draws.values())
    margin = margins(outputs.evaluation, gold)[outputs.evaluation.argmax(1) != gold]
    made = ModelErrors(
        accuracy=1 - len(margin) / len(gold),
        errors=len(margin),
        error_rate=share(len(margin), len(gold)),
        high_confidence=int((margin > HIGH_CONFIDENCE).sum()),
        high_confidence_share=share(int((margin > HIGH_CONFIDENCE).sum()), len(margin)),
        mean_margin=before.mean_margin,
        curve=curve(margin),
        before=before,
        after=after,
        temperature=Temperature(
            temperature=temperature,
            fitted=chosen is not None,
            selection_rows=len(selection_gold),
            selection_accuracy=float((outputs.selection.argmax(1) == selection_gold).mean()),
            evaluation_temperature=chosen_temperature(outputs.evaluation, gold),
            changes={key: change(key, *both) for key in CHANGES},
        ),
    )
    return made, values["before"], draws["before"]


def chosen_temperature(logits: np.ndarray, gold: np.ndarray) -> float | None:
    """Return the fitted temperature; None where every row is right, and being ever surer is all that the NLL asks for."""
    return None if (logits.argmax(1) == gold).all() else fit_temperature(logits, gold)


def curve(margin: np.ndarray) -> list[dict[str, float | int | Interval]]:
    """Return the share of the errors, of which `margin` [E] holds the margins, above each of CURVE."""
    made = []
    for threshold in CURVE if len(margin) else ():
        count = int((margin > threshold).sum())
        made.append({"margin": threshold, "count": count, "share": count / len(margin)}
                    | {"share_ci95": share_interval(count, len(margin))})  # fmt: skip
    return made


def share(count: int, rows: int) -> Estimate:
    """Return `count` out of `rows` with its Wilson interval."""
    return Estimate(count / rows, share_interval(count, rows)) if rows else Estimate(None, None)


def _calibration(
    logits: np.ndarray, gold: np.ndarray, values: Mapping[str, float | None], draws: Mapping[str, np.ndarray], seed: int
) -> Calibration:
    expected, p = ece_if_calibrated(logits, gold, seed)
    return Calibration(
        ece=estimate(values["ece"], draws["ece"], centred=True, least=0.0),
        ece_if_calibrated=expected,
        ece_p=p,
        **{key: estimate(values[key], draws[key]) for key in values if key != "ece"},
        reliability=reliability(logits, gold),
    )
