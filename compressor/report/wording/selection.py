"""The sentences on the choice of layers: audit, frontier, goals on the selection split, predicted speed-up."""

from collections.abc import Mapping

from compressor.report.formats import (
    correlation,
    correlation_interval,
    count,
    percent,
    percent_interval,
    relative,
    span,
)
from compressor.report.tables.selection import OWN, row_rho

AGREEMENT_LEVELS = (0.99, 0.98, 0.95, 0.9)
"""Shares of equal predictions at which the frontier is read, highest first."""


def seen_note(provenance: Mapping[str, str]) -> str:
    """Return a warning where the model may have been trained on the rows of the selection split, else nothing."""
    source = provenance.get("selection", "")
    if "may have been" not in source:
        return ""
    return (
        f"The rows of the selection split are {source}: on text that it has learned, it looks more robust than it is, so "
        "figures of that split may be too kind."
    )


def audit_finding(rows: list[dict]) -> str:
    """Return which score ranks the damage of single layers best, beside separability, with both intervals.

    `rows` are those of `tables.audit_rows`. No score is called better: whether the intervals overlap is said instead.
    """
    known = [(row["score"], row["name"], row_rho(row)) for row in rows if row_rho(row)["rho"] is not None]
    if not known:
        return "No score's rank correlation with the damage of one layer is defined"
    _, name, best = max(known, key=lambda entry: (entry[2]["rho"], entry[0] == OWN))
    level = [entry for entry in known if entry[2]["rho"] == best["rho"]]
    if len(level) > 1:
        name += f" and {len(level) - 1} more"
    text = f"Highest rank correlation with the damage of one layer: {name} {_with_interval(best)}"
    own = next((rho for score, _, rho in known if score == OWN), None)
    if own is None:
        return text
    if own is best:
        others = [rho for score, _, rho in known if score != OWN]
        overlapping = sum(_overlap(rho, best) != "intervals apart" for rho in others)
        return text + (f"; not told apart from {overlapping} of {len(others)} other scores" if overlapping else "")
    return f"{text}, separability {_with_interval(own)}: {_overlap(best, own)}"


def frontier_finding(frontier: dict, layers: int) -> str:
    """Return how many layers the best set found skips at the highest of four levels of agreement that it reaches.

    `frontier` is that of `tables.frontier_rows`, `layers` what the full model has. The set's interval is said with it.
    """
    first = next(iter(frontier["series"]))
    for level in AGREEMENT_LEVELS:
        row = _largest(frontier, first, level)
        if row is None:
            continue
        name = frontier["series"][first]
        text = (
            f"{name[0].upper()}{name[1:]} skips up to {len(row['skip'])} of {layers} layers at {100 * level:.0f} % agreement or "
            f"more ({percent(row['agreement'])}, 95 % interval {percent_interval(row['agreement_ci95'])})"
        )
        own = _largest(frontier, OWN, level)
        if OWN in frontier["series"] and first != OWN:
            text += f"; separability {'up to ' + str(len(own['skip'])) if own else 'none'}"
        return text
    return f"No set that was found skips a layer at {100 * AGREEMENT_LEVELS[-1]:.0f} % agreement or more"


def _largest(frontier: dict, series: str, level: float) -> dict | None:
    """Return the largest set of a series, of one layer or more, whose agreement reaches the level."""
    rows = [row["cells"][series] for row in frontier["rows"] if row["size"] and series in row["cells"]]
    return next((row for row in reversed(rows) if row["agreement"] >= level), None)


def candidates_reading(selection: dict) -> str:
    """Return how many sets the goals were judged on, how sure each bound is, and what came of it."""
    corrected = f"{100 * selection['corrected']:.4f}".rstrip("0").rstrip(".")
    outcome = (
        "The chosen set meets the goals there." if selection["met"]
        else "No set meets the goals there; the chosen one comes nearest."
    )  # fmt: skip
    judged = (
        "after the closed-form readout, which stands for the head to come"
        if selection["readout"]
        else "with the stock head"
    )
    return (
        f"{count(selection['tried'])} sets were judged {judged}, on {count(selection['rows'])} rows of the selection split. The "
        f"best of many looks better than it is, so the bound on the drop is taken at {corrected} % confidence: those of all "
        f"{count(selection['choices'])} sets that the search could have taken then hold together at "
        f"{percent(selection['confidence'])} (Bonferroni). Changed predictions are counted on these rows. {outcome}"
    )


def prediction_reading(rows: list[dict]) -> str:
    """Return how far the predicted speed-up is off in each format; `rows` are those of `tables.prediction_rows`."""
    parts = []
    for name in dict.fromkeys(row["format"] for row in rows):
        own = [row for row in rows if row["format"] == name and row["error"] is not None]
        judged = [row["inside"] for row in own if row["inside"] is not None]
        if own:
            inside = f", inside the measured interval in {sum(judged)} of {len(judged)} cells" if judged else ""
            parts.append(f"{name} {span(relative, [row['error'] for row in own])}{inside}")
    return f"The prediction is off by: {'; '.join(parts)}." if parts else "No prediction was measured."


def _with_interval(rho: dict) -> str:
    return f"{correlation(rho['rho'])} ({correlation_interval(rho['ci95']) if rho['ci95'] else 'no interval'})"


def _overlap(one: dict, other: dict) -> str:
    """Return whether two correlations can be told apart."""
    bounds = [rho["ci95"] for rho in (one, other)]
    # a bootstrap of few units that are all in the right order has no width: that is no certainty
    if not all(bounds) or any(high - low < 0.005 for low, high in bounds):
        return "too few layers to tell apart"
    (low, high), (other_low, other_high) = bounds
    return "intervals apart" if low > other_high or other_low > high else "intervals overlap"
