"""What the structure of a model allows of a recipe: which layers and parts may go, and what goes with them."""

from compressor.errors import UserError
from compressor.model.families import family_of, kernel_of, layer_kinds
from compressor.model.load import ModelSource
from compressor.model.sublayers import any_shape
from compressor.model.surgery import CONVOLVED
from compressor.recipe.compression import Recipe, SelectionSpec
from compressor.run.savings import source_savings
from compressor.selection.budget.units import check_budget
from compressor.selection.search import check_selection


def fit_structure(recipe: Recipe, source: ModelSource) -> Recipe:
    """Return the recipe with what the structure of the model settles; raises UserError for what that does not allow."""
    kinds = layer_kinds(source.config)
    if kernel_of(source.config):
        recipe = _without_first(recipe)
    check_selection(recipe.selection, source.layers, recipe.goals, kinds)
    if kinds is not None and None in kinds:
        recipe = _of_one_layer(recipe, source.config["model_type"])
    elif kinds is not None:
        _check_units(recipe, source.config["model_type"])
    if recipe.selection.budget is not None:
        _check_budget(recipe.selection, source)
    return recipe


def _without_first(recipe: Recipe) -> Recipe:
    """Return the recipe with layer 1 protected: a convolution behind it takes in what it takes in, and stays where it is."""
    spec = recipe.selection
    if 1 in (spec.skip or ()):
        raise UserError(f"selection.skip: layer 1 cannot be skipped: {CONVOLVED}; skip others.")
    return recipe.model_copy(update={"selection": spec.model_copy(update={"protect": sorted({1, *spec.protect})})})


def _check_units(recipe: Recipe, model_type: str) -> None:
    """Raise UserError where whole layers are to go in a mix of a model that not every set of layers may leave."""
    field, units = ("selection", recipe.selection.units if recipe.selection.budget is not None else ())
    if recipe.ship is not None:
        field, units = "ship", recipe.ship.units or ()
    if "layer" in units:
        raise UserError(
            f"{field}.units: whole layers of a {model_type} model go as sets alone (selection.layers), since each attends "
            "globally or locally by its place; leave layer out: attention and ffn of one layer together are the layer."
        )


def _of_one_layer(recipe: Recipe, model_type: str) -> Recipe:
    """Return the recipe for a model whose layers are one, with the units that may go where `ship` leaves them open.

    Raises UserError where something is to be done to a layer that would be done to all of them, or that compares them.
    """
    spec, ship = recipe.selection, recipe.ship
    field, units = ("ship", ship.units or ()) if ship is not None else ("selection", spec.units)
    blocks = sorted({"ffn", "attention"} & {*units})
    parts = spec.budget is not None or ship is not None
    refused = {
        f"{field}.units": (blocks, f"no block of any would be left; leave out {' and '.join(blocks)}"),
        "selection.protect": (parts and spec.protect, "what one loses all lose; leave protect out"),
        "selection.audit": (spec.audit, "no score can tell one from another; leave audit out"),
        "compensation.refit": (
            recipe.compensation.refit is not None,
            "a fit of the last would change what all compute; leave it out (a head and distillation do work)",
        ),
        "analysis": ("roles" in recipe.analysis, "roles compare the weights of layers; leave roles out"),
    }
    for field, (asked, why) in refused.items():
        if asked:
            raise UserError(f"{field}: layers of {model_type} models are one layer, applied again and again: {why}.")
    if ship is None:
        return recipe
    left = [unit for unit in ship.parts if unit not in {"ffn", "attention"}]
    return recipe.model_copy(update={"ship": ship.model_copy(update={"units": left})})


def _check_budget(spec: SelectionSpec, source: ModelSource) -> None:
    """Raise UserError where the budget cannot be reached, as far as that is known before anything is timed."""
    family = family_of(source.config["model_type"])
    if "heads" in spec.units and not family.movable_heads:
        raise UserError(
            f"selection.units: heads of a {source.config['model_type']} model cannot go one by one, since each has a bias by "
            "its place; leave heads out, or name attention for whole blocks."
        )
    if spec.budget.of == "flops":
        check_budget(spec, source_savings(spec, source), source.layers, one=bool(family.groups_key))
    elif not any_shape(source.config).uniform():
        raise UserError(
            f"selection.budget.of: {source.path} has already lost parts of layers, so that one layer's time says nothing of "
            "another's; set it to flops."
        )
