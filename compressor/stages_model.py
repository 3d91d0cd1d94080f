"""The stage that makes the compressed model: surgery, refits, distillation, the compensation head."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from compressor.compensation.blocks import Variant, build_variants
from compressor.compensation.head import cross_entropy, fold_error, fold_head, hard_targets, soft_targets
from compressor.compensation.refit import refit_gaps
from compressor.compensation.trainers import TRAINERS
from compressor.measurement.cost import parameter_count
from compressor.model.capture import LayerCall, capture_calls
from compressor.model.card import model_card
from compressor.model.states import final_states
from compressor.model.sublayers import shape_of
from compressor.model.surgery import kept_layers, leave_out, save_model
from compressor.model.units import parts_of
from compressor.recipe import Recipe
from compressor.recipe_file import dump_recipe
from compressor.run import Run
from compressor.rundir import read_json, write_json
from compressor.stages_distill import distill_checkpoint, distill_model
from compressor.stages_selection import load_array


def make_model(run: Run, folder: Path) -> None:
    """Drop the layers, refit and distil where the recipe says so, fold in a head trained on the states, save a stock model."""
    plan = read_json(run.path / "plan.json")
    skip, units = tuple(plan["skip"]), plan["units"]
    parts, refit = parts_of(units), run.recipe.compensation.refit
    calls = capture_calls(run.teacher, run.family, run.calibration, track=run.track)[0] if parts or refit else []
    wanted = {layer: [part] for layer, part in parts.items()}
    variants = build_variants(run.teacher, run.family, calls, wanted, track=run.track)
    stand_ins = {key: variant.module for key, variant in variants.items()}
    model = leave_out(run.teacher, run.family, units, stand_ins)
    refits = [] if refit is None else _refit(run, model, skip, calls)
    distillation = None if run.recipe.compensation.distill is None else distill_model(run, model, units)
    report = None if run.recipe.compensation.head is None else _compensate(run, model)
    card = model_card(
        name=run.recipe.name,
        base=Path(run.recipe.model.path.removeprefix("package:")).name,
        model_class=type(model).__name__,
        units=units,
        padded=not shape_of(model, run.family).uniform(),
        layers=run.source.layers,
        nodes=report["nodes"] if report and report["folded"] else None,
        refitted=[refit["layer"] for refit in refits if refit["strength"] is not None],
        distilled=distillation is not None and distillation["kept"],
        recipe=card_recipe(run.recipe),
    )
    save_model(model, run.tokenizer, folder / "model", card)
    parameters = {"full": parameter_count(run.teacher), "compressed": parameter_count(model)}
    write_json(
        folder / "model.json",
        {
            "parameters": parameters,
            "blocks": _account(variants),
            "refit": refits,
            "distill": distillation,
            "head": report,
        },
    )
    if distillation is not None:
        distill_checkpoint(run, units).remove()


def _account(variants: Mapping[tuple[int, str], Variant]) -> list[dict[str, Any]]:
    """Return what was fitted for each layer that lost a part, as JSON."""
    return [
        {"layer": layer, "part": part} | {name: value for name, value in vars(variant).items() if name != "module"}
        for (layer, part), variant in variants.items()
    ]


def _refit(run: Run, model: PreTrainedModel, skip: tuple[int, ...], calls: Sequence[LayerCall]) -> list[dict[str, Any]]:
    """Refit the kept layers of `model` in place on the calibration text; return what was done."""
    keep = kept_layers(run.source.layers, skip)
    spec = run.recipe.compensation.refit
    done = refit_gaps(run.teacher, model, run.family, keep, calls, spec, track=run.track)
    return [asdict(refit) for refit in done]


def card_recipe(recipe: Recipe) -> str:
    """Return the part of the recipe that made the model, for its card; of local paths the card needs only the names."""
    unused: dict[str, Any] = {"export": True, "benchmark": True, "selection": {"audit"}}
    if recipe.compensation.distill is not None:
        unused["compensation"] = {"distill": {"checkpoint_minutes"}}
    if recipe.selection.layers != "auto":
        unused["goals"] = True
    files = ("source", "train", "validation", "test")
    data = {
        name: Path(getattr(recipe.data, name)).name
        for name in files
        if Path(getattr(recipe.data, name) or "").is_absolute()
    }
    path = {"path": Path(recipe.model.path).name} if Path(recipe.model.path).is_absolute() else {}
    parts = {"data": recipe.data.model_copy(update=data), "model": recipe.model.model_copy(update=path)}
    if recipe.cascade is not None and recipe.cascade.model == "full":
        parts["cascade"] = None
    elif recipe.cascade is not None:  # it halves the calibration text that this model learned from
        unused["cascade"] = {"exits", "max_flips", "confidence", "fit_size"}
    return dump_recipe(recipe.model_copy(update=parts), leave_out=unused)


def _compensate(run: Run, model: PreTrainedModel) -> dict[str, Any]:
    """Fit the head and fold it into `model` unless the stock head has the lower loss on the selection split.

    The loss decides, not the labels that agree: on a split of a thousand rows those differ by chance.
    """
    spec, family, data = run.recipe.compensation.head, run.family, run.data
    teacher = {part: load_array(run.path, f"{part}_logits") for part in ("calibration", "selection")}
    states, _ = final_states(model, family, run.calibration, track=run.track)
    selection_states, stock_logits = final_states(model, family, run.selection, track=run.track)
    if spec.targets == "gold":
        targets = hard_targets(data.calibration.labels, run.classes), hard_targets(data.selection.labels, run.classes)
        wanted = data.selection.labels
    else:
        targets = soft_targets(teacher["calibration"]), soft_targets(teacher["selection"])
        wanted = teacher["selection"].argmax(1)
    fit = TRAINERS[spec.trainer](
        torch.from_numpy(states),
        targets[0],
        torch.from_numpy(selection_states),
        targets[1],
        spec,
        family.activation,
        seed=run.recipe.seed,
        track=run.track,
    )
    logits = fit.head.logits(torch.from_numpy(selection_states), family.activation)
    losses = [cross_entropy(part, targets[1], fit.class_weights) for part in (torch.from_numpy(stock_logits), logits)]
    agreements = [float((part.argmax(1) == wanted).mean()) for part in (stock_logits, logits.numpy())]
    folded = losses[1] < losses[0]
    report = {
        "nodes": len(fit.head.b1),
        "trainer": spec.trainer,
        "optimizer": spec.optimizer if spec.trainer == "gradient" else None,
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
        report["fold_error"] = fold_error(model, family, fit.head, torch.from_numpy(selection_states))
    return report
