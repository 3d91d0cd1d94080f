"""Layer roles as a section: what every layer is against the others, how surely, and what changed between checkpoints."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from compressor.report.formats import (
    BLANK,
    correlation,
    correlation_interval,
    count,
    layers_text,
    number,
    percent,
    ratio,
    ratio_interval,
    relative,
    short_names,
)
from compressor.report.roles_figures import change_figure, roles_figure
from compressor.report.section import Section, SectionTable

Json = Mapping[str, Any]
FEATURES: dict[str, tuple[str, str]] = {
    "attention_rank": ("rank of the attention output", "effective rank exp(H(σ / Σσ)) of W_o"),
    "energy_balance": (
        "energy balance",
        "1 where an average weight of attention and of FFN has the same energy, 0 where one has all of it",
    ),
    "write_ratio": ("FFN output / input", "Frobenius norm of W_out over that of W_in (gate and up: their mean energy)"),
    "momentum_cosine": ("momentum alignment", "cosine of Adam's first moment with the weights, mean over the trace"),
    "magnitude_cv": (
        "spread of FFN positions",
        "coefficient of variation of |W_in[p]| · |W_out[:, p]| over positions p (gated: |gate[p]| · |up[p]|)",
    ),
    "saturated": ("saturated positions", "FFN positions more than 3 deviations above the mean of the layer"),
    "total_write": ("size of the output maps", "Frobenius norm of W_o and W_out together"),
    "write_on_text": ("change of states", "|layer(x) - x| / |x|, mean over the tokens of a text and over texts"),
    "alignment": ("alignment of states", "cos(x, layer(x)), mean over the tokens of a text and over texts"),
    "head_diversity": (
        "diversity of heads",
        "1 - |A'B|² / (|A'A| |B'B|) of two heads' columns A, B of W_o, mean over pairs: 1 where no direction is shared",
    ),
    "ffn_rank": ("rank of the FFN", "mean effective rank of the FFN's matrices"),
    "attention_share": ("attention's share", "share of attention in the Frobenius energy of the layer's matrices"),
    "norm_concentration": (
        "concentration of norms",
        "share of the energy of a norm's scale that 1 % of its positions hold",
    ),
    "spectral_ratio": ("spectral norm", "largest singular value over the median of the other layers, largest matrix"),
}
"""Feature -> its short name and what it is, in the order in which it is shown."""
FEW_LAYERS = 40
"""Layers up to which a table has a column for each."""


def roles_section(analysis: Json) -> Section:
    """Return the section of `RolesAnalysis` as JSON, with the comparison and the trajectory where it holds them."""
    shown = [name for name in FEATURES if any(value is not None for value in analysis["features"].get(name, []))]
    labels = {name: FEATURES[name][0] for name in shown}
    figures = {"roles_layers": roles_figure(analysis, labels, finding(analysis))}
    tables = [_alarm_table(analysis)] if analysis["alarms"] else []
    tables += [_role_table(analysis), _feature_table(analysis, shown), _routing_table(analysis)]
    if analysis.get("against"):
        figures["roles_change"] = change_figure(analysis["against"], change_finding(analysis["against"]))
        tables.append(_change_table(analysis["against"]))
    if analysis.get("steps"):
        tables.append(_trajectory_table(analysis["steps"]))
    return Section("roles", "Layer roles", reading(analysis), figures, tables, notes(analysis))


def finding(analysis: Json) -> str:
    """Return how many layers have a role and which, and in how many draws they keep it."""
    by_role = _by_role(analysis)
    which = "; ".join(f"{role} {', '.join(map(str, layers))}" for role, layers in by_role.items() if layers)
    text = f"{sum(map(len, by_role.values()))} of {analysis['layers']} layers win a role" + (
        f": {which}" if which else ""
    )
    known = [row["stability"] for row in analysis["roles"] if row["stability"] is not None]
    return text + (f" (the same in {_range(known)} of draws)" if known else "")


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
            f"; {count(analysis['draws'])} draws of the same weights agree with that in {_range(known)} of cases, "
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


def _range(shares: Sequence[float]) -> str:
    low, high = (f"{100 * value:.0f}" for value in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


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


def _alarm_table(analysis: Json) -> SectionTable:
    rows = [
        (BLANK if row["layer"] is None else str(row["layer"]), row["kind"], row["text"], number(row["ratio"]))
        for row in analysis["alarms"]
    ]
    note = "The spectral norm of a matrix 30 times the median of the other layers, NaN or infinity, layers that write nothing."
    return SectionTable("Findings", ["layer", "kind", "what", "ratio"], rows, note, (0, 1, 2))


def _role_table(analysis: Json) -> SectionTable:
    roles = list(analysis["routing"])
    rows = [
        (
            str(row["layer"]),
            row["role"] or "unknown",
            BLANK if row["leads"] is None else f"{row['leads']} over {row['follows']}",
            correlation(row["margin"]),
            BLANK if row["stability"] is None else _range([row["stability"]]),
            *(_with_interval(row["scores"][role], row["scores_ci95"][role]) for role in roles),
        )
        for row in analysis["roles"]
    ]
    columns = ["layer", "role", "two best", "margin", "same in draws", *roles]
    note = "Scores from 0 to 1 with the 95 % interval of the draws."
    return SectionTable("Roles", columns, rows, note, (0, 1, 2))


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    return correlation(value) + (f" ({correlation_interval(list(interval))})" if interval else "")


def _feature_table(analysis: Json, shown: list[str]) -> SectionTable:
    layers = range(min(analysis["layers"], FEW_LAYERS))
    rows = [
        (
            FEATURES[name][0],
            correlation(analysis["reliability"].get(name)),
            *(_value(name, analysis["features"][name][layer]) for layer in layers),
        )
        for name in shown
    ]
    cut = (
        "" if analysis["layers"] <= FEW_LAYERS else f"The first {FEW_LAYERS} layers; all of them are in the JSON file."
    )
    columns = ["feature", "reliability", *(str(layer + 1) for layer in layers)]
    return SectionTable("Features by layer", columns, rows, cut, folded=True)


def _value(name: str, value: float | None) -> str:
    return count(value) if name == "saturated" else number(value)


def _routing_table(analysis: Json) -> SectionTable:
    signs = {1: "+", -1: "−"}
    rows = [
        (label, meaning, *(signs.get(routed.get(name), "") for routed in analysis["routing"].values()))
        for name, (label, meaning) in FEATURES.items()
    ]
    columns = ["feature", "what it is", *analysis["routing"]]
    note = "+ speaks for the role, − against it; features without a sign are told, but are evidence for none."
    return SectionTable(
        "Which feature is evidence for which role", columns, rows, note, (0, 1, 2, 3, 4, 5), folded=True
    )


def _change_table(change: Json) -> SectionTable:
    names = short_names([change["before"], change["after"]])
    rows = [
        (
            str(row["layer"]),
            f"{row['role_before'] or 'unknown'} → {row['role_after'] or 'unknown'}",
            ratio(row["flattening"])
            + (f" ({ratio_interval(row['flattening_ci95'])})" if row["flattening_ci95"] else ""),
            f"{row['saturated_before']} → {row['saturated_after']}",
            str(row["kept"]),
            number(row["kept_by_chance"]),
            str(row["gained"]),
            str(row["lost"]),
            relative(row["rank_change"]),
            relative(row["ffn_rank_change"]),
        )
        for row in change["layers"]
    ]
    columns = [
        "layer",
        "role",
        "flattening",
        "saturated",
        "kept",
        "by chance",
        "gained",
        "lost",
        "rank of W_o",
        "rank of FFN",
    ]
    note = (
        f"From {names[change['before']]} to {names[change['after']]}. Flattening: spread of FFN positions before over after, "
        "above 1 where the profile became flatter; its interval draws the same positions in both. By chance: what would "
        "stay saturated if those after stood anywhere."
    )
    return SectionTable("Change by layer", columns, rows, note, (0, 1))


def _trajectory_table(steps: Json) -> SectionTable:
    names, features = short_names(list(steps["models"])), steps["features"]
    rows = []
    for layer in range(len(steps["roles"][0])):
        cells = [
            f"{roles[layer] or 'unknown'}; spread {number(features['magnitude_cv'][step][layer])}, "
            f"{_value('saturated', features['saturated'][step][layer])} saturated, rank "
            f"{number(features['attention_rank'][step][layer])}"
            for step, roles in enumerate(steps["roles"])
        ]
        rows.append((str(layer + 1), *cells))
    kept = ", ".join(map(str, steps["same_roles"]))
    columns = ["layer", *(names[model] for model in steps["models"])]
    note = f"Layers that keep their role from each checkpoint to the next, of {len(rows)}: {kept}."
    return SectionTable("Trajectory", columns, rows, note, tuple(range(len(columns))))
