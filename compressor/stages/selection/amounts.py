"""The stage that says what every part of every layer does to the answer: one pass for the fits, one for the shifts."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.compensation.refits.amounts import (
    Amount,
    Known,
    NarrowLayers,
    Piece,
    blocks_of,
    fit_amounts,
    solve_amounts,
)
from compressor.compensation.refits.moments import Block
from compressor.compensation.refits.shifts import answer_shifts
from compressor.data.batches import Encodings
from compressor.files import read_json, write_json
from compressor.model.units import heads_left, neurons_left, pieces
from compressor.recipe.compression import Recipe, SelectionSpec
from compressor.run.archive import ARCHIVE, archive_moments
from compressor.run.arrays import ARRAYS, load_array, save_array
from compressor.run.run import Run
from compressor.run.savings import source_savings
from compressor.selection.budget.mixes import Damages
from compressor.stages.stage import Stage

AMOUNTS, SHIFTS = "amounts.json", "answer_shifts"
FIGURES = "strength", "error_cut", "error_mean", "error_refit"
SHIFT_TEXTS = 500
"""Texts whose answers are followed back, of those that the fits take: 364 of SST-2 chose mixes as good as 1,821 did."""


def spec_of_parts(recipe: Recipe) -> SelectionSpec:
    """Return the selection with the parts that may go, also where the run decides what to ship."""
    spec, ship = recipe.selection, recipe.ship
    return spec if ship is None else spec.model_copy(update={"units": ship.parts, "search": "beam"})


def wanted(recipe: Recipe) -> bool:
    """Return whether anything but whole layers by number may go."""
    if recipe.ship is not None:
        return bool(recipe.ship.parts) and recipe.ship.goal != "exact"
    return recipe.selection.budget is not None


def inputs(run: Run) -> dict[str, Any]:
    """Return what the fits and the shifts depend on; no budget is among it."""
    spec = spec_of_parts(run.recipe)
    fitted = run.data.calibration.sha256 if run.recipe.ship is None else [run.data.train.sha256, len(run.fitting)]
    return {
        "units": spec.units,
        "widths": spec.widths,
        "protect": spec.protect,
        "fitted": fitted,
        "max_length": run.recipe.data.max_length,
    }


def compute(run: Run, folder: Path) -> None:
    """Fit every amount of every block to unlabelled text, and take each one's shift of the answers there.

    Not of the selection split: what a model was trained on shifts less than what it has not seen (on SST-2 by a factor of four).
    """
    amounts = amounts_of(run, parts_by_layer(run), known={})  # of what lay here before, nothing is believed
    whole = [layer for layer, part in _keys(run) if not part]
    shifts = answer_shifts(run.teacher, run.family, shift_texts(run.fitting), amounts, whole, track=run.track)
    order = sorted(shifts)
    save_array(folder, SHIFTS, np.stack([shifts[key] for key in order]))
    rows = [{"layer": layer, "part": part, **figures_of(amounts.get((layer, part)))} for layer, part in order]
    orders = [[layer, part, list(amount.order)] for (layer, part), amount in _one_a_block(amounts).items()]
    write_json(folder / AMOUNTS, {"texts": fitted_texts(run), "parts": rows, "orders": orders})


def _keys(run: Run) -> list[Piece]:
    """Return the parts that may go: layer (from 1) and part."""
    spec = spec_of_parts(run.recipe)
    return [key for key in source_savings(spec, run.source) if key[0] not in spec.protect]


def parts_by_layer(run: Run) -> dict[int, list[str]]:
    """Return the parts of layers, whole ones left out, that may go: layer (from 1) -> parts."""
    found: dict[int, list[str]] = {}
    for layer, part in _keys(run):
        found.setdefault(layer, []).extend([part] if part else [])
    return found


def _one_a_block(amounts: Mapping[Piece, Amount]) -> dict[Piece, Amount]:
    """Return one amount of each block; all have the order in which the block's heads or neurons stay."""
    found = {(layer, _attends(part)): (layer, part) for layer, part in amounts}
    return {key: amounts[key] for key in sorted(found.values())}


