"""Rows of the report's tables about the selection: sets of the plan, audit of the scores, frontier, predicted speed-up."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from compressor.measurement.cost import predicted_ms
from compressor.model.units import ordered, pieces, plan_units, split_unit
from compressor.recipe.compression import Score
from compressor.report.formats import cell_name, format_of, score_name, series_name, variant_order

SETS_SHOWN = 20
OWN = "separability"
"""The score of the recipe, which may repeat one of those it can be."""
DOWNSTREAM = "downstream_separability"
"""What the separability at the end loses without a layer, by gradients: the score that ranks where a recipe names none."""
OWN_SCORES = get_args(Score)
MAIN_SERIES = (OWN, DOWNSTREAM, "block_influence", "cka", "top_first", "every_other", "random")
"""The scores that stand beside the search where there is no room for all."""
Row = Mapping[str, Any]


def plan_sets(plan: Row) -> dict[str, Any]:
    """Return the sets tried: {sets, sets_of_size, set_labels, best_of_sizes, chosen_skip, ranked_skip}.

    `sets` ranks those of the chosen size: the best 20, and the chosen and the ranked one wherever they stand, out of
    `sets_of_size`; with a budget, those that meet it. `best_of_sizes` is the best set of every size, empty where only one
    size was tried. `set_labels` says whether the trials had labels.
    """
    # stable order: best agreement first, then the smaller divergence, then the set itself
    rows = [{"gained": None, "lost": None, **row, "skip": list(ordered(row["skip"]))} for row in plan["trace"]]
    rows = sorted(rows, key=lambda row: (-(row["agreement"] or 0), row["kl"] or 0, list(map(split_unit, row["skip"]))))
    chosen, mix = list(ordered(plan_units(plan))), plan.get("mix")
    of_size = [row for row in rows if mix or len(row["skip"]) == len(chosen)]
    of_size = [{**row, "rank": rank} for rank, row in enumerate(of_size, 1)]
    named = [chosen, list(ordered(plan["ranked"]["skip"])) if plan["ranked"] else None]
    tried = Counter(len(row["skip"]) for row in rows)
    best = {len(row["skip"]): row for row in reversed(rows)}
    return {
        "sets": of_size[:SETS_SHOWN] + [row for row in of_size[SETS_SHOWN:] if row["skip"] in named],
        "sets_of_size": len(of_size),
        "set_labels": any(row["gained"] is not None for row in rows),
        "best_of_sizes": [{**best[size], "tried": tried[size]} for size in sorted(best)]
        if len(best) > 1 and not mix
        else [],
        "chosen_skip": named[0],
        "ranked_skip": named[1],
    }


def part_rows(plan: Row) -> list[dict[str, Any]]:
    """Return what could go of every layer: whole layers and blocks, and of amounts of heads and neurons the chosen ones."""
    chosen = _chosen_parts(plan)
    rows = [
        {**row, "chosen": (row["layer"], row["part"]) in chosen} for row in (plan.get("mix") or {}).get("parts", [])
    ]
    return [row for row in rows if row["chosen"] or ":" not in row["part"]]


def part_amounts(plan: Row) -> list[dict[str, Any]]:
    """Return {layer, kind, left, damage, chosen} of every amount of heads and neurons; `left` is the share that stays.

    Empty for results of earlier versions, which had no damage.
    """
    mix, chosen, rows = plan.get("mix") or {}, _chosen_parts(plan), []
    sizes = {"heads": mix.get("full_heads"), "ffn": mix.get("full_width")}
    for row in mix.get("parts", []):
        name, _, count = row["part"].partition(":")
        if count and sizes[name] and "damage" in row:
            left, kind = int(count) / sizes[name], {"heads": "heads", "ffn": "neurons"}[name]
            taken = (row["layer"], row["part"]) in chosen
            rows.append({"layer": row["layer"], "kind": kind, "left": left, "damage": row["damage"], "chosen": taken})
    return rows


def _chosen_parts(plan: Row) -> set[tuple[int, str]]:
    parts = map(split_unit, plan_units(plan))
    return {(layer, piece) for layer, part in parts for piece in (filter(None, pieces(part)) if part else ["layer"])}


def audit_rows(audit: Row) -> list[dict[str, Any]]:
    """Return one row a score, highest correlation with the damage of single layers (KL, after readout) first.

    A row holds {score, name, rho, hit, importance, regret}: `rho` maps (units, damage, readout) to {rho, ci95, n} with
    None for what is undefined, `regret` maps a size from 1 to {agreement, kl}. The score that separability repeats has
    no row of its own; separability's name says which it is.
    """
    importance = audit.get("importance") or {}
    repeated = next(
        (score for score in OWN_SCORES if importance.get(OWN) and importance[OWN] == importance.get(score)), None
    )
    rho = {
        (row["score"], row["units"], row["damage"], row["readout"]): {**row, "rho": finite(row["rho"])}
        for row in audit.get("correlations") or []
    }
    hits = {row["score"]: row for row in audit.get("hits") or []}
    rows = [
        {
            "score": score,
            "name": score_name(score) + (f" ({score_name(repeated)})" if repeated and score == OWN else ""),
            "rho": {key[1:]: row for key, row in rho.items() if key[0] == score},
            "hit": hits.get(score),
            "importance": importance.get(score) or [],
            "regret": {
                row["size"]: row["regret"] for row in audit.get("frontier") or []
                if row["series"] == score and row["size"] and row["regret"]
            },
        }
        for score in audit["scores"] if score != repeated
    ]  # fmt: skip
    # stable, so that equal and undefined values keep the order of the audit
    return sorted(rows, key=lambda row: (row_rho(row)["rho"] is None, -(row_rho(row)["rho"] or 0)))


def row_rho(row: Row, units: str = "layers", damage: str = "kl", readout: bool = True) -> dict[str, Any]:
    """Return {rho, ci95, n} of a row of `audit_rows`, all None where it was not measured."""
    return row["rho"].get((units, damage, readout)) or {"rho": None, "ci95": None, "n": None}


def regret_sizes(rows: Iterable[Row]) -> list[int]:
    """Return the sizes that some row of `audit_rows` has a regret for."""
    return sorted({size for row in rows for size in row["regret"]})


def frontier_rows(frontier: Sequence[Row], timing: Row | None) -> dict[str, Any]:
    """Return the frontier by size: {series, searches, rows, cell}.

    `series` maps each key to its name, searches first; `searches` lists the keys that are one; `rows` has one entry a
    size with {size, flops_share, predicted_ms, cells: {series: row}}; `cell` names the timing cell of `predicted_ms`.
    The full model (size 0) is every series' first set. Values that cannot be known are None.
    """
    cell = next(iter((timing or {}).get("cells") or []), None)
    full = next((row for row in frontier if row["size"] == 0), None)
    kinds = sorted({row["series"]: row for row in reversed(frontier)}.values(), key=lambda row: frontier.index(row))
    kinds.sort(key=lambda row: row["kind"] != "search")
    cells: dict[int, dict[str, Row]] = {}
    for row in frontier:
        cells.setdefault(row["size"], {})[row["series"]] = row
    if full:
        cells[0] = {row["series"]: cells[0].get(row["series"], full) for row in kinds}
    return {
        "series": {row["series"]: series_name(row) for row in kinds},
        "searches": [row["series"] for row in kinds if row["kind"] == "search"],
        "cell": cell_name(cell["batch"], cell["length"]) if cell else None,
        "rows": [
            {
                "size": size,
                "flops_share": next(iter(cells[size].values()))["encoder_flops"] / full["encoder_flops"] if full else None,
                "predicted_ms": predicted_ms(cell, size) if cell else None,
                "cells": cells[size],
            }
            for size in sorted(cells)
        ],
    }  # fmt: skip


def main_series(frontier: Row, rank_by: str | None = None) -> list[str]:
    """Return the series of `frontier_rows` to show where eight are too many: every search and the known baselines.

    `rank_by` is the score of the ranked plan, which is always shown.
    """
    shown = {*frontier["searches"], *MAIN_SERIES, rank_by}
    return [key for key in frontier["series"] if key in shown]


def prediction_rows(prediction: Sequence[Row]) -> list[dict[str, Any]]:
    """Return {cell, format, predicted, measured, ci95, error, inside} of every measured variant, cell by cell.

    `inside` says whether the prediction lies in the measured interval (None without one).
    """
    rows = []
    for entry in prediction:
        for measured in sorted(entry["measured"], key=lambda row: variant_order(row["variant"])):
            interval, predicted = measured["ci95"], entry["predicted_speedup"]
            rows.append(
                {
                    "cell": cell_name(entry["batch"], entry["length"]),
                    "format": format_of(measured["variant"]),
                    "predicted": predicted,
                    "measured": measured["speedup"],
                    "ci95": interval,
                    "error": finite(measured["error"]),
                    "inside": interval[0] <= predicted <= interval[1] if interval and predicted is not None else None,
                }
            )
    return rows


def finite(value: float | None) -> float | None:
    """Return the value, or None where it is no number that can be drawn."""
    return value if value is not None and math.isfinite(value) else None


def exit_rows(cascade: Row) -> list[dict[str, Any]]:
    """Return {name, threshold, certified, evaluation, explained} of every exit, and of the last layer.

    Where texts that the last layer is unsure of start again, it is an exit as well, and the full model stands behind it.
    """
    full = cascade.get("full", False)
    ends = [*cascade["exits"], {"layer": cascade["layers"], "threshold": None, "explained": None}]
    certified = cascade["certificate"]["shares"]
    measured = cascade["evaluation"]["shares"] if "evaluation" in cascade else [None] * len(ends)
    return [
        {
            "name": "full model, float32"
            if full and index == len(ends) - 1
            else f"layer {entry['layer']}" + (" (the last)" if entry["layer"] == cascade["layers"] else ""),
            "threshold": entry["threshold"],
            "closed": index < len(ends) - 1 and entry["threshold"] is None,
            "certified": certified[index],
            "evaluation": measured[index],
            "explained": entry["explained"],
        }
        for index, entry in enumerate(ends)
    ]
