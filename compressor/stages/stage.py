"""What a stage is, and the inputs that several of them depend on."""

import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from compressor.recipe.base import Spec
from compressor.recipe.compression import Recipe
from compressor.run.run import Run


@dataclass(frozen=True)
class Stage:
    """One stage of a run, all that there is to know of it.

    `outputs` are the files and folders below the run directory that `compute(run, folder)` leaves in an empty folder;
    `after` are the stages and `inputs(run)` the values (anything JSON can hold) that its key depends on; `wanted` says
    whether a recipe needs it. `cost(run)` is the expected work in words, `seconds(run)` the least and the most time that it
    takes, where the recipe says so. `result(run)` gives its part of result.json from
    the files, also where the stage is not wanted; parts of two stages under one key are merged. `notes(run)` are warnings
    to whoever reads the result, a sentence each. `shared(recipe)` says whether runs that agree so far may take the files from
    one another: what was timed may not be. `read(run)` is all that later stages read of the files, where there are times beside
    it: runs whose times differ may share what follows.
    """

    name: str
    outputs: Sequence[str]
    after: Sequence[str]
    inputs: Callable[[Run], dict[str, Any]]
    compute: Callable[[Run, Path], None]
    cost: Callable[[Run], str]
    wanted: Callable[[Recipe], bool] = lambda _recipe: True
    result: Callable[[Run], dict[str, Any]] = lambda _run: {}
    notes: Callable[[Run], Sequence[str]] = lambda _run: ()
    seconds: Callable[[Run], tuple[float, float] | None] = lambda _run: None
    shared: Callable[[Recipe], bool] = lambda _recipe: True
    read: Callable[[Run], Any] | None = None


def never(_recipe: Recipe) -> bool:
    """Return that no run takes the files of a stage from another: its times are of this run."""
    return False


def spec_json(part: Spec | None) -> dict[str, Any] | None:
    """Return a part of the recipe as JSON, None for one that is left out."""
    return None if part is None else part.model_dump(mode="json")


def machine_inputs(run: Run) -> dict[str, Any]:
    """Return the machine, for what is chosen by time."""
    return {"machine": [run.device, platform.node(), torch.get_num_threads()]}


def latency_inputs(run: Run) -> dict[str, Any]:
    """Return what a latency depends on: the machine too."""
    return {"benchmark": spec_json(run.recipe.benchmark), **machine_inputs(run)}
