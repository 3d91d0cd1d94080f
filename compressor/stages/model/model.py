"""The stage that makes the compressed model: surgery, refits, distillation, the compensation head."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from compressor.compensation.refits.amounts import NarrowLayers
from compressor.compensation.refits.refit import refit_gaps
from compressor.files import read_json, write_json
from compressor.measurement.cost import parameter_count
from compressor.model.capture import fit_calls
from compressor.model.card import model_card, source_metadata
from compressor.model.places import local_model
from compressor.model.sublayers import shape_of
from compressor.model.surgery import kept_layers, leave_out, save_model
from compressor.model.units import parts_of
from compressor.recipe.compression import Recipe
from compressor.recipe.file import dump_recipe
from compressor.recipe.training import CompensationSpec, RefitSpec
from compressor.run.run import Run
from compressor.stages.model.distill import distill_checkpoint, distill_model, distillation_work
from compressor.stages.model.head import compensate
from compressor.stages.selection.amounts import amounts_of, figures_of
from compressor.stages.stage import Stage


def inputs(run: Run) -> dict[str, Any]:
    """Return what the compressed model depends on."""
    spec = run.recipe.compensation
    inputs = spec.model_dump(mode="json")
    texts = {}
    if spec.distill is not None:
        inputs["distill"].pop("checkpoint_minutes")  # how often to save changes nothing
        texts = {name: getattr(run.data, name).sha256 for name in spec.distill.text}
    return {"compensation": inputs, "texts": texts, "card": card_recipe(run.recipe)}


def compute(run: Run, folder: Path) -> None:
    """Drop the layers, refit and distil where the recipe says so, fold in a head trained on the states, save a stock model."""
    plan = read_json(run.path / "plan.json")
    skip, units = tuple(plan["skip"]), plan["units"]
    parts, spec = parts_of(units), run.recipe.compensation
    if run.recipe.ship is not None:  # where nothing is gone, there is nothing to make up for
        spec = (
            CompensationSpec(refit=None if run.family.groups_key else RefitSpec(layers="later", blocks="both"))
            if units
            else CompensationSpec(head=None)
        )
    refit = spec.refit
    wanted = {layer: [part] for layer, part in parts.items()}
    fitted = amounts_of(run, wanted)
    model = leave_out(run.teacher, run.family, units, NarrowLayers(run.teacher, run.family, fitted))
    refits = [] if refit is None else _refit(run, model, skip, refit)
    distillation = None if spec.distill is None else distill_model(run, model, units)
    report = None if spec.head is None else compensate(run, model, spec.head)
    card = model_card(
        name=run.recipe.name,
        base=Path(run.recipe.model.path.removeprefix("package:")).name,
        model_class=type(model).__name__,
        units=units,
        padded=not shape_of(model, run.family).uniform(),
        layers=run.source.layers,
        nodes=report["nodes"] if report and report["folded"] else None,
        refitted=sorted({refit["layer"] for refit in refits if refit["strength"] is not None}),
        distilled=distillation is not None and distillation["kept"],
        recipe=card_recipe(run.recipe),
        max_length=run.recipe.data.max_length,
        base_id=None if local_model(run.recipe.model.path) else run.recipe.model.path,
        source=source_metadata(run.source.path),
    )
    save_model(model, run.tokenizer, folder / "model", card)
    parameters = {"full": parameter_count(run.teacher), "compressed": parameter_count(model)}
    write_json(
        folder / "model.json",
        {
            "parameters": parameters,
            "blocks": [
                {"layer": layer, "part": part} | figures_of(fitted[layer, part]) for layer, part in sorted(fitted)
            ],
            "refit": refits,
            "distill": distillation,
            "head": report,
        },
    )
    if distillation is not None:
        distill_checkpoint(run, units).remove()


def _refit(run: Run, model: PreTrainedModel, skip: tuple[int, ...], spec: RefitSpec) -> list[dict[str, Any]]:
    """Refit the kept layers of `model` in place on unlabelled text; return what was done."""
    keep = kept_layers(run.source.layers, skip)
    calls = fit_calls(run.teacher, run.family, run.fitting, track=run.track)
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
        unused["cascade"] = {"exits", "max_flips", "confidence", "fit_size", "precision", "unsure_to_full"}
    return dump_recipe(recipe.model_copy(update=parts), leave_out=unused)


def cost(run: Run) -> str:
    """Return the expected work."""
    spec = run.recipe.compensation
    refit, head = (
        "closed-form refit, " if spec.refit else "",
        (f"{spec.head.nodes} head nodes" if run.family.dense else "the classifier anew") if spec.head else "no head",
    )
    return refit + distillation_work(run) + head


def result(run: Run) -> dict[str, Any]:
    """Return what was fitted."""
    made = read_json(run.path / "model.json")
    return {key: made.get(key) for key in ("blocks", "refit", "distill", "head")}


STAGE = Stage("model", ("model", "model.json"), ("plan",), inputs, compute, cost, result=result)