def _attends(part: str) -> bool:
    return bool(pieces(part)[0])


def known_fits(run: Run) -> dict[Block, Known]:
    """Return what the stage, of this run or of another that shared it, found out of each block; nothing where it is no part."""
    if not wanted(run.recipe):
        return {}
    found = read_json(run.path / AMOUNTS)
    figures: dict[Block, dict[int, dict[str, Any]]] = {}
    orders = {(layer, _attends(part)): tuple(order) for layer, part, order in found.get("orders", [])}
    for row in found["parts"]:
        block = row["layer"], _attends(row["part"])
        if block in orders and "error_refit" in row:
            left = heads_left if block[1] else neurons_left
            count = left(row["part"], len(orders[block]))
            figures.setdefault(block, {})[count] = {name: row[name] for name in FIGURES}
    return {block: Known(order, figures.get(block, {})) for block, order in orders.items()}


def blocks(run: Run) -> list[Block]:
    """Return the blocks from whose moments the parts that may go are fitted."""
    return blocks_of(run.teacher, run.family, parts_by_layer(run))


def fitted_texts(run: Run) -> int:
    """Return how many texts the amounts are fitted to."""
    archive = run.path / f"{ARCHIVE}.json"
    return len(run.fitting) if run.recipe.data.archive is None else read_json(archive)["texts"]


def shift_texts(fitting: Encodings) -> Encodings:
    """Return the texts whose answers are followed back, evenly spaced."""
    return fitting.take(np.unique(np.linspace(0, len(fitting) - 1, SHIFT_TEXTS).astype(int)))


def amounts_of(
    run: Run, wanted: Mapping[int, Collection[str]], known: Mapping[Block, Known] | None = None
) -> dict[Piece, Amount]:
    """Return the amounts of the pieces of the `wanted` parts, made where this process does not have them yet.

    `known` is what is left of their fits; without it, what this stage wrote.
    """
    keys = [(layer, piece) for layer, parts in wanted.items() for part in parts for piece in pieces(part) if piece]
    missing: dict[int, list[str]] = {}
    for layer, piece in keys:
        if (layer, piece) not in run.amounts:
            missing.setdefault(layer, []).append(piece)
    if missing and known is None:
        known = known_fits(run)
    if missing and run.recipe.data.archive is not None:
        moments = archive_moments(run, blocks(run))
        run.amounts |= solve_amounts(run.teacher, run.family, moments, missing, known=known, track=run.track)
    elif missing:
        run.amounts |= fit_amounts(run.teacher, run.family, run.fitting, missing, known=known, track=run.track)
    return {key: run.amounts[key] for key in keys}


def narrow_layers(run: Run, wanted: Mapping[int, Collection[str]]) -> NarrowLayers:
    """Return the layers without each of the `wanted` parts: layer (from 1) -> parts."""
    return NarrowLayers(run.teacher, run.family, amounts_of(run, wanted))


def figures_of(amount: Amount | None) -> dict[str, Any]:
    """Return what is known of a fit, as JSON; nothing for a whole layer."""
    return {} if amount is None else {name: getattr(amount, name) for name in FIGURES}


def damages_of(run: Run) -> Damages:
    """Return what every part does to the answer."""
    rows = read_json(run.path / AMOUNTS)["parts"]
    shifts = load_array(run.path, SHIFTS)
    return Damages.of({(row["layer"], row["part"]): shift for row, shift in zip(rows, shifts, strict=True)})


def cost(run: Run) -> str:
    """Return the expected work."""
    count = len(source_savings(spec_of_parts(run.recipe), run.source))
    texts = "the archive" if run.recipe.data.archive is not None else f"{len(run.fitting)} texts"
    return f"{count} parts fitted to {texts}, gradients of {len(shift_texts(run.fitting))} answers"


STAGE = Stage("amounts", (AMOUNTS, f"{ARRAYS}/{SHIFTS}.npy"), ("teacher", ARCHIVE), inputs, compute, cost, wanted)
"""No part of result.json: the plan's mix says what each part does."""
