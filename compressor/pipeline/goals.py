"""Whether one variant of a run meets all goals, and what the nearest misses."""

from collections.abc import Collection
from typing import Any

import numpy as np

from compressor.data.answers.kinds import SINGLE, Task
from compressor.measurement.cost import predicted_speedup
from compressor.measurement.statistics import compare
from compressor.recipe.compression import GoalsSpec
from compressor.report.formats import is_full
from compressor.selection.goals import accuracy_misses, corrected_confidence


def with_speed(choice: dict[str, Any] | None, timing: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice of `layers: auto` with the predicted speed-up of every candidate, that of the slowest cell."""
    if choice is None:
        return None

    def speed(size: int) -> float | None:
        return min((predicted_speedup(cell, size) for cell in timing["cells"]), default=None)

    candidates = [{**entry, "predicted_speedup": speed(entry["size"])} for entry in choice["candidates"]]
    return {**choice, "candidates": candidates}


def judge_goals(
    goals: GoalsSpec | None,
    logits: dict[str, np.ndarray],
    labels: np.ndarray | None,
    variants: dict[str, dict],
    selection: dict[str, Any] | None = None,
    unskipped: Collection[str] = (),
    task: Task = SINGLE,
) -> dict[str, Any]:
    """Return whether one compressed variant meets all goals, which one, and what the nearest misses.

    `met` is None where the recipe names no goals. Since any of `variants` may pass, each bound of the accuracy is one at
    a confidence corrected for their number: otherwise the best of four that are just too bad passes twice as often as it
    may. A speed-up counts by the lower end of its interval, as 1 where it may not be claimed. With
    `selection`, the choice of `layers: auto`, the goals must also have been met there: a model that was chosen as the
    nearest miss is not signed off because the evaluation rows happen to be kind. That says nothing against `unskipped`,
    the variants that have all layers.
    """
    if goals is None:
        return {"met": None, "variant": None, "misses": [], "selection": None}
    cells = {_cell(row) for variant in variants.values() for row in variant["latency"]}
    misses: dict[str, list[str]] = {}
    judged = {name: variant for name, variant in variants.items() if not is_full(name)}
    for name, variant in judged.items():
        own = _misses(goals, logits["full"], logits[name], labels, variant["latency"], cells, len(judged), task)
        misses[name] = [f"{name}: {miss}" for miss in own]
        if selection and not selection["met"] and name not in unskipped:
            first = "; ".join(selection["candidates"][0]["misses"])
            misses[name].insert(0, f"no set of layers meets the goals on the selection split; nearest: {first}.")
    nearest = min(misses, key=lambda name: len(misses[name]))
    found = misses[nearest]
    return {"met": not found, "variant": nearest, "misses": found, "selection": selection}


def _misses(
    goals: GoalsSpec,
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    latency: list[dict],
    cells: set[tuple],
    choices: int,
    task: Task,
) -> list[str]:
    confidence = corrected_confidence(goals.confidence, choices)
    found = accuracy_misses(goals, compare(full, other, labels, task=task, confidence=confidence), choices)
    # A speed goal holds in every cell. A cascade is not timed on random token ids, of which its exits know nothing: it
    # could pass on real lengths alone where the others must also pass at the fixed ones, so what is missing counts.
    untimed = len(cells - {_cell(row) for row in latency})
    if latency and untimed:
        found += [
            f"{goal}: {untimed} of {len(cells)} cells are of fixed lengths, where a cascade is not timed; with "
            "benchmark.lengths: [] every file is judged on real lengths."
            for goal in ("min_speedup", "max_p95_ms")
            if getattr(goals, goal) is not None
        ]
    if goals.min_speedup is not None:
        slowest = min((row["speedup_ci95"][0] if row["claimed"] else 1.0 for row in latency), default=None)
        if slowest is None or slowest < goals.min_speedup:
            got = (
                "no latency was measured"
                if slowest is None
                else f"at least {slowest:.2f}x (95 % interval) may be claimed in the slowest cell"
            )
            found.append(f"min_speedup: {got}, wanted is {goals.min_speedup:.2f}x.")
    if goals.max_p95_ms is not None:
        slowest = max((row["p95_ms"] for row in latency), default=None)
        if slowest is None or slowest > goals.max_p95_ms:
            got = "no latency was measured" if slowest is None else f"{slowest:.2f} ms in the slowest cell"
            found.append(f"max_p95_ms: {got}, allowed are {goals.max_p95_ms:.2f} ms.")
    return found


def _cell(row: dict[str, Any]) -> tuple[int, int | str]:
    return row["batch"], row["length"]
