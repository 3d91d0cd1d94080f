"""Layer roles as a section: what every layer is against the others, how surely, and what changed between checkpoints."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from compressor.report.figures.roles import change_figure, roles_figure
from compressor.report.formats import correlation, correlation_interval, count, layers_text, percent
from compressor.report.sections.section import Section
from compressor.report.tables.roles import (
    FEATURES,
    alarm_table,
    change_table,
    feature_table,
    role_table,
    routing_table,
    share_range,
    trajectory_table,
)

Json = Mapping[str, Any]


def roles_section(analysis: Json) -> Section:
    """Return the section of `RolesAnalysis` as JSON, with the comparison and the trajectory where it holds them."""
    shown = [name for name in FEATURES if any(value is not None for value in analysis["features"].get(name, []))]
    labels = {name: FEATURES[name][0] for name in shown}
    figures = {"roles_layers": roles_figure(analysis, labels, finding(analysis))}
    tables = [alarm_table(analysis)] if analysis["alarms"] else []
    tables += [role_table(analysis), feature_table(analysis, shown), routing_table(analysis)]
    if analysis.get("against"):
        figures["roles_change"] = change_figure(analysis["against"], change_finding(analysis["against"]))
        tables.append(change_table(analysis["against"]))
    if analysis.get("steps"):
        tables.append(trajectory_table(analysis["steps"]))
    return Section("roles", "Layer roles", reading(analysis), figures, tables, notes(analysis))


def finding(analysis: Json) -> str:
    """Return how many layers have a role and which, and in how many draws they keep it."""
    by_role = _by_role(analysis)
    which = "; ".join(f"{role} {', '.join(map(str, layers))}" for role, layers in by_role.items() if layers)
    text = f"{sum(map(len, by_role.values()))} of {analysis['layers']} layers win a role" + (
        f": {which}" if which else ""
    )
    known = [row["stability"] for row in analysis["roles"] if row["stability"] is not None]
    return text + (f" (the same in {share_range(known)} of draws)" if known else "")


def reading(analysis: Json) -> str:
    """Return two plain sentences: the roles and how stable they are, then what is wrong or what might be skipped."""
    parts = [
        f"{layers_text(layers)} {SAID[role][len(layers) > 1]}" for role, layers in _by_role(analysis).items() if layers
    ]
    source = "By its weights, a short training and its states" if analysis["trace"] else "By its weights"
    text = f"{source}, {'; '.join(parts) or 'no layer stands out from the others'}"
    known = [row["stability"] for row in analysis["roles"] if row["stability"] is not None]
    if known:
        text += (
            f"; {count(analysis['draws'])} draws of the same weights agree with that in {share_range(known)} of cases, "
            f"{100 * median(known):.0f} % for the middle layer"
        )
    return f"{text}. {_second_sentence(analysis)}"


SAID = {
    "hub": ("mixes many directions (hub)", "mix many directions (hubs)"),
    "damper": ("scales the whole signal (damper)", "scale the whole signal (dampers)"),
    "passthrough": (
        "hands its input on nearly as it is (passthrough)",
        "hand their input on nearly as it is (passthroughs)",
    ),
    "specialist": ("answers through few strong units (specialist)", "answer through few strong units (specialists)"),
}
"""What a layer, and several layers, of each role do, for readers who do not know the names."""


def _second_sentence(analysis: Json) -> str:
    if analysis["alarms"]:
        first, more = analysis["alarms"][0]["text"], len(analysis["alarms"]) - 1
        others = f", and {more} more finding{'s' if more > 1 else ''}" if more else ""
        return f"Something is wrong with this checkpoint: {first}{others}."
    rows = [row for row in analysis["roles"] if row["scores"]["passthrough"] is not None]
    if not rows:
        return "No layer can be named that might be skipped."
    best = max(rows, key=lambda row: row["scores"]["passthrough"])
    interval = best["scores_ci95"]["passthrough"]
    said = f"95 % interval {correlation_interval(interval)}" if interval else "no interval"
    return (
        f"If one layer were to be skipped for its role, it would be layer {best['layer']} (passthrough score "
        f"{correlation(best['scores']['passthrough'])} of 1, {said}); whether such a layer really does least is for the "
        "audit to measure."
    )


def change_finding(change: Json) -> str:
    """Return what stayed from one checkpoint to the other: saturated positions against chance, and roles."""
    layers = change["layers"]
    before, kept = (sum(layer[key] for layer in layers) for key in ("saturated_before", "kept"))
    roles = f"{change['same_roles']} of {len(layers)} layers keep their role"
    if not before:
        return f"No FFN position was saturated before; {roles}"
    chance = sum(layer["kept_by_chance"] for layer in layers) / before
    return f"{percent(kept / before)} of {count(before)} saturated FFN positions stay so ({percent(chance)} by chance); {roles}"


def notes(analysis: Json) -> list[str]:
    """Return how it was measured, and what it does not say."""
    drawn: dict[str, list[str]] = {}
    for name, what in analysis["resampled"].items():
        drawn.setdefault(what, []).append(FEATURES[name][0])
    trace = analysis["trace"]
    without = "Without a trace, momentum and states count for nothing."
    return [
        f"{analysis['model']} ({analysis['model_type']}, {analysis['layers']} layers, {count(analysis['positions'])} FFN "
        f"positions and {analysis['heads']} heads each), read tensor by tensor; singular values from Gram matrices in 64 bits. "
        + (
            f"Traced: {trace['steps']} fine-tuning steps of {trace['batch_size']} texts at a learning rate of "
            f"{trace['lr']:g} on a copy, and the states of {count(trace['texts'])} texts."
            if trace
            else without
        ),
        "Every feature is put in deviations from its mean over the layers; a role's score is the sigmoid of the mean of "
        "its features, signed as in the table of evidence; the best role wins by a margin above 0.05, else it is a tie. So "
        "roles are relative to this model, a model of equal layers has none, and scores of two models do not compare.",
        f"Stability: {count(analysis['draws'])} draws with replacement (seed {analysis['seed']}) of "
        + "; ".join(f"{what} ({', '.join(names)})" for what, names in drawn.items())
        + ". A role that hangs on a single position cannot hold in more than 63 % of draws: the others miss it. "
        "Layers that differ by chance alone give the same role in about a third of draws. Reliability is the share of a "
        "feature's variance over layers that the draws do not explain.",
    ]


def _by_role(analysis: Json) -> dict[str, list[int]]:
    roles: dict[str, list[int]] = {role: [] for role in analysis["routing"]}
    for row in analysis["roles"]:
        if row["role"] in roles:
            roles[row["role"]].append(row["layer"])
    return roles
