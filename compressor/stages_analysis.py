"""The analyses of a run: what each reads and computes. Stages write them into analysis/, `compressor analyze` anywhere."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.analysis.errors import analyze_errors
from compressor.analysis.errors_confidence import ModelOutputs
from compressor.analysis.errors_readers import depth_states
from compressor.analysis.ffn import analyze_ffn
from compressor.analysis.roles import analyze_roles
from compressor.measurement.predictions import predict
from compressor.run import Run
from compressor.rundir import write_json

FOLDER = "analysis"


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


def errors_of(
    run: Run,
    compressed: PreTrainedModel | None = None,
    column: Sequence[str] | None = None,
    column_name: str = "column",
) -> dict[str, Any]:
    """Analyse the errors of the full model, and of the compressed one beside it, on the evaluation split."""
    data, models = run.data, {"full": run.teacher}
    if compressed is not None:
        models["compressed"] = compressed
    outputs = {
        name: ModelOutputs(
            predict(model, run.evaluation, track=run.track, description=f"evaluation, {name}"),
            predict(model, run.selection, track=run.track, description=f"selection, {name}"),
        )
        for name, model in models.items()
    }
    # readers learn from calibration text where it has labels; `test` text often has none, the selection split has
    part = "calibration" if data.calibration.labels is not None else "selection"
    labels, depth = getattr(data, part).labels, None
    if labels is not None:
        depth = depth_states(
            run.teacher, run.family, getattr(run, part), labels, run.evaluation,
            fit_source=part, seed=run.recipe.seed, track=run.track,
        )  # fmt: skip
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


def roles_of_run(run: Run) -> dict[str, Any]:
    """Read the roles of the full model's layers from its weights."""
    return asdict(analyze_roles(run.teacher_source.path, seed=run.recipe.seed, track=run.track))


ANALYSES: dict[str, tuple[tuple[str, ...], Callable[[Run], dict[str, Any]]]] = {  # keys = Recipe.analysis
    "errors": (("teacher", "model"), lambda run: errors_of(run, run.compressed)),
    "ffn": (("teacher",), ffn_of),
    "roles": (("teacher",), roles_of_run),
}
"""Analysis -> the stages whose models it looks at, and the function: another compressed model leaves the others as they are."""


def stage_name(analysis: str) -> str:
    """Return the name of an analysis' stage."""
    return f"analysis-{analysis}"


def make_analysis(name: str) -> Callable[[Run, Path], None]:
    """Return the function of an analysis' stage."""

    def make(run: Run, folder: Path) -> None:
        (folder / FOLDER).mkdir()
        _, analysis = ANALYSES[name]
        write_json(folder / FOLDER / f"{name}.json", analysis(run))

    return make
