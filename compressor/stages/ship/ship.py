"""The stage that decides what to ship, before the evaluation split is read."""

from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.batches import join
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.timing.latency import WORKLOAD, Cell, benchmark, workload_batches
from compressor.recipe.compression import Recipe
from compressor.run.arrays import load_array
from compressor.run.run import Run
from compressor.selection.ship import ALIKE, TODAY, Judgement, decide, in_order, judge
from compressor.stages.cascade.cascade import tried
from compressor.stages.cascade.shared import FITTED
from compressor.stages.ship.built import Built, answers_of, baseline_subject, built, bytes_of, subject_of
from compressor.stages.stage import Stage, latency_inputs, never, spec_json

SHIP = "ship.json"
LOGITS = {"guard": "calibration_logits", "selection": "selection_logits"}
"""Part of the data -> the full model's logits on it, as earlier stages kept them."""


def inputs(run: Run) -> dict[str, Any]:
    """Return what the decision depends on."""
    rows = [getattr(run.data, part).sha256 for part in run.deciding()] if wanted(run.recipe) else []
    return {"ship": spec_json(run.recipe.ship), "rows": rows, **run.task_inputs, **latency_inputs(run)}


def compute(run: Run, folder: Path) -> None:
    """Judge everything built on the rows that decide, time it beside what runs today, and name one."""
    spec, entries = run.recipe.ship, built(run)
    judged: dict[str, Judgement] = {}
    for branch in dict.fromkeys(entry.branch for entry in entries):
        own = [entry for entry in entries if entry.branch == branch]
        parts = run.deciding(exits=own[0].exits)
        full = np.concatenate([load_array(run.path, LOGITS[part]) for part in parts])
        task = run.task.bound(*(getattr(run.data, part) for part in parts))
        encodings, labels = join([getattr(run, part) for part in parts]), _labels(run, parts)
        judged |= in_order({
            entry.variant: judge(spec, full, answers_of(run, entry, encodings)[0], labels, run.branches, task)
            for entry in own
        })  # fmt: skip
    entries, rows = _timed(run, entries)
    speedups = {name: row["speedup_ci95"] for name, row in rows.items() if name != TODAY}
    sizes = {entry.variant: bytes_of(run, entry) for entry in entries}
    parted = {entry.variant for entry in entries if entry.exits}
    chosen = decide(judged, speedups, parted, sizes if spec.prefer == "size" else None)
    written = {
        "chosen": chosen,
        "part": run.deciding()[0],
        "today": rows[TODAY],
        "exits": read_json(run.path / FITTED) if tried(run.recipe) else None,
        "candidates": [
            {
                **asdict(entry),
                **asdict(judged[entry.variant]),
                "bytes": sizes[entry.variant],
                "latency": rows[entry.variant],
            }
            for entry in entries
        ],
    }
    write_json(folder / SHIP, written)


def _labels(run: Run, parts: Sequence[str]) -> np.ndarray | None:
    """Return the labels of all rows of the parts, None where one of them has none."""
    found = [getattr(run.data, part).labels for part in parts]
    return None if any(labels is None for labels in found) else np.concatenate(found)


def _timed(run: Run, entries: list[Built]) -> tuple[list[Built], dict[str, dict[str, Any]]]:
    """Time what runs today and everything built, interleaved, on the rows that decide at their real lengths.

    Returns the compositions with their threads, and the row of each by name. ONNX Runtime is tried with one thread and with
    as many as PyTorch has: small models on short texts lose more by sharing the work than they gain.
    """
    spec, size = run.recipe.benchmark, min(run.recipe.benchmark.batch_sizes)
    counts = sorted({1, torch.get_num_threads()}) if run.device == "cpu" else [torch.get_num_threads()]
    ways = {
        (entry.variant, count): replace(entry, threads=count)
        for entry in entries
        for count in (counts if entry.engine == "onnx" else counts[-1:])
    }
    batches = workload_batches(getattr(run, run.deciding()[0]), size, seed=run.recipe.seed)
    subjects = {
        TODAY: baseline_subject(run, spec.baseline, batches),
        **{f"{name}, {n}": subject_of(run, way) for (name, n), way in ways.items()},
    }
    timed = benchmark(
        subjects,
        dict.fromkeys(subjects, TODAY),
        dict.fromkeys(subjects, PROVIDERS[run.device]),
        [Cell(size, WORKLOAD, batches)],
        **spec.limits,
        every_shape=run.device != "cpu",
        seed=run.recipe.seed,
        track=run.track,
    ).latency
    rows, taken = {TODAY: timed[TODAY][0]}, []
    for entry in entries:
        own = {n: timed[f"{entry.variant}, {n}"][0] for name, n in ways if name == entry.variant}
        best = max(row["speedup_ci95"][0] for row in own.values())
        count = min(n for n, row in own.items() if row["speedup_ci95"][0] >= (1 - ALIKE) * best)
        rows[entry.variant] = own[count]
        taken.append(ways[entry.variant, count])
    return taken, rows


def chosen_entry(run: Run) -> Built | None:
    """Return what the run ships; None where it keeps what runs today."""
    ship = read_json(run.path / SHIP)
    known = {field.name for field in fields(Built)}
    found = next((entry for entry in ship["candidates"] if entry["variant"] == ship["chosen"]), None)
    return found and Built(**{name: value for name, value in found.items() if name in known})


def wanted(recipe: Recipe) -> bool:
    """Return whether the recipe leaves it to the run what to ship."""
    return recipe.ship is not None


STAGE = Stage(
    "ship",
    (SHIP,),
    ("onnx", "full-onnx", "cascade"),
    inputs,
    compute,
    lambda run: (
        f"every composition over {sum(len(getattr(run.data, part)) for part in run.deciding())} rows, and its time beside today's"
    ),
    wanted,
    lambda run: {"ship": read_json(run.path / SHIP) if wanted(run.recipe) else None},
    seconds=lambda run: (run.recipe.benchmark.min_seconds, run.recipe.benchmark.max_seconds),
    shared=never,
)
