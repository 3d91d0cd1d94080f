"""Trials and evidence of a run, as plan and audit take them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.analysis.roles.roles import passthrough_scores
from compressor.analysis.roles.weights import model_weights
from compressor.files import read_json
from compressor.measurement.machine.environment import torch_threads, versions
from compressor.model.capture import LayerCall, capture_calls
from compressor.progress import silent
from compressor.recipe.compression import Recipe
from compressor.recipe.engine import EngineSpec
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.run.rundir import STAGES_FOLDER, TRIALS
from compressor.run.workers import share_of, spread
from compressor.selection.baselines import Evidence
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import SkipSet, StandIns, set_chunks


def selection_calls(run: Run) -> tuple[list[LayerCall], torch.Tensor]:
    """Return what the layers of the full model take and give on the selection split, and its logits [N, C]."""
    return capture_calls(run.teacher, run.family, run.selection, track=run.track)


def run_trials(
    run: Run, stand_ins: StandIns | None = None, captured: tuple[list[LayerCall], torch.Tensor] | None = None
) -> tuple[Trials, np.ndarray]:
    """Return the trials of the selection split, those of earlier searches in this run directory known, and its logits.

    `captured` is what `selection_calls` returns, where it is known already.
    """
    captured = captured or selection_calls(run)
    engine = run.recipe.selection.engine if stand_ins is None else None
    elsewhere = partial(_spread_trials, run, engine, captured[1]) if engine is not None else None
    cache = run.path / STAGES_FOLDER / TRIALS
    return _trials(run, captured, stand_ins, cache=cache, elsewhere=elsewhere), captured[1].numpy()


def _trials(
    run: Run,
    captured: tuple[list[LayerCall], torch.Tensor],
    stand_ins: StandIns | None = None,
    **more: Any,  # noqa: ANN401
) -> Trials:
    calls, logits = captured
    # as with the keys of stages, another version believes none of it
    text = (
        run.data.calibration.sha256 if run.recipe.ship is None else f"train {run.data.train.sha256} {len(run.fitting)}"
    )
    made_from = f"{versions()['compressor']} {text if stand_ins is not None else ''}"
    return Trials(
        run.teacher,
        run.family,
        calls,
        logits,
        run.data.selection.labels,
        task=run.task.bound(run.data.selection),
        stand_ins=stand_ins,
        made_from=made_from,
        track=run.track,
        **more,
    )


@dataclass(frozen=True)
class TrialJob:
    """Sets that a process of this or of another machine tries, and all that it must know."""

    recipe: Recipe
    path: str
    device: str
    threads: int
    teacher: np.ndarray
    """Logits of the full model [N, C], so that all processes hold sets against the same."""
    sets: tuple[SkipSet, ...]


def try_sets(job: TrialJob) -> list[Trial]:
    """Return the trials of a job's sets; nothing is written."""
    with torch_threads(job.threads):
        run = prepare(job.recipe, Path(job.path), job.device, silent)
        calls, _ = selection_calls(run)
        return _trials(run, (calls, torch.from_numpy(job.teacher)))(job.sets, "")


def _spread_trials(run: Run, engine: EngineSpec, teacher: torch.Tensor, sets: Sequence[SkipSet]) -> Iterator[Trial]:
    """Yield the trials of `sets`: every worker tries a subtree, so that nearly all prefixes are computed by one."""
    workers = share_of(engine, len(sets)).workers
    chunks = set_chunks(sets, -(-len(sets) // min(workers, len(sets))), run.source.layers)
    threads = share_of(engine, len(chunks)).threads
    jobs = [
        TrialJob(run.recipe, str(run.path.resolve()), run.device, threads, teacher.numpy(), tuple(chunk))
        for chunk in chunks
    ]
    for found in spread(try_sets, jobs, engine):
        yield from found


def run_evidence(run: Run) -> Evidence:
    """Return what the scores of the run say before any trial."""
    shared = bool(run.family.groups_key)  # no feature of one stands out among layers that are the same
    passthrough = np.full(run.source.layers, 0.5) if shared else passthrough_scores(model_weights(run.teacher))
    return Evidence.of(read_json(run.path / "scores.json"), run.recipe.seed, passthrough)
