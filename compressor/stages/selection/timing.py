"""The stage that times one layer beside the full model, so that the latency of any plan can be predicted."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.batches import pad
from compressor.files import read_json, write_json
from compressor.measurement.timing.latency import grid_cells
from compressor.measurement.timing.predictor import time_layers
from compressor.run.run import Run
from compressor.selection.budget.units import part_names, timed_parts
from compressor.stages.selection import amounts
from compressor.stages.stage import Stage, latency_inputs


def inputs(run: Run) -> dict[str, Any]:
    """Return what the time of one layer depends on, and of a layer without each part that may go."""
    parts = single_parts(run)
    return latency_inputs(run) | ({"parts": parts} if parts else {})


def compute(run: Run, folder: Path) -> None:
    """Time one layer beside the full model, so that the latency of any plan can be predicted."""
    spec, inputs = run.recipe.benchmark, list(pad(run.evaluation, np.arange(1)))
    cells = grid_cells(spec, run.teacher.config.vocab_size, inputs, run.recipe.seed)
    # medians of a few dozen runs do: the benchmark of the finished files is the measurement that counts
    least, most = _limits(run)
    rows = time_layers(
        run.teacher,
        run.family,
        cells,
        min_seconds=least,
        max_seconds=most,
        min_runs=min(30, spec.min_runs),
        parts=single_parts(run),
        seed=run.recipe.seed,
        track=run.track,
    )
    threads = torch.get_num_threads()
    write_json(folder / "timing.json", {"provider": f"PyTorch {run.device.upper()}", "threads": threads, "cells": rows})


def single_parts(run: Run) -> list[str]:
    """Return the parts of a layer that may go while the rest of it stays, and whose time is therefore wanted."""
    if not amounts.wanted(run.recipe):
        return []
    size = [run.source.config[key] for key in (run.family.ffn_key, run.family.heads_key)]
    return timed_parts(part_names(amounts.spec_of_parts(run.recipe), *size), *size)


def cost(run: Run) -> str:
    """Return the expected work."""
    return f"{_cells(run)} cells"


def seconds(run: Run) -> tuple[float, float]:
    """Return the least and the most seconds that the cells take."""
    least, most = _limits(run)
    return _cells(run) * least, _cells(run) * most


def _cells(run: Run) -> int:
    return len(run.recipe.benchmark.batch_sizes) * len(run.recipe.benchmark.lengths)


def _limits(run: Run) -> tuple[float, float]:
    return min(1.0, run.recipe.benchmark.min_seconds), min(10.0, run.recipe.benchmark.max_seconds)


STAGE = Stage(
    "timing",
    ("timing.json",),
    ("teacher",),
    inputs,
    compute,
    cost,
    seconds=seconds,
    result=lambda run: {"timing": read_json(run.path / "timing.json")},
)
