"""Tables of the layer roles, and what every feature is called."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.report.formats import (
    BLANK,
    correlation,
    count,
    number,
    relative,
    score,
    short_names,
    span,
    with_interval,
)
from compressor.report.sections.section import SectionTable

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


def share_range(shares: Sequence[float]) -> str:
    """Return [0.54, 0.99] as `54 to 99 %`."""
    return span("{:.0f} %".format, [100 * share for share in shares], " %")


def alarm_table(analysis: Json) -> SectionTable:
    """Return what is wrong with the weights, one finding a row."""
    rows = [
        (BLANK if row["layer"] is None else str(row["layer"]), row["kind"], row["text"], number(row["ratio"]))
        for row in analysis["alarms"]
    ]
    note = "The spectral norm of a matrix 30 times the median of the other layers, NaN or infinity, layers that write nothing."
    return SectionTable("Findings", ["layer", "kind", "what", "ratio"], rows, note, (0, 1, 2))


def role_table(analysis: Json) -> SectionTable:
    """Return the role of every layer with its margin, stability and scores."""
    roles = list(analysis["routing"])
    rows = [
        (
            str(row["layer"]),
            row["role"] or "unknown",
            _next(row),
            correlation(row["margin"]),
            BLANK if row["stability"] is None else share_range([row["stability"]]),
            *(with_interval(correlation, row["scores"][role], row["scores_ci95"][role]) for role in roles),
        )
        for row in analysis["roles"]
    ]
    columns = ["layer", "role", "next", "margin", "same in draws", *roles]
    note = "Scores from 0 to 1 with the 95 % interval of the draws."
    return SectionTable("Roles", columns, rows, note, (0, 1, 2))


def _next(row: Json) -> str:
    """Return the role that a winner leaves behind; of a tie, both."""
    if row["leads"] is None:
        return BLANK
    return row["follows"] if row["role"] == row["leads"] else f"{row['leads']}, {row['follows']}"


def feature_table(analysis: Json, shown: list[str]) -> SectionTable:
    """Return every feature in `shown` by layer, with its reliability."""
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


def routing_table(analysis: Json) -> SectionTable:
    """Return what every feature is and which roles it is evidence for."""
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


def change_table(change: Json) -> SectionTable:
    """Return what changed in every layer between two checkpoints."""
    names = short_names([change["before"], change["after"]])
    rows = [
        {
            "layer": str(row["layer"]),
            "role": " → ".join(dict.fromkeys(row[key] or "unknown" for key in ("role_before", "role_after"))),
            # three decimals throughout: fine-tuning changes a profile by less than a percent
            "flattening": with_interval(score, row["flattening"], row["flattening_ci95"]),
            "saturated": f"{row['saturated_before']} → {row['saturated_after']}",
            "kept": str(row["kept"]),
            "by chance": number(row["kept_by_chance"]),
            "gained": str(row["gained"]),
            "lost": str(row["lost"]),
            "rank of W_o": relative(row["rank_change"]),
            "rank of FFN": relative(row["ffn_rank_change"]),
        }
        for row in change["layers"]
    ]
    note = (
        f"From {names[change['before']]} to {names[change['after']]}. Flattening: spread of FFN positions before over after, "
        "above 1 where the profile became flatter; its interval draws the same positions in both. By chance: what would "
        "stay saturated if those after stood anywhere."
    )
    return SectionTable("Change by layer", [*rows[0]], [[*row.values()] for row in rows], note, (0, 1))


def trajectory_table(steps: Json) -> SectionTable:
    """Return role and main features of every layer in each of several checkpoints."""
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
