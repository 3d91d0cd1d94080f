"""Distillation inside a run: its text, its checkpoint, and whether the model is better for it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from compressor.compensation.distill import distill
from compressor.data.batches import join
from compressor.data.splits import Split
from compressor.measurement.predictions import predict
from compressor.model.surgery import kept_layers
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.units import Unit, whole_layers
from compressor.run.arrays import load_array
from compressor.run.run import Run


def distill_model(run: Run, model: PreTrainedModel, units: Sequence[Unit]) -> dict[str, Any]:
    """Distil the full model into `model`, which lacks `units`, in place; return what was done.

    Text that is held out of training finds the best step, by the KL to the full model and never by labels. What chose cannot
    judge: where the KL on the selection split is not lower for it, the weights from before are put back.
    """
    spec, splits = run.recipe.compensation.distill, _splits(run)
    target = load_array(run.path, "selection_logits")
    before = predict(model, run.selection, track=run.track)
    start = {name: value.clone() for name, value in model.state_dict().items()}
    fit = distill(
        run.teacher,
        model,
        run.family,
        kept_layers(run.source.layers, whole_layers(units)),
        join([run.encode(split) for split in splits]),
        spec,
        labels=np.concatenate([_labels(run, split) for split in splits]),
        # stand-ins and refits were fitted to the calibration text: what is before training would look better there
        known=np.repeat([part == "calibration" for part in spec.text], [len(split) for split in splits]),
        seed=run.recipe.seed,
        track=run.track,
        checkpoint=distill_checkpoint(run, units),
    )
    after = predict(model, run.selection, track=run.track)
    task = run.task.bound(run.data.selection)
    kl_before, kl_after = (task.divergence(target, logits) for logits in (before, after))
    agreements = [float((~task.changed(target, logits)).mean()) for logits in (before, after)]
    kept = kl_after < kl_before
    if not kept:
        model.load_state_dict(start)
    return {
        "text": spec.text,
        **{
            name: getattr(fit, name)
            for name in ("rows", "labelled", "precision", "held", "curve", "kept_step", "steps")
        },
        "temperature": spec.temperature,
        "weights": {name: getattr(spec, f"{name}_weight") for name in ("logits", "states", "gold")},
        "losses": fit.losses,
        "kl_before": kl_before,
        "kl_after": kl_after,
        "agreement_before": agreements[0],
        "agreement_after": agreements[1],
        "kept": kept,
    }


def distill_checkpoint(run: Run, units: Sequence[Unit]) -> Checkpoint:
    """Return the checkpoint of the distillation; it stays until the whole stage of the model is done."""
    refit, spec = run.recipe.compensation.refit, run.recipe.compensation.distill
    inputs = {
        "teacher": run.teacher_source.sha256,
        "units": list(units),
        "refit": refit and [refit.model_dump(), run.data.calibration.sha256],
        "distill": spec.model_dump(exclude={"checkpoint_minutes"}),
        "text": [split.sha256 for split in _splits(run)],
    }
    return run.checkpoint("distill", inputs, spec.checkpoint_minutes)


def _splits(run: Run) -> list[Split]:
    return [getattr(run.data, part) for part in run.recipe.compensation.distill.text]


def _labels(run: Run, split: Split) -> np.ndarray:
    return run.task.no_labels(len(split), run.classes) if split.labels is None else split.labels


def distillation_work(run: Run) -> str:
    """Return the expected work in words, nothing where the recipe distils nothing."""
    spec = run.recipe.compensation.distill
    if spec is None:
        return ""
    rows = sum(len(getattr(run.data, part)) for part in spec.text)
    return f"distillation: at most {spec.epochs} epochs over {rows} rows with both models, "
