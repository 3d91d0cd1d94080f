"""The stage that times shorter models beside the full one, so that the latency of any plan can be predicted."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.batches import pad
from compressor.export.onnx import STOCK, export_graph
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.runtime import session
from compressor.measurement.timing.latency import Subject, grid_cells
from compressor.measurement.timing.predictor import Build, time_layers
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.model.families import part_sizes
from compressor.model.sublayers import shape_of
from compressor.model.surgery import leave_out
from compressor.model.units import Unit, pieces
from compressor.run.run import TAIL, Run
from compressor.selection.budget.units import part_names, timed_parts
from compressor.stages.selection import amounts
from compressor.stages.stage import Stage, latency_inputs, never

FILE_SECONDS = 1.0, 8.0
"""Seconds that one file takes, of a small model and of one as large as BERT-base."""
VOCABULARY = 4096
"""Tokens that the shorter models keep: a large table of embeddings costs memory and no time."""


def inputs(run: Run) -> dict[str, Any]:
    """Return what the time of one layer depends on, and of a layer without each part that may go."""
    parts, variant = single_parts(run), timed_variant(run)
    file = {"variant": variant, "opset": run.recipe.export.opset} if variant else {}
    return latency_inputs(run) | file | ({"parts": parts} if parts else {})


def compute(run: Run, folder: Path) -> None:
    """Time shorter models beside the full model, as files where the run makes any, so that any plan's latency can be told."""
    spec, inputs = run.recipe.benchmark, list(pad(run.evaluation, np.arange(1)))
    vocabulary, variant = min(VOCABULARY, run.teacher.config.vocab_size), timed_variant(run)
    cells = grid_cells(spec, vocabulary, inputs, run.recipe.seed)
    # medians of a few dozen runs do: the benchmark of the finished files is the measurement that counts
    least, most = _limits(run)
    tail = run.tail if variant and variant not in STOCK else None
    with tempfile.TemporaryDirectory(dir=folder) as work:
        rows = time_layers(
            build_files(run, variant, Path(work), tail) if variant else build_models(run),
            shape_of(run.teacher, run.family),
            cells,
            min_seconds=least,
            max_seconds=most,
            min_runs=min(30, spec.min_runs),
            parts=single_parts(run),
            spared=tail is not None,
            seed=run.recipe.seed,
            track=run.track,
        )
    engine = "ONNX Runtime" if variant else "PyTorch"
    made = {"provider": f"{engine} {run.device.upper()}", "threads": torch.get_num_threads(), "cells": rows}
    write_json(folder / "timing.json", made)


def timed_variant(run: Run) -> str | None:
    """Return the ONNX variant whose layers are timed, None where the run makes no files that could ship.

    Files in 8 bits stand on those in float32, and layers have about the same share of the time in both.
    """
    wanted, ship = run.variants, run.recipe.ship
    if not wanted or (ship is not None and "onnx" not in ship.engines):
        return None
    floats = [*(["fp16"] if run.device != "cpu" else []), "optimized", "alltokens", "fp32"]
    return next((variant for variant in floats if variant in wanted), "optimized")


def build_models(run: Run) -> Build:
    """Return what makes PyTorch models to be timed."""

    def build(units: Sequence[Unit], _all_rows: bool) -> Subject:
        return torch_subject(leave_out(run.teacher, run.family, units))

    return build


def build_files(run: Run, variant: str, work: Path, tail: str | None) -> Build:
    """Return what makes ONNX files of a `variant` to be timed, in the folder `work`; a file goes once it is open.

    `tail` is the form of the CLS-only tail of files that are made as they are used.
    """

    def build(units: Sequence[Unit], all_rows: bool) -> Subject:
        model = leave_out(run.teacher, run.family, units)
        if units and model.config.vocab_size > VOCABULARY:
            model.resize_token_embeddings(VOCABULARY)
        home = Path(tempfile.mkdtemp(dir=work))
        file = export_graph(model, variant, home, None if all_rows else tail, run.recipe.export.opset)
        subject = onnx_subject(session(file, provider=PROVIDERS[run.device], threads=torch.get_num_threads()))
        shutil.rmtree(home)
        return subject

    return build


def single_parts(run: Run) -> list[str]:
    """Return the parts of a layer that may go while the rest of it stays, and whose time is therefore wanted."""
    if not amounts.wanted(run.recipe):
        return []
    size = part_sizes(run.source.config)
    return timed_parts(part_names(amounts.spec_of_parts(run.recipe), *size), *size)


def cost(run: Run) -> str:
    """Return the expected work."""
    return f"{_files(run)} files, {_cells(run)} cells" if timed_variant(run) else f"{_cells(run)} cells"


def seconds(run: Run) -> tuple[float, float]:
    """Return the least and the most seconds that files and cells take."""
    made = _files(run) if timed_variant(run) else 0
    return tuple(made * each + _cells(run) * limit for each, limit in zip(FILE_SECONDS, _limits(run), strict=True))


def _files(run: Run) -> int:
    lost = {piece for part in single_parts(run) for piece in pieces(part) if piece}
    return 1 + (run.source.layers > 1) + len(lost) + bool(lost and timed_variant(run) not in STOCK)


def _cells(run: Run) -> int:
    return len(run.recipe.benchmark.batch_sizes) * len(run.recipe.benchmark.lengths)


def _limits(run: Run) -> tuple[float, float]:
    return min(1.0, run.recipe.benchmark.min_seconds), min(10.0, run.recipe.benchmark.max_seconds)


STAGE = Stage(
    "timing",
    ("timing.json",),
    ("teacher", TAIL.removesuffix(".json")),
    inputs,
    compute,
    cost,
    seconds=seconds,
    result=lambda run: {"timing": read_json(run.path / "timing.json")},
    shared=never,
)
