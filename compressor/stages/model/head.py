"""The compensation head inside a run: fitted on states of the calibration text, folded in where it is better."""

from typing import Any

import torch
from transformers import PreTrainedModel

from compressor.compensation.heads.head import (
    cross_entropy,
    fold_error,
    fold_head,
    hard_targets,
    head_states,
    soft_targets,
)
from compressor.compensation.heads.outputs import distance, fit_outputs
from compressor.compensation.heads.trainers import TRAINERS, trainer_of
from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.measurement.predictions import predict
from compressor.model.states.states import final_states
from compressor.recipe.training import HeadSpec
from compressor.run.arrays import load_array
from compressor.run.run import Run


def compensate(run: Run, model: PreTrainedModel, spec: HeadSpec) -> dict[str, Any]:
    """Fit the head and fold it into `model` unless the stock head has the lower loss on the selection split.

    Scores and many labels have no classes that a head could be trained on, and the labels of words are read by one map: their
    heads read the full model's outputs in closed form.

    The loss decides, not the labels that agree: on a split of a thousand rows those differ by chance.
    """
    family, data = run.family, run.data
    teacher = {"selection": load_array(run.path, "selection_logits")}
    if run.recipe.ship is None:
        teacher["fitting"] = load_array(run.path, "calibration_logits")
    else:
        teacher["fitting"] = predict(run.teacher, run.fitting, track=run.track, description="full model")
    final, _ = final_states(model, family, run.fitting, track=run.track)
    selection_final, stock_logits = final_states(model, family, run.selection, track=run.track)
    states, activation = head_states(model, family, torch.from_numpy(final))
    held, _ = head_states(model, family, torch.from_numpy(selection_final))
    outputs = {part: torch.from_numpy(found) for part, found in teacher.items()}
    trainer = trainer_of(spec, family, run.kind)
    if run.kind != SINGLE_LABEL:
        wanted, answers = outputs["selection"], teacher["selection"]
        fit = fit_outputs(states, outputs["fitting"], held, wanted, spec, activation, run.task)
    else:
        if spec.targets == "gold":
            targets = [hard_targets(part.labels, run.classes) for part in (data.calibration, data.selection)]
        else:
            targets = [soft_targets(teacher[part]) for part in ("fitting", "selection")]
        wanted = targets[1]
        answers = wanted.numpy()
        fit = TRAINERS[trainer](
            states, targets[0], held, wanted, spec, activation, seed=run.recipe.seed, track=run.track
        )

    def loss(logits: torch.Tensor) -> float:
        if run.kind != SINGLE_LABEL:
            return distance(run.task, logits, wanted)
        return cross_entropy(logits, wanted, fit.class_weights)

    task = run.task.bound(data.selection)
    both = torch.from_numpy(stock_logits), fit.head.logits(held, activation)
    losses = [loss(logits) for logits in both]
    agreements = [float((~task.changed(answers, logits.numpy())).mean()) for logits in both]
    folded = losses[1] < losses[0]
    report = {
        "nodes": states.shape[1] if family.head_norm or not family.dense else len(fit.head.b1),
        "trainer": trainer,
        "optimizer": spec.optimizer if trainer == "gradient" else None,
        "targets": spec.targets,
        "epochs": fit.epochs,
        "best_epoch": fit.best_epoch,
        "selection_loss": list(fit.selection_loss),
        "class_weights": fit.class_weights,
        "loss_before": losses[0],
        "loss_after": losses[1],
        "agreement_before": agreements[0],
        "agreement_after": agreements[1],
        "folded": folded,
        "fold_error": None,
    }
    if folded:
        fold_head(model, family, fit.head)
        report["fold_error"] = fold_error(model, family, fit.head, torch.from_numpy(selection_final))
    return report
