"""The stage that says which ONNX file to ship: the fastest that keeps to the goals where the goals may be looked at."""

from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.answers.kinds import SINGLE, Task
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.statistics import Comparison, compare
from compressor.recipe.compression import GoalsSpec, Recipe
from compressor.run.run import Run
from compressor.selection.goals import accuracy_misses
from compressor.stages.stage import Stage, spec_json

SHIPPED = "shipped.json"
OWN_FLIPS = 0.01
"""Without accuracy goals, the largest share of the compressed model's own predictions that a precision may change."""


def inputs(run: Run) -> dict[str, Any]:
    """Return what the choice of the file to ship depends on."""
    return {"goals": spec_json(run.recipe.goals), "selection": run.data.selection.sha256, **run.task_inputs}


def compute(run: Run, folder: Path) -> None:
    """Judge every ONNX file of the compressed model on the selection split; name the fastest that passes.

    The evaluation split decides nothing here: it judges the file that was named.
    """
    labels, goals = run.data.selection.labels, run.recipe.goals
    full = predict(run.teacher, run.selection, track=run.track, description="selection, full")
    own = predict(run.compressed, run.selection, track=run.track, description="selection, compressed")
    latency = read_json(run.path / "latency.json")["rows"]
    candidates = []
    for variant in run.variants:
        opened = session(run.path / "onnx" / variant / "model.onnx", provider=PROVIDERS[run.device])
        logits = predict_onnx(opened, run.selection, track=run.track)
        candidates.append({
            "variant": variant,
            "mean_ms": typical_ms(latency[f"onnx_{variant}"]),
            **judge(full, own, logits, labels, goals, run.task.bound(run.data.selection)),
        })  # fmt: skip
    write_json(folder / SHIPPED, {"variant": fastest(candidates), "rows": len(full), "candidates": candidates})


def judge(
    full: np.ndarray,
    own: np.ndarray,
    logits: np.ndarray,
    labels: np.ndarray | None,
    goals: GoalsSpec | None,
    task: Task = SINGLE,
) -> dict[str, Any]:
    """Return what a file's logits [N, C] change against the full model's and its own model's, and the goals missed."""
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits).all(1)).sum())
        return {"flips": None, "own_flips": None, "lower_bound": None, "misses": [f"no finite logits for {rows} rows"]}
    versus: Comparison = compare(full, logits, labels, task=task, confidence=goals.confidence if goals else 0.95)
    changed = float(task.changed(own, logits).mean())
    if goals and (goals.max_drop is not None or goals.max_flips is not None):
        misses = accuracy_misses(goals, versus)
    else:
        misses = [f"{changed:.2%} of the compressed model's own predictions change, allowed are {OWN_FLIPS:.0%}"]
        misses = misses if changed > OWN_FLIPS else []
    return {"flips": versus.flip_rate, "own_flips": changed, "lower_bound": versus.lower_bound, "misses": misses}


def typical_ms(rows: list[dict[str, Any]]) -> float | None:
    """Return the geometric mean of the medians of all cells in milliseconds: a file twice as fast everywhere has half."""
    return float(np.exp(np.mean([np.log(row["p50_ms"]) for row in rows]))) if rows else None


def fastest(candidates: list[dict[str, Any]]) -> str:
    """Return the fastest candidate without a miss; where all have one, the first, which is the most exact."""
    passing = [entry for entry in candidates if not entry["misses"]]
    timed = [entry for entry in passing if entry["mean_ms"] is not None]
    return min(timed, key=lambda entry: entry["mean_ms"])["variant"] if timed else (passing or candidates)[0]["variant"]


def wanted(recipe: Recipe) -> bool:
    """Return whether the recipe leaves it to the run which file to ship."""
    return recipe.export.variants == "auto"


STAGE = Stage(
    "shipping",
    (SHIPPED,),
    ("latency",),
    inputs,
    compute,
    lambda run: f"{len(run.variants)} files over {len(run.data.selection)} selection rows",
    wanted,
    lambda run: {"shipped": read_json(run.path / SHIPPED) if wanted(run.recipe) else None},
)
