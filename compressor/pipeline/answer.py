"""The one answer of a run: what to ship, how much faster than today it is, what that costs, and whether that meets the goal."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from compressor.measurement.statistics import rate_upper_bound
from compressor.recipe.compression import GoalsSpec
from compressor.recipe.ship import BaselineSpec, ShipSpec
from compressor.report.wording.kinds import COUNTED, counted_of, metric_of
from compressor.selection.goals import accuracy_misses

NOT_AS = {"speed": "fast", "size": "small"}
"""What is preferred (ShipSpec.prefer) -> what the others that keep to the goal are not."""


def answer_of(
    spec: ShipSpec,
    baseline: BaselineSpec,
    ship: Mapping[str, Any],
    times: Mapping[str, Any],
    variants: Mapping[str, Any],
    rows: int,
) -> dict[str, Any]:
    """Return the part `answer` of result.json.

    `ship` is what the decision looked at, `times` what was measured of the one that was named and of what runs today, both
    beside each other; `variants` are those of result.json, measured on so many evaluation `rows`. Nothing was chosen by
    those rows, so their bounds are those of one comparison, at 95 %.
    """
    candidates = {entry["variant"]: entry for entry in ship["candidates"]}
    taken = candidates.get(ship["chosen"])
    key = taken["key"] if taken else "full"
    # today's model is its own reference: nothing changes
    versus = variants[key]["versus_full"] or {
        **{"flips": 0, "rows": rows, "accuracy_delta": None, "ci95": None, "tier": "exact"},
        **{"lower_bound": 0.0, "flip_rate": 0.0, "rows_to_decide": None},
    }
    misses, undecided = _misses(spec, versus, times)
    return {
        "variant": ship["chosen"],
        "key": key,
        "path": taken["path"] if taken else None,
        "engine": taken["engine"] if taken else baseline.engine,
        "threads": taken["threads"] if taken else None,
        "precision": taken["precision"] if taken else baseline.dtype,
        "goal": spec.goal,
        "prefer": spec.prefer,
        "limits": spec.limits,
        "met": None if misses and undecided else not misses,
        "misses": misses,
        "p50_ms": times["p50_ms"],
        "mean_ms": times["mean_ms"],
        "baseline": baseline.model_dump(mode="json"),
        "baseline_p50_ms": times["baseline_p50_ms"],
        "baseline_mean_ms": times["baseline_mean_ms"],
        "cell": {"batch": times["batch"], "length": times["length"]},
        "speedup": times["speedup"],
        "speedup_ci95": times["speedup_ci95"],
        "factors": times["factors"],
        "flips": versus["flips"],
        "rows": versus["rows"],
        "flip_bound": rate_upper_bound(versus["flips"], versus["rows"], 0.95),
        "metric": metric_of(versus),
        "counted": counted_of(versus),
        "accuracy_delta": versus["accuracy_delta"],
        "ci95": versus["ci95"],
        "tier": versus["tier"],
        "bytes": taken["bytes"] if taken else variants["full"]["bytes"],
        "baseline_bytes": variants["full"]["bytes"],
        "why": _why(spec, ship, taken, counted_of(versus)),
        "alternatives": [
            {
                "variant": entry["variant"],
                "path": entry["path"],
                "speedup": entry["latency"]["speedup"],
                "speedup_ci95": entry["latency"]["speedup_ci95"],
                "flips": entry["flips"],
                "rows": entry["rows"],
                "flip_bound": entry["flip_bound"],
                "bytes": entry["bytes"],
                "why_not": entry["why_not"] or f"meets the goal, and is not as {NOT_AS[spec.prefer]}",
            }
            for entry in sorted(candidates.values(), key=lambda entry: -entry["latency"]["speedup"])
            if entry is not taken
        ],
    }


def _misses(spec: ShipSpec, versus: Mapping[str, Any], times: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Return a sentence for each part of the goal that is missed, and whether all of them only lack rows to show them."""
    limits = spec.limits
    goals = GoalsSpec(max_flips=limits["max_flips"], max_drop=limits["max_drop"])
    found = (
        []
        if versus["tier"] == "exact"
        else [f"ship.{miss}" for miss in accuracy_misses(goals, SimpleNamespace(**versus))]
    )
    observed = versus["flip_rate"] if versus["accuracy_delta"] is None else -versus["accuracy_delta"]
    within = limits["max_drop"] is None or observed <= limits["max_drop"]
    undecided = within and (limits["max_flips"] is None or versus["flip_rate"] <= limits["max_flips"])
    if spec.goal == "exact" and versus["tier"] != "exact" and not found:
        found.append(f"ship.goal: exact asks for logits within rounding, and the evaluation rows are {versus['tier']}.")
        undecided = False
    low = times["speedup_ci95"][0]
    if spec.min_speedup is not None and low < spec.min_speedup:
        found.append(
            f"ship.min_speedup: {low:.2f}x is the lower end of the speed-up over what runs today, wanted are "
            f"{spec.min_speedup:.2f}x."
        )
        undecided = False
    return found, undecided


def _why(spec: ShipSpec, ship: Mapping[str, Any], taken: Mapping[str, Any] | None, counted: str) -> str:
    """Return the reason for the choice, a sentence."""
    whole = counted if counted != COUNTED else None
    part = {
        "guard": f"{whole or 'texts'} that nothing was fitted to",
        "selection": f"{whole or 'rows'} of the selection split",
    }[ship["part"]]
    if taken is None:
        return (
            f"None of {len(ship['candidates'])} compositions is both faster than what runs today and {spec.goal} on "
            f"{part}."
        )
    passing = [entry for entry in ship["candidates"] if entry["why_not"] is None]
    first = max(passing, key=lambda entry: entry["latency"]["speedup_ci95"][0])
    keep = "keeps" if len(passing) == 1 else "keep"
    if spec.prefer == "size":
        best = "the smallest of them"
    elif first is taken:
        best = "the fastest of them"
    else:
        best = "within a tenth of the fastest, plainer or nearer to the full model"
    return (
        f"Of {len(ship['candidates'])} compositions built, {len(passing)} {keep} to {spec.goal}, and this is {best}: "
        f"{taken['flips']:,} of {taken['rows']:,} {part} changed, at most {taken['flip_bound']:.2%} at "
        f"{taken['confidence']:.1%} confidence."
    )
