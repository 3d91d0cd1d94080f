"""The latency of any plan from one timed layer, and how far the prediction was off once the plan is measured."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from compressor.measurement.cost import layers_saved, predicted_speedup
from compressor.measurement.timing.latency import Batch, Cell, Subject, measure
from compressor.measurement.timing.subjects import torch_subject
from compressor.model.capture import LayerCall, apply_layer, capture_call
from compressor.model.families import Family, layer_list
from compressor.model.sublayers import cut_part, shape_of
from compressor.model.units import has_part, pieces
from compressor.progress import Track, silent


def time_layers(
    model: PreTrainedModel,
    family: Family,
    cells: Sequence[Cell],
    *,
    min_seconds: float,
    min_runs: int = 30,
    max_seconds: float = 10.0,
    parts: Sequence[str] = (),
    seed: int = 0,
    track: Track = silent,
) -> list[dict[str, Any]]:
    """Time the whole model and one of its layers in every cell, interleaved; medians in milliseconds.

    Each run of the layer takes the next one of the stack, so that its weights come from where they do in a whole pass.
    With `parts` (`model/units.py`), `parts_ms` holds the time of a layer without each piece that they name: what two pieces
    of one layer save adds up (`layers_saved`), so that a joined part needs no time of its own. Where layers have lost parts
    already, times are means over the layers, and what a piece saves is the mean over those that have it. `heads` and `width`
    are what a layer has, so that amounts in between can be told.
    """
    shape, rows = shape_of(model, family), []
    asked = dict.fromkeys(piece for part in parts for piece in pieces(part) if piece)
    owners = {part: [has_part(part, *own) for own in zip(shape.ffn_widths, shape.heads, strict=True)] for part in asked}
    stacks = {part: _stack_without(model, family, part, owners[part]) for part in asked if any(owners[part])}
    for cell in cells:
        calls = [capture_call(model, family, np.arange(cell.batch), batch)[0] for batch in cell.batches]
        subjects = {"full": torch_subject(model)}
        for name, layers in {"layer": layer_list(model, family), **stacks}.items():
            turns = zip(cycle(calls), cycle(layers), strict=False)
            subjects[name] = _layer_subject(turns, model.device.type)
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
        # layers take turns: where they differ, the median of all would be the time of some
        turns = 1 if shape.uniform() else len(shape.heads)
        typical = {name: typical_ms(values[name], 1 if name == "full" else turns) for name in subjects}
        row = {"batch": cell.batch, "length": cell.length, "full_ms": typical["full"], "layer_ms": typical["layer"]}
        if asked:
            whole = typical["layer"]
            saved = {part: (whole - typical[part]) / np.mean(owners[part]) for part in stacks}
            row |= {"heads": max(shape.heads), "width": max(shape.ffn_widths)}
            row["parts_ms"] = {part: whole - saved.get(part, 0.0) for part in asked}
        rows.append({**row, "runs": len(values["full"])})
    return rows


def typical_ms(times: Sequence[float], turns: int) -> float:
    """Return the mean, over `turns` things that took turns in the rounds, of each one's median time."""
    return float(np.mean([np.median(times[turn::turns]) for turn in range(min(turns, len(times)))]))


def prediction_errors(
    timing: Sequence[Mapping[str, Any]], parts: Sequence[str], latency: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    """Return predicted against measured speed-up of every variant in `latency` that was compared, cell by cell.

    `parts` are what went, "" for each whole layer. `error` is predicted over measured, less 1.
    """
    made = []
    for cell in timing:
        place = {"batch": cell["batch"], "length": cell["length"]}
        predicted = predicted_speedup(cell, layers_saved(cell, parts))
        measured = [
            {"variant": name, "speedup": row["speedup"], "ci95": row["speedup_ci95"]}
            | {"error": predicted / row["speedup"] - 1}
            for name, rows in latency.items()
            for row in rows
            if row["speedup_ci95"] and {key: row[key] for key in place} == place
        ]
        made.append({**place, "size": len(parts), "predicted_speedup": predicted, "measured": measured})
    return made


def _stack_without(model: PreTrainedModel, family: Family, part: str, owners: Sequence[bool]) -> list[torch.nn.Module]:
    """Return copies of the layers, without `part` where they have it; what stays of a block does not matter for its time."""
    layers = [copy.deepcopy(layer) for layer in layer_list(model, family)]
    for layer, owns in zip(layers, owners, strict=True):
        if owns:
            cut_part(layer, family, part)
    return layers


def _layer_subject(turns: Iterator[tuple[LayerCall, torch.nn.Module]], device: str) -> Subject:
    def run(_batch: Batch) -> object:
        call, layer = next(turns)
        output = apply_layer(layer, [call], [call.hidden])
        if device == "cuda":
            torch.cuda.synchronize()
        return output

    return run
