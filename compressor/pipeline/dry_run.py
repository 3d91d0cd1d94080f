"""What a run would do and cost, without doing any of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.measurement.machine.doctor import resolve_device
from compressor.measurement.machine.environment import granted_threads
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
    seconds: tuple[float, float] | None
    """The least and the most time that it takes; None where that is not known before."""
    key: str
    """What the stage depends on; equal keys of two runs promise equal work."""
    shared: bool
    """Whether runs may take the stage from one another."""


def expected_seconds(stages: Sequence[StageStatus]) -> dict[str, Any]:
    """Return the least and the most seconds of the stages that are to be done, and the names of those that nobody knows of."""
    todo = [stage for stage in stages if not stage.cached]
    known = [stage.seconds for stage in todo if stage.seconds]
    low, high = (sum(ends) for ends in zip((0.0, 0.0), *known, strict=True))
    return {"low": low, "high": high, "unknown": [stage.name for stage in todo if not stage.seconds]}


@granted_threads()
def dry_run(recipe: Recipe, out: str | Path | None = None, *, device: str = "auto") -> list[StageStatus]:
    """Return every stage, whether its result is there already, and what it will cost; nothing is computed or written."""
    path = default_out(recipe, out)
    run = prepare(recipe, path, resolve_device(device), silent)
    folder, keys = RunDir(path), stage_keys(run)
    return [
        StageStatus(
            stage.name,
            folder.cached(stage.name, keys[stage.name]) is not None,
            stage.cost(run),
            stage.seconds(run),
            keys[stage.name],
            stage.shared(recipe),
        )
        for stage in stages_of(run.recipe)
    ]
