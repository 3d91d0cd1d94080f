"""What decides the result of each stage beside the stages before it: part of the stage's key."""

import platform
from typing import Any

import torch

from compressor.recipe_base import Spec
from compressor.run import Run, measures_tail
from compressor.stages_model import card_recipe
from compressor.stages_selection import scores_parts, single_parts


def spec_json(part: Spec | None) -> dict[str, Any] | None:
    """Return a part of the recipe as JSON, None for one that is left out."""
    return None if part is None else part.model_dump(mode="json")


def teacher_inputs(run: Run) -> dict[str, Any]:
    """Return what fine-tuning the full model depends on."""
    spec = spec_json(run.recipe.finetune)
    train = spec and [run.data.train.sha256, run.data.label_names, run.recipe.data.max_length]
    return {"model": run.source.sha256, "finetune": spec, "train": train}


def scores_inputs(run: Run) -> dict[str, Any]:
    """Return what the scores depend on."""
    return {
        "separability": spec_json(run.recipe.separability),
        "calibration": run.data.calibration.sha256,
        "max_length": run.recipe.data.max_length,
        **({"parts": True} if scores_parts(run) else {}),
    }


def machine_inputs(run: Run) -> dict[str, Any]:
    """Return the machine, for what is chosen by time."""
    return {"machine": [run.device, platform.node(), torch.get_num_threads()]}


def tail_inputs(run: Run) -> dict[str, Any]:
    """Return what the form of the CLS-only tail depends on: the machine, where it is found by measurement."""
    return machine_inputs(run) if measures_tail(run.recipe) else {}


def latency_inputs(run: Run) -> dict[str, Any]:
    """Return what a latency depends on: the machine too."""
    return {"benchmark": spec_json(run.recipe.benchmark), **machine_inputs(run)}


def timing_inputs(run: Run) -> dict[str, Any]:
    """Return what the time of one layer depends on, and of a layer without each part that may go."""
    parts = single_parts(run)
    return latency_inputs(run) | ({"parts": parts} if parts else {})


def shipping_inputs(run: Run) -> dict[str, Any]:
    """Return what the choice of the file to ship depends on."""
    return {"goals": spec_json(run.recipe.goals), "selection": run.data.selection.sha256}


def plan_inputs(run: Run) -> dict[str, Any]:
    """Return what the plan depends on."""
    spec, goals = run.recipe.selection, run.recipe.goals
    unused = {"audit"} if spec.budget is not None else {"audit", "budget", "units", "widths"}
    inputs = {"selection": spec.model_dump(mode="json", exclude=unused), "split": run.data.selection.sha256}
    if spec.budget is not None and spec.budget.of == "latency":
        inputs["timing"] = timing_inputs(run)
    if spec.layers == "auto":
        inputs["goals"] = goals.model_dump(mode="json", include={"max_drop", "max_flips", "confidence"})
        inputs["head"] = run.recipe.compensation.head is not None
    return inputs


def model_inputs(run: Run) -> dict[str, Any]:
    """Return what the compressed model depends on."""
    spec = run.recipe.compensation
    inputs = spec.model_dump(mode="json")
    texts = {}
    if spec.distill is not None:
        inputs["distill"].pop("checkpoint_minutes")  # how often to save changes nothing
        texts = {name: getattr(run.data, name).sha256 for name in spec.distill.text}
    return {"compensation": inputs, "texts": texts, "card": card_recipe(run.recipe)}


def export_inputs(run: Run) -> dict[str, Any]:
    """Return what the ONNX files depend on."""
    return {"export": spec_json(run.recipe.export), "variants": run.variants}


def analysis_inputs(run: Run) -> dict[str, Any]:
    """Return what the analyses depend on."""
    parts = {name: getattr(run.data, name).sha256 for name in ("calibration", "selection", "evaluation")}
    labels = run.recipe.separability.labels
    return {"texts": parts, "labels": labels, "max_length": run.recipe.data.max_length, "device": run.device}


def cascade_inputs(run: Run) -> dict[str, Any]:
    """Return what the guarded early exit depends on."""
    data = run.data
    texts = {"train": data.train.sha256, "selection": data.selection.sha256, "guard": data.guard and data.guard.sha256}
    shared = {"max_length": run.recipe.data.max_length, "device": run.device}  # the certificate is that of its device
    return {"cascade": spec_json(run.recipe.cascade), "texts": texts, **shared}
