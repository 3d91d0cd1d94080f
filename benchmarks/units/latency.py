"""What latency follows from units: files of models whose parts are really gone, beside what shorter files predict."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from compressor.data.batches import pad
from compressor.measurement.cost import layers_saved, predicted_speedup
from compressor.measurement.timing.latency import Cell, grid_batches, measure
from compressor.measurement.timing.predictor import time_layers
from compressor.model.families import part_sizes
from compressor.model.sublayers import shape_of
from compressor.model.units import Unit
from compressor.progress import track_for_terminal
from compressor.recipe.compression import SelectionSpec
from compressor.run.run import Run
from compressor.selection.budget.units import part_names, timed_parts
from compressor.stages.selection.timing import VOCABULARY, build_files

CELLS = (1, 32), (1, 128), (8, 128)
FILES = {"alltokens": False, "optimized": True}
"""Kinds of files, and whether they work out one row of the last layer alone."""
FORM = "reassociated"
EVERY = SelectionSpec(units=["layer", "ffn", "attention", "width", "heads"], budget={"keep": 0.5})
SHAPES: dict[str, tuple[Unit, ...]] = {
    "no FFN in 2 layers": ("3.ffn", "5.ffn"),
    "no attention in 2 layers": ("3.attention", "5.attention"),
    "half of all FFN neurons": tuple(f"{layer}.ffn:768" for layer in range(1, 7)),
    "half of all heads": tuple(f"{layer}.heads:6" for layer in range(1, 7)),
    "half of the FLOPs, heads and neurons": (
        "1.heads:8+ffn:1440",
        "2.heads:8+ffn:1440",
        "3.heads:7+ffn:768",
        "4.heads:9+ffn:288",
        "5.heads:2+ffn:192",
        "6.heads:7+ffn:96",
    ),
    "half of the FLOPs, neurons": ("1.ffn:768", *(f"{layer}.ffn:192" for layer in range(2, 7))),
    "mixed": (5, "2.ffn:768", "3.ffn", "6.attention"),
    "2 layers skipped": (3, 5),
}
"""What is timed, in the layers, neurons and heads of the six-layer models (1,536 neurons, 12 heads)."""


def measure_latency(run: Run, seconds: float) -> dict:
    """Return raw times of the fused files of cut models in one interleaved run, and the ratios predicted from shorter ones.

    Of each kind in `FILES`; a cell takes `seconds` at least.
    """
    inputs, vocabulary = list(pad(run.evaluation, np.arange(1))), min(VOCABULARY, run.teacher.config.vocab_size)
    cells = [Cell(batch, length, grid_batches(batch, length, vocabulary, inputs)) for batch, length in CELLS]
    size = part_sizes(run.source.config)
    parts = timed_parts(part_names(EVERY, *size), *size)  # as a run times them; amounts in between lie on the line
    shape, made = shape_of(run.teacher, run.family), {}
    for variant, spared in FILES.items():
        with tempfile.TemporaryDirectory() as folder:
            build = build_files(run, variant, Path(folder), FORM)
            timing = time_layers(
                build, shape, cells, min_seconds=seconds / 2, max_seconds=60, parts=parts, spared=spared
            )
            subjects = {name: build(units, False) for name, units in {"full": (), **SHAPES}.items()}
        subjects["twin"] = subjects["full"]
        rows = []
        for cell, timed in zip(cells, timing, strict=True):
            values = measure(
                subjects,
                cell.batches,
                min_seconds=seconds,
                min_runs=100,
                max_seconds=150,
                track=track_for_terminal(),
                description=f"{variant}, batch {cell.batch}, {cell.length} tokens",
            )
            predicted = {
                name: predicted_speedup(timed, layers_saved(timed, units, len(shape.heads)))
                for name, units in SHAPES.items()
            }
            rows.append({"batch": cell.batch, "length": cell.length, "values_ms": values, "predicted": predicted})
        made[variant] = {"cells": rows, "timing": timing}
    return {"files": made, "threads": torch.get_num_threads(), "shapes": SHAPES}
