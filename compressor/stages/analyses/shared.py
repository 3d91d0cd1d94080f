"""What every analysis of a run has in common: its inputs, its file, its part of result.json."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from compressor.files import read_json, write_json
from compressor.recipe.compression import Recipe
from compressor.run.run import Run
from compressor.stages.stage import Stage

FOLDER = "analysis"


def _inputs(run: Run) -> dict[str, Any]:
    """Return what the analyses depend on."""
    parts = {name: getattr(run.data, name).sha256 for name in ("calibration", "selection", "evaluation")}
    labels = run.recipe.separability.labels
    return {"texts": parts, "labels": labels, "max_length": run.recipe.data.max_length, "device": run.device}


def analysis_stage(
    name: str, after: Sequence[str], analyze: Callable[[Run], dict[str, Any]], cost: Callable[[Run], str]
) -> Stage:
    """Return the stage of an analysis, a value of Recipe.analysis.

    `after` are the stages whose models it looks at: another compressed model leaves the others as they are.
    """
    file = f"{FOLDER}/{name}.json"

    def compute(run: Run, folder: Path) -> None:
        (folder / FOLDER).mkdir()
        write_json(folder / file, analyze(run))

    def wanted(recipe: Recipe) -> bool:
        return name in recipe.analysis

    def result(run: Run) -> dict[str, Any]:
        return {"analysis": {name: read_json(run.path / file)} if wanted(run.recipe) else {}}

    return Stage(f"analysis-{name}", (file,), after, _inputs, compute, cost, wanted, result)
