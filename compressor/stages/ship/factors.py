"""What makes the shipped file faster than what runs today, step by step, each step differing from the one before in one thing."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from compressor.measurement.timing.latency import WORKLOAD
from compressor.measurement.timing.ratios import ratio
from compressor.recipe.ship import BaselineSpec
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.ship.built import COMPRESSED, FILES, FULL, PLAIN, SPARED, Built, file_of

WIDTHS = {"int8": "8 bits", "float16": "16 bits", "bfloat16": "16 bits"}
"""What a precision is called among the factors."""


def steps(run: Run, entry: Built) -> list[tuple[str, Built]]:
    """Return (factor, what it leads to) from what runs today to `entry`, which is the last."""
    found = [("set-up", FULL)] if run.recipe.benchmark.baseline != BaselineSpec() else []
    if entry.engine == "pytorch":
        if not entry.whole:
            found.append(("layers and neurons", COMPRESSED))
    else:
        fused = file_of(FULL_ONNX, PLAIN if run.tail else SPARED, True)
        found.append(("runtime", fused))
        if run.tail and entry.key != fused.key:
            found.append(("exact tail", file_of(FULL_ONNX, SPARED, True)))
        if not entry.whole:
            found.append(("layers and neurons", file_of("onnx", SPARED, False)))
    if entry.precision != "float32":
        plain = entry if not entry.exits else file_of("onnx", FILES[entry.precision], entry.whole)
        found.append((WIDTHS[entry.precision], plain))
    if entry.exits:
        found.append(("early exit", entry))
    # one number of threads for all files, so that each step differs in one thing
    return [*((name, replace(step, threads=entry.threads)) for name, step in found[:-1]), (found[-1][0], entry)]


def answer_times(
    raw: Sequence[Mapping[str, Any]], base: str, names: Sequence[str], keys: Sequence[str], seed: int
) -> dict[str, Any]:
    """Return the times and factors of the answer from the raw values of a benchmark (`Benchmark.raw`).

    It is taken from the cell of real lengths and the smallest batch, else from the first; `base` is what runs today, `keys`
    what the steps `names` lead to. The factors are ratios of means over the same rounds, so that they multiply to the
    speed-up; on fixed lengths medians.
    """
    cell = min(raw, key=lambda entry: (entry["length"] != WORKLOAD, entry["batch"]))
    values, average = cell["values_ms"], np.mean if cell["length"] == WORKLOAD else np.median
    factors, before = [], base
    for name, key in zip(names, keys, strict=True):
        found = ratio(values[before], values[key], seed, average)
        factors.append({"name": name, "ratio": found.value, "ci95": [found.lo, found.hi]})
        before = key
    whole = ratio(values[base], values[before], seed, average)
    return {
        "batch": cell["batch"],
        "length": cell["length"],
        "p50_ms": float(np.median(values[before])),
        "mean_ms": float(np.mean(values[before])),
        "baseline_p50_ms": float(np.median(values[base])),
        "baseline_mean_ms": float(np.mean(values[base])),
        "speedup": whole.value,
        "speedup_ci95": [whole.lo, whole.hi],
        "factors": factors,
        "rounds": len(values[base]),
    }
