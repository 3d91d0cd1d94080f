"""The stage that decides what to ship, before the evaluation split is read."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.timing.latency import WORKLOAD, Benchmark, Cell, benchmark, workload_batches
from compressor.recipe.compression import Recipe
from compressor.run.arrays import load_array
from compressor.run.run import Run
from compressor.selection.ship import TODAY, decide, judge
from compressor.stages.cascade.cascade import tried
from compressor.stages.cascade.shared import FITTED
from compressor.stages.ship.built import Built, baseline_subject, built, bytes_of, logits_of, subject_of
from compressor.stages.stage import Stage, latency_inputs, spec_json

SHIP = "ship.json"


def inputs(run: Run) -> dict[str, Any]:
    """Return what the decision depends on."""
    rows = run.data.guard or run.data.selection
    return {"ship": spec_json(run.recipe.ship), "rows": rows.sha256, **latency_inputs(run)}


def compute(run: Run, folder: Path) -> None:
    """Judge everything built on the rows that decide, time it beside what runs today, and name one."""
    spec, entries = run.recipe.ship, built(run)
    encodings, labels, part = run.deciding
    full = load_array(run.path, {"guard": "calibration_logits", "selection": "selection_logits"}[part])
    judged = {
        entry.variant: judge(spec, full, logits_of(run, entry, encodings), labels, run.choices) for entry in entries
    }
    timed = _timed(run, entries)
    rows = {name: timed.latency[name][0] for name in (TODAY, *judged)}
    chosen = decide(judged, {name: row["speedup_ci95"] for name, row in rows.items() if name != TODAY})
    written = {
        "chosen": chosen,
        "part": part,
        "rows": len(encodings),
        "labelled": labels is not None,
        "today": rows[TODAY],
        "exits": read_json(run.path / FITTED) if tried(run.recipe) else None,
        "candidates": [
            {
                **asdict(entry),
                **asdict(judged[entry.variant]),
                "bytes": bytes_of(run, entry),
                "latency": rows[entry.variant],
            }
            for entry in entries
        ],
    }
    write_json(folder / SHIP, written)


def _timed(run: Run, entries: list[Built]) -> Benchmark:
    """Time what runs today and everything built, interleaved, on the rows that decide at their real lengths."""
    spec, size = run.recipe.benchmark, min(run.recipe.benchmark.batch_sizes)
    subjects = {TODAY: baseline_subject(run), **{entry.variant: subject_of(run, entry) for entry in entries}}
    return benchmark(
        subjects,
        dict.fromkeys(subjects, TODAY),
        dict.fromkeys(subjects, PROVIDERS[run.device]),
        [Cell(size, WORKLOAD, workload_batches(run.deciding[0], size, seed=run.recipe.seed))],
        **spec.limits,
        seed=run.recipe.seed,
        track=run.track,
    )


def chosen_entry(run: Run) -> Built | None:
    """Return what the run ships; None where it keeps what runs today."""
    name = read_json(run.path / SHIP)["chosen"]
    return next((entry for entry in built(run) if entry.variant == name), None)


def wanted(recipe: Recipe) -> bool:
    """Return whether the recipe leaves it to the run what to ship."""
    return recipe.ship is not None


STAGE = Stage(
    "ship",
    (SHIP,),
    ("onnx", "full-onnx", "cascade"),
    inputs,
    compute,
    lambda run: f"every composition over {len(run.deciding[0])} rows, and its time beside today's",
    wanted,
    lambda run: {"ship": read_json(run.path / SHIP) if wanted(run.recipe) else None},
    seconds=lambda run: (run.recipe.benchmark.min_seconds, run.recipe.benchmark.max_seconds),
)
