"""What a run would do and cost, without doing any of it."""

from dataclasses import dataclass
from pathlib import Path

from compressor.measurement.machine.doctor import resolve_device
from compressor.pipeline.pipeline import default_out, stage_keys, stages_of
from compressor.progress import silent
from compressor.recipe.compression import Recipe
from compressor.run.checks import prepare
from compressor.run.rundir import RunDir


@dataclass(frozen=True)
class StageStatus:
    """A stage as a dry run sees it."""

    name: str
    cached: bool
    cost: str


def dry_run(recipe: Recipe, out: str | Path | None = None, *, device: str = "auto") -> list[StageStatus]:
    """Return every stage, whether its result is there already, and what it will cost; nothing is computed or written."""
    path = default_out(recipe, out)
    run = prepare(recipe, path, resolve_device(device), silent)
    folder, keys = RunDir(path), stage_keys(run)
    return [
        StageStatus(stage.name, folder.cached(stage.name, keys[stage.name]) is not None, stage.cost(run))
        for stage in stages_of(recipe)
    ]
