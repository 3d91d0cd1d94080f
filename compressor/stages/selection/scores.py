"""The stage that scores every state in one pass over the calibration text, and every layer by gradients where asked to."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.answers.kinds import SINGLE_LABEL, TOKENS, Task
from compressor.files import read_json, write_json
from compressor.measurement.predictions import predict
from compressor.model.states.states import class_states
from compressor.recipe.compression import Recipe
from compressor.run.archive import ARCHIVE, archive_states
from compressor.run.arrays import ARRAYS, save_array
from compressor.run.run import Run
from compressor.selection.sensitivity import MOST_ROWS, SENSITIVITIES, sensitivity
from compressor.selection.separability import score_layers, score_parts
from compressor.stages.stage import Stage, spec_json


def inputs(run: Run) -> dict[str, Any]:
    """Return what the scores depend on."""
    return {
        "separability": spec_json(run.recipe.separability),
        "calibration": run.data.calibration.sha256,
        "max_length": run.recipe.data.max_length,
        **run.task_inputs,
        **({"parts": True} if scores_parts(run) else {}),
        **({"gradients": MOST_ROWS} if takes_gradients(run.recipe) else {}),
    }


def compute(run: Run, folder: Path) -> None:
    """Score every state in one pass over the calibration text; keep the full model's logits for the head."""
    spec = run.recipe.separability
    inner, seed = scores_parts(run), run.recipe.seed
    labels, classes, members = _groups(run)
    streamed = reads_archive(run)
    if streamed:
        logits = predict(run.teacher, run.calibration, track=run.track, description="full model")
        states = archive_states(run, run.source.layers * (2 if inner else 1) + 1, classes).states(logits)
    else:
        states = class_states(
            run.teacher, run.family, run.calibration, labels, classes, inner=inner, seed=seed, track=run.track
        )
    layers = states.behind_layers() if inner else states
    told = {"members": members, "ordered": run.task.is_score, "seed": seed, "track": run.track}
    scores = score_layers(layers, spec.score, "teacher" if streamed else spec.labels, **told)
    more: dict[str, Any] = {}
    if inner:
        gains = score_parts(states, spec.score, **told)
        more["parts"] = [{"layer": layer, "part": part, "gain": gain} for (layer, part), gain in gains.items()]
    if takes_gradients(run.recipe):
        rows = gradient_rows(run)
        given = None if labels is None else labels[run.calibration.answers_of(rows)]
        more["gradients"] = sensitivity(
            run.teacher, run.family, run.calibration.take(rows), given, layers.moments, track=run.track
        )
    write_json(folder / "scores.json", asdict(scores) | more)
    save_array(folder, "calibration_logits", states.logits)


def reads_archive(run: Run) -> bool:
    """Return whether the scores are those of the archive: its rows have no labels, and the model's own are classes alone."""
    return run.recipe.data.archive is not None and run.kind == SINGLE_LABEL


def _groups(run: Run) -> tuple[np.ndarray | None, int, np.ndarray | None]:
    """Return the class of each calibration row, None for the model's own, how many there are, and the labels of each.

    The model's own answers are known only behind the pass, and what is no class needs them before it: a pass of their own.
    """
    answers = run.data.calibration.labels if run.recipe.separability.labels == "gold" else None
    if run.kind in {SINGLE_LABEL, TOKENS}:
        return answers, run.classes, None
    if answers is None:
        answers = run.task.answers(predict(run.teacher, run.calibration, track=run.track, description="full model"))
    groups, members = run.task.bound(run.data.calibration).groups(answers)
    return groups, int(groups.max()) + 1, members


def scores_parts(run: Run) -> bool:
    """Return whether single blocks of layers may go, so that each of them is scored as well."""
    return bool({"ffn", "attention"} & set(run.recipe.selection.units))


def takes_gradients(recipe: Recipe) -> bool:
    """Return whether a score that reads gradients is asked for: by a plan of whole layers that it ranks, or by an audit."""
    spec = recipe.selection
    ranks = recipe.ship is None and spec.budget is None and spec.search != "fixed"
    return spec.audit or (ranks and spec.rank_by in SENSITIVITIES)


def gradient_rows(run: Run) -> np.ndarray:
    """Return the calibration rows that the gradients are taken on: all, or so many of them, evenly spread."""
    rows = len(run.calibration)
    return np.linspace(0, rows - 1, min(rows, MOST_ROWS)).round().astype(np.int64)


def cost(run: Run) -> str:
    """Return the expected work: a backward pass through the activations alone takes about as long as a forward pass."""
    work = f"1 pass over {len(run.data.calibration)} calibration rows{', sums over the archive' * reads_archive(run)}"
    if not takes_gradients(run.recipe):
        return work
    back = Task(run.kind).count_directions(run.classes) + 1
    rows = min(len(run.data.calibration), MOST_ROWS)
    return f"{work}, 1 pass forward and {back} back over {rows} of them"


def result(run: Run) -> dict[str, Any]:
    """Return the scores of every layer, and what they were taken on; what gradients say of layers 1..L where it is known."""
    scores = read_json(run.path / "scores.json")
    told = ("score", "labels", "rows", "sample_rows", "gradients")
    return {"layers": scores["layers"], "scores": {key: scores[key] for key in told if key in scores}}


STAGE = Stage(
    "scores",
    ("scores.json", f"{ARRAYS}/calibration_logits.npy"),
    ("teacher", ARCHIVE),
    inputs,
    compute,
    cost,
    result=result,
)
