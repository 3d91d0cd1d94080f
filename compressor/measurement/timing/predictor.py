"""The latency of any plan from the time of one layer, and how far the prediction was off once the plan is measured."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from compressor.measurement.cost import layers_saved, predicted_speedup
from compressor.measurement.timing.latency import Cell, Subject, measure
from compressor.model.units import Shape, Unit, has_part, pieces, unit_of
from compressor.progress import Track, silent

Build = Callable[[Sequence[Unit], bool], Subject]
"""Makes what is timed: the model without some units, with all rows of its last layer (True) or as it is used."""
DEPTH = 2
"""Layers of the models that single parts are timed in."""


def time_layers(
    build: Build,
    shape: Shape,
    cells: Sequence[Cell],
    *,
    min_seconds: float,
    min_runs: int = 30,
    max_seconds: float = 10.0,
    parts: Sequence[str] = (),
    spared: bool = False,
    seed: int = 0,
    track: Track = silent,
) -> list[dict[str, Any]]:
    """Time the whole model of that `shape` and shorter ones in every cell, interleaved; medians in milliseconds.

    `layer_ms` is what the full model takes longer than a shorter one, for each layer between them. With `parts`
    (`model/units.py`), `parts_ms` holds the time of a layer without each piece that they name, from models of `DEPTH` layers
    that have all lost it: what two pieces of one layer save adds up (`layers_saved`), so that a joined part needs no time
    of its own. `last_ms` is the time of the last layer of a model that is used `spared` of rows. Where layers have lost parts
    already, no layer stands for the others: the models keep all of them, and times are means over those that have the
    piece. `heads` and `width` are what a layer has, so that amounts in between can be told.
    """
    layers, rows = len(shape.heads), []
    depth = DEPTH if shape.uniform() and layers > DEPTH else layers
    beyond = tuple(range(depth + 1, layers + 1))
    fewer = beyond or tuple(range(2, layers + 1))
    asked = dict.fromkeys(piece for part in parts for piece in pieces(part) if piece)
    owners = {
        piece: [
            layer
            for layer in range(1, depth + 1)
            if has_part(piece, shape.ffn_widths[layer - 1], shape.heads[layer - 1])
        ]
        for piece in asked
    }
    subjects = {"full": build((), False)}
    if fewer:
        subjects["shorter"] = build(fewer, False)
    same = "shorter" if beyond else "full"
    base = "all rows" if spared else same  # what a part is taken from: where no row is spared, that is timed already
    if asked:
        if spared:
            subjects[base] = build(beyond, True)
        for piece in asked:
            subjects[piece] = build((*beyond, *(unit_of(layer, piece) for layer in owners[piece])), True)
    for cell in cells:
        values = measure(
            subjects,
            cell.batches,
            min_seconds=min_seconds,
            min_runs=min_runs,
            max_seconds=max_seconds,
            seed=seed,
            track=track,
            description=f"one layer, batch {cell.batch}, {cell.length} tokens",
        )
        typical = {name: float(np.median(values[name])) for name in subjects}
        full = typical["full"]
        # no layer takes nothing, whatever the noise of the smallest models says
        layer = max((full - typical["shorter"]) / len(fewer), 0.01 * full / layers) if fewer else full
        row = {"batch": cell.batch, "length": cell.length, "full_ms": full, "layer_ms": layer}
        if asked:
            saved = {piece: (typical[base] - typical[piece]) / max(1, len(owners[piece])) for piece in asked}
            row |= {"heads": max(shape.heads), "width": max(shape.ffn_widths)}
            row["parts_ms"] = {piece: max(layer - saved[piece], 0.0) for piece in asked}
            if spared:
                row["last_ms"] = min(max(layer - (typical[base] - typical[same]), 0.0), layer)
        rows.append({**row, "runs": len(values["full"])})
    return rows


def prediction_errors(
    timing: Sequence[Mapping[str, Any]],
    units: Sequence[Unit],
    layers: int,
    latency: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[dict[str, Any]]:
    """Return predicted against measured speed-up of every variant in `latency` that was compared, cell by cell.

    `units` are what went of a model of `layers`. `error` is predicted over measured, less 1.
    """
    made = []
    for cell in timing:
        place = {"batch": cell["batch"], "length": cell["length"]}
        predicted = predicted_speedup(cell, layers_saved(cell, units, layers))
        measured = [
            {"variant": name, "speedup": row["speedup"], "ci95": row["speedup_ci95"]}
            | {"error": predicted / row["speedup"] - 1}
            for name, rows in latency.items()
            for row in rows
            if row["speedup_ci95"] and {key: row[key] for key in place} == place
        ]
        made.append({**place, "size": len(units), "predicted_speedup": predicted, "measured": measured})
    return made
