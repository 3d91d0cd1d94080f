"""The guarded early exit of compensation.py: certified, measured, and its certificate simulated."""

import argparse
import shutil
import time
from pathlib import Path

import numpy as np

from benchmarks.common.digits import digits
from benchmarks.common.glue import recipe_of
from compressor.cascade.runtime import CascadeClassifier
from compressor.cascade.thresholds import Outcome, certify
from compressor.files import read_json
from compressor.measurement.predictions import predict
from compressor.progress import track_for_terminal
from compressor.run.checks import prepare
from compressor.stages.cascade.cascade import compute as make_cascade
from compressor.stages.cascade.cascade import measured_outcome
from compressor.stages.cascade.evaluation import answers
from compressor.stages.cascade.shared import FITTED, FOLDER, work_of

SIMULATIONS = 200


def measure_cascade(task: str, arguments: argparse.Namespace) -> dict:
    """Return the task's entry with the certified cascade of the full model, and simulations of its certificate."""
    cascades = {}
    for max_flips in arguments.max_flips:
        # work is counted without the CLS-only tail, which would save the same of both sides
        sets = f"cascade.max_flips={max_flips}", "data.calibration.size=null", "export.cls_only_tail=false"
        out = Path("runs") / "compensation" / f"{task}-cascade-{max_flips}"
        run = prepare(recipe_of(task, arguments, task, *sets), out, "cpu", track_for_terminal())
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        started = time.perf_counter()
        make_cascade(run, out)
        seconds, fitted = time.perf_counter() - started, read_json(out / FITTED)
        exits = [entry["layer"] for entry in fitted["exits"]]
        cost, lengths = work_of(run, run.source), run.evaluation.lengths
        logits, left = answers(CascadeClassifier(out / FOLDER), run.evaluation, run.classes)
        work = cost.costs(exits, lengths)[left, np.arange(len(lengths))]
        guard = measured_outcome(out / FOLDER, cost, exits, run.guard, predict(run.teacher, run.guard))
        entry = {
            "exits": exits,
            "explained": [entry["explained"] for entry in fitted["exits"]],
            "certificate": fitted["certificate"],
            "seconds": seconds,
            "fit_rows": fitted["fit_rows"],
            "predictions": digits(logits),
            "left": "".join(map(str, left)),
            "lengths": lengths.tolist(),
            "work": work.tolist(),
            "full_work": cost.costs((), lengths)[-1].tolist(),
            "simulation": simulate(fitted["path"], guard, max_flips),
        }
        cascades[str(max_flips)] = entry
        full = predict(run.teacher, run.evaluation)
        flips = (logits.argmax(1) != full.argmax(1)).mean()
        print(
            f"{task}, cascade {max_flips:.0%}: exits {exits}, {entry['certificate']['flips']} of "
            f"{entry['certificate']['rows']} rows flip (at most {entry['certificate']['bound']:.2%}), "
            f"measured {flips:.2%}, {np.sum(entry['full_work']) / np.sum(work):.2f}x less work, {entry['simulation']}",
            flush=True,
        )
    return {"cascade": cascades, "labels": "".join(map(str, run.data.evaluation.labels)), "full": digits(full)}


def simulate(path: list[dict], outcome: Outcome, max_flips: float, confidence: float = 0.95) -> dict[str, int]:
    """Draw certification rows anew from those at hand, as if these were the whole world; count the broken bounds.

    A bound is broken where the certified thresholds change more than `max_flips` of the whole world's predictions. The
    naive rule takes the last thresholds of the path whose observed flips are within `max_flips`.
    """
    thresholds = [tuple(np.inf if value is None else value for value in point["thresholds"]) for point in path]
    wrong = np.vstack([outcome.wrong, outcome.wrong_at_end])
    rows = wrong.shape[1]
    flips = np.stack([wrong[outcome.leaves(point), np.arange(rows)] for point in thresholds])  # [path, rows]
    truth = flips.mean(axis=1)
    generator = np.random.default_rng(0)
    broken = naive = 0
    for _ in range(SIMULATIONS):
        drawn = generator.integers(0, rows, rows)
        taken = certify(thresholds, _rows(outcome, drawn), max_flips, confidence)
        broken += taken.met and truth[thresholds.index(taken.thresholds)] > max_flips
        within = np.flatnonzero(flips[:, drawn].mean(axis=1) <= max_flips)
        naive += len(within) > 0 and truth[within[-1]] > max_flips
    return {"draws": SIMULATIONS, "broken": int(broken), "broken_naive": int(naive)}


def _rows(outcome: Outcome, rows: np.ndarray) -> Outcome:
    return Outcome(*(part[..., rows] for part in (outcome.margins, outcome.wrong, outcome.wrong_at_end, outcome.costs)))
