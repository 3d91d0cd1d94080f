"""Every variant of a run in one row: what it costs, what it gains, how large it is."""

from collections.abc import Mapping
from typing import Any

from compressor.report.formats import variant_name, variant_order
from compressor.report.wording.kinds import metric_of

COLUMNS = {
    "name": "the variant in words",
    "shipped": "whether this is what the run says to ship",
    "metric": "what accuracy stands for: accuracy, or the measure of scores or of many labels",
    "accuracy": "share of evaluation rows with the right answer, 0..1, or that measure; none without labels",
    "accuracy_low": "lower end of its 95 % interval",
    "accuracy_high": "upper end",
    "accuracy_delta": "accuracy minus that of the full model, on the same rows",
    "delta_low": "lower end of its paired 95 % interval",
    "delta_high": "upper end",
    "flips": "evaluation rows whose predicted label is not the full model's",
    "rows": "evaluation rows",
    "tier": "exact, lossless, near, undecided or lossy",
    "batch": "texts at a time in the measurement",
    "length": "their tokens, or `workload`: the real lengths",
    "p50_ms": "median time of a call in milliseconds",
    "speedup": "how many times as fast as `against`, measured in turns with it",
    "speedup_low": "lower end of its 95 % interval",
    "speedup_high": "upper end",
    "against": "the variant that the speed-up is against",
    "claimed": "whether the speed-up is above the noise floor",
    "bytes": "weights on disk",
    "parameters": "number of weights",
}
"""Columns of `variant_rows` and what is in them."""


def variant_rows(result: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the `COLUMNS` of every variant of a result, by its key there; None where nothing was measured.

    All times are of one cell: that of the answer, or else the first in which the full model was timed.
    """
    variants, answer = result["variants"], result.get("answer") or {}
    first = next((row for name in sorted(variants, key=variant_order) for row in variants[name]["latency"]), {})
    cell = answer.get("cell") or {"batch": first.get("batch"), "length": first.get("length")}
    shipped = answer.get("key") if answer.get("path") else None
    return {name: _row(name, variants[name], cell, name == shipped) for name in sorted(variants, key=variant_order)}


def _row(name: str, variant: Mapping[str, Any], cell: Mapping[str, Any], shipped: bool) -> dict[str, Any]:
    versus = variant["versus_full"] or {}
    timed = next((row for row in variant["latency"] if all(row[key] == cell[key] for key in ("batch", "length"))), {})
    own = timed.get("against") in (None, name)  # the first of its kind is its own opponent
    low, high = variant["accuracy_ci95"] or (None, None)
    delta_low, delta_high = versus.get("ci95") or (None, None)
    speed_low, speed_high = timed.get("speedup_ci95") or (None, None)
    return {
        "name": variant_name(name),
        "shipped": shipped,
        "metric": metric_of(versus),
        "accuracy": variant["accuracy"],
        "accuracy_low": low,
        "accuracy_high": high,
        "accuracy_delta": versus.get("accuracy_delta"),
        "delta_low": delta_low,
        "delta_high": delta_high,
        "flips": versus.get("flips"),
        "rows": versus.get("rows"),
        "tier": versus.get("tier"),
        "batch": timed.get("batch"),
        "length": timed.get("length"),
        "p50_ms": timed.get("p50_ms"),
        "speedup": None if own else timed["speedup"],
        "speedup_low": speed_low,
        "speedup_high": speed_high,
        "against": None if own else timed["against"],
        "claimed": None if own else timed["claimed"],
        "bytes": variant["bytes"],
        "parameters": variant["parameters"],
    }
