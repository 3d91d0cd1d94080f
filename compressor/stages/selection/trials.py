"""Trials and evidence of a run, as plan and audit take them."""

import numpy as np
import torch

from compressor.analysis.roles.roles import passthrough_scores
from compressor.analysis.roles.weights import model_weights
from compressor.files import read_json
from compressor.measurement.machine.environment import versions
from compressor.model.capture import LayerCall, capture_calls
from compressor.run.run import Run
from compressor.run.rundir import STAGES_FOLDER, TRIALS
from compressor.selection.baselines import Evidence
from compressor.selection.trials import Trials
from compressor.selection.trie import StandIns


def selection_calls(run: Run) -> tuple[list[LayerCall], torch.Tensor]:
    """Return what the layers of the full model take and give on the selection split, and its logits [N, C]."""
    return capture_calls(run.teacher, run.family, run.selection, track=run.track)


def run_trials(
    run: Run, stand_ins: StandIns | None = None, captured: tuple[list[LayerCall], torch.Tensor] | None = None
) -> tuple[Trials, np.ndarray]:
    """Return the trials of the selection split, those of earlier searches in this run directory known, and its logits.

    `captured` is what `selection_calls` returns, where it is known already.
    """
    calls, logits = captured or selection_calls(run)
    cache, labels = run.path / STAGES_FOLDER / TRIALS, run.data.selection.labels
    # as with the keys of stages, another version believes none of it
    text = (
        run.data.calibration.sha256 if run.recipe.ship is None else f"train {run.data.train.sha256} {len(run.fitting)}"
    )
    made_from = f"{versions()['compressor']} {text if stand_ins is not None else ''}"
    trials = Trials(
        run.teacher,
        run.family,
        calls,
        logits,
        labels,
        task=run.task.bound(run.data.selection),
        cache=cache,
        stand_ins=stand_ins,
        made_from=made_from,
        track=run.track,
    )
    return trials, logits.numpy()


def run_evidence(run: Run) -> Evidence:
    """Return what the scores of the run say before any trial."""
    shared = bool(run.family.groups_key)  # no feature of one stands out among layers that are the same
    passthrough = np.full(run.source.layers, 0.5) if shared else passthrough_scores(model_weights(run.teacher))
    return Evidence.of(read_json(run.path / "scores.json"), run.recipe.seed, passthrough)
