"""The analysis of confident errors, of a run."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from compressor.analysis.errors.confidence import ModelOutputs
from compressor.analysis.errors.errors import analyze_errors
from compressor.analysis.errors.readers import depth_states
from compressor.measurement.predictions import predict
from compressor.run.run import Run
from compressor.stages.analyses.shared import analysis_stage


def errors_of(
    run: Run,
    compressed: PreTrainedModel | None = None,
    column: Sequence[str] | None = None,
    column_name: str = "column",
) -> dict[str, Any]:
    """Analyse the errors of the full model, and of the compressed one beside it, on the evaluation split."""
    data = run.data
    # readers learn from calibration text where it has labels; `test` text often has none, the selection split has
    part = "calibration" if data.calibration.labels is not None else "selection"
    depth, fit_logits, logits = depth_states(
        run.teacher, run.family, getattr(run, part), getattr(data, part).labels, run.evaluation,
        fit_source=part, seed=run.recipe.seed, track=run.track,
    )  # fmt: skip

    def answers(model: PreTrainedModel, split: str, name: str) -> np.ndarray:
        return predict(model, getattr(run, split), track=run.track, description=f"{split}, {name}")

    selection = fit_logits if part == "selection" else answers(run.teacher, "selection", "full")
    outputs = {"full": ModelOutputs(logits, selection)}
    if compressed is not None:
        outputs["compressed"] = ModelOutputs(
            *(answers(compressed, split, "compressed") for split in ("evaluation", "selection"))
        )
    found = analyze_errors(
        outputs,
        data.evaluation.labels,
        data.selection.labels,
        data.evaluation.texts,
        data.evaluation.ids,
        data.label_names,
        depth=depth,
        activation=run.family.activation,
        column=column,
        column_name=column_name,
        seed=run.recipe.seed,
        track=run.track,
    )
    return asdict(found)


STAGE = analysis_stage(
    "errors",
    ("teacher", "model"),
    lambda run: errors_of(run, run.compressed),
    lambda run: f"{len(run.data.evaluation)} evaluation rows with both models, a probe behind every layer",
)
