"""The stage that times every model and file of a run, and what each of them takes to start."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.batches import pad
from compressor.files import read_json, write_json
from compressor.measurement.cost import FLOPS_TOKENS
from compressor.measurement.machine.environment import environment
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.runtime import session
from compressor.measurement.timing.footprint import ColdStart, footprints
from compressor.measurement.timing.latency import WORKLOAD, Cell, Subject, benchmark, grid_cells, workload_batches
from compressor.measurement.timing.predictor import prediction_errors
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.recipe.ship import BaselineSpec
from compressor.report.formats import is_full
from compressor.run.run import Run
from compressor.run.variants import ALL_ROWS, SPARED, onnx_files
from compressor.selection.ship import TODAY
from compressor.stages.ship.built import baseline_subject, subject_of
from compressor.stages.ship.factors import answer_times, steps
from compressor.stages.ship.ship import chosen_entry
from compressor.stages.stage import Stage, latency_inputs, never

PROTOCOL = (
    "Rounds interleave all models in an order drawn anew; speed-up is the ratio of medians (of means on the real "
    "workload, where batches differ) with a 95 % block bootstrap interval "
    "over rounds, against the full model in the same format; the noise floor is that full model against itself."
)


def compute(run: Run, folder: Path) -> None:
    """Time every model and file, interleaved, and start each once in a process of its own; keep the raw values."""
    spec, inputs = run.recipe.benchmark, list(pad(run.evaluation, np.arange(1)))
    cells = grid_cells(spec, run.teacher.config.vocab_size, inputs, run.recipe.seed)
    if spec.workload:
        cells += [Cell(size, WORKLOAD, workload_batches(run.evaluation, size)) for size in spec.batch_sizes]
    batches = [batch for cell in cells for batch in cell.batches]
    provider, files, threads = PROVIDERS[run.device], onnx_files(run), torch.get_num_threads()
    pytorch, path = f"PyTorch {run.device.upper()}", []
    subjects: dict[str, Subject] = {"full": torch_subject(run.teacher)}
    providers = {"full": pytorch}
    if run.recipe.ship is not None:
        shipped = chosen_entry(run)
        path = steps(run, shipped) if shipped else []
        base = "full"
        if run.recipe.benchmark.baseline != BaselineSpec():
            base = TODAY
            subjects[base], providers[base] = baseline_subject(run, run.recipe.benchmark.baseline, batches), pytorch
        for _, entry in path:
            subjects.setdefault(entry.key, subject_of(run, entry))
            providers.setdefault(entry.key, provider if entry.engine == "onnx" else pytorch)
        against = {shipped.key: base} if shipped else {}
        files = {name: file for name, file in files.items() if name in subjects}
    else:
        subjects["compressed"], providers["compressed"] = torch_subject(run.compressed), pytorch
        for name, file in files.items():
            subjects[name] = onnx_subject(session(file, provider=provider, threads=threads))
            providers[name] = provider
        against = opponents(subjects)
    batch, length = cells[0].batches[0]["input_ids"].shape if cells else (1, run.recipe.data.max_length)
    shared = {"provider": provider, "device": run.device, "threads": threads, "batch": batch, "length": length}
    folders = {"full": run.teacher_source.path, "compressed": run.path / "model"}
    starts = {name: ColdStart("pytorch", str(found), **shared) for name, found in folders.items() if name in subjects}
    starts |= {name: ColdStart("onnx", str(file), **shared) for name, file in files.items()}
    # before the long part: a model that cannot be started should not cost a whole benchmark
    started = footprints(starts, seed=run.recipe.seed, track=run.track) if spec.footprint else None
    measured = benchmark(
        subjects, against, providers, cells, **spec.limits,
        every_shape=run.device != "cpu", seed=run.recipe.seed, track=run.track,
    )  # fmt: skip
    times = None
    if run.recipe.ship is not None:
        names = [name for name, _ in path]
        times = answer_times(measured.raw, base, names, [entry.key for _, entry in path], run.recipe.seed)
    write_json(
        folder / "latency.json",
        {
            "rows": measured.latency,
            "noise_floor": measured.noise_floor,
            "footprint": started,
            "answer": times,
            "threads": threads,
            "providers": sorted(set(providers.values())),
            "environment": environment(run.device),
        },
    )
    write_json(folder / "latency_raw.json", measured.raw)


def opponents(names: Iterable[str]) -> dict[str, str]:
    """Return compressed variant -> the full model in the same format, and the spared full model -> the one with all rows."""
    names = list(names)
    found = {name: "full" if name == "compressed" else f"full_{name}" for name in names if not is_full(name)}
    if {SPARED, ALL_ROWS} <= set(names):
        found[SPARED] = ALL_ROWS
    return found


def cost(run: Run) -> str:
    """Return the expected work."""
    return f"{_cells(run)} cells"


def seconds(run: Run) -> tuple[float, float]:
    """Return the least and the most seconds that the cells take."""
    spec = run.recipe.benchmark
    return _cells(run) * spec.min_seconds, _cells(run) * spec.max_seconds


def _cells(run: Run) -> int:
    spec = run.recipe.benchmark
    return len(spec.batch_sizes) * (len(spec.lengths) + spec.workload)


def result(run: Run) -> dict[str, Any]:
    """Return the machine, the circumstances of the benchmark, and how far the predicted latency was off.

    The rows themselves stand with their variants.
    """
    latency, plan, timing = (read_json(run.path / f"{name}.json") for name in ("latency", "plan", "timing"))
    compared = {name: rows for name, rows in latency["rows"].items() if not is_full(name)}
    if run.recipe.ship is not None:  # its rows are compared with what runs today, not with a model in the same format
        compared = {}
    return {
        "environment": latency["environment"],
        "benchmark": {
            **{key: latency[key] for key in ("noise_floor", "footprint", "threads", "providers")},
            "protocol": PROTOCOL,
            "flops_tokens": FLOPS_TOKENS,
        },
        "prediction": prediction_errors(timing["cells"], plan["units"], plan["layers"], compared),
    }


STAGE = Stage(
    "latency",
    ("latency.json", "latency_raw.json"),
    ("predictions",),
    latency_inputs,
    compute,
    cost,
    result=result,
    seconds=seconds,
    shared=never,
)
