"""The analysis of the feed-forward blocks, of a run."""

from dataclasses import asdict
from typing import Any

from compressor.analysis.ffn.ffn import analyze_ffn
from compressor.measurement.predictions import predict
from compressor.run.run import Run
from compressor.stages.analyses.shared import analysis_stage


def ffn_of(run: Run) -> dict[str, Any]:
    """Analyse the feed-forward blocks of the full model on calibration text; remove them on the evaluation split."""
    data, classes_of, source = run.data, run.data.calibration.labels, "gold"
    if classes_of is None or run.recipe.separability.labels == "teacher":
        logits = predict(run.teacher, run.calibration, track=run.track, description="classes of the calibration text")
        classes_of, source = logits.argmax(1), "model"
    found = analyze_ffn(
        run.teacher,
        run.family,
        run.calibration,
        classes_of,
        run.evaluation,
        data.evaluation.labels,
        classes=run.classes,
        labels=source,
        seed=run.recipe.seed,
        track=run.track,
    )
    return asdict(found)


def cost(run: Run) -> str:
    """Return the expected work."""
    calibration, rows = len(run.data.calibration), len(run.data.evaluation)
    return f"{calibration} calibration rows, {run.source.layers} blocks removed on {rows} rows"


STAGE = analysis_stage("ffn", ("teacher",), ffn_of, cost)
