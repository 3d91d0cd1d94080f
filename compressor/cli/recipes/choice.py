"""Tables on the choice of layers for the terminal: audit of the scores, frontier, candidates for the goals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.cli.tables import FEW, SHIPS, Column, Grid, numbers, words
from compressor.report.formats import BLANK, bare_points, correlation, milliseconds, percent, points, ratio
from compressor.report.tables.selection import OWN, audit_rows, frontier_rows, main_series, regret_sizes, row_rho

SIZES_SHOWN = 12
"""Sizes beside each other in one table; a model of more layers shows some of them, the first and the last included."""


def audit_tables(audit: Mapping[str, Any]) -> list[Grid]:
    """Return two tables with a row a score: its rank correlations and first picks, and its regret by size.

    `audit` is that of result.json. Correlations are those with the KL after the readout, with their 95 % interval.
    """
    rows, layers = audit_rows(audit), audit["layers"]
    ranks = [
        (
            row["name"],
            _rho(row_rho(row, "layers")),
            _rho(row_rho(row, "blocks")),
            *(BLANK if not row["hit"] else "yes" if row["hit"][hit] else "no" for hit in ("top1", "top3")),
        )
        for row in rows
    ]
    best = next((f"layer {row['hit']['best']}" for row in rows if row["hit"]), "the layer of least damage")
    columns = [*words("score"), *numbers("rho, single layers [95 %]", "rho, all blocks [95 %]")]
    columns += words("first pick", "first three")
    title = (
        f"scores against the measured damage (KL after the readout) of {layers} layers, {audit['rows']:,} texts; is {best}, "
        "which does least, the first pick, is it among the first three?"
    )
    tables = [Grid(title, columns, ranks)]
    sizes = regret_sizes(rows)
    if sizes:
        # at even distances, with the first and the last
        shown = np.linspace(0, len(sizes) - 1, min(len(sizes), SIZES_SHOWN)).round().astype(int)
        sizes = [sizes[index] for index in shown]
        lost = [
            (row["name"], *(bare_points(row["regret"].get(size, {}).get("agreement")) for size in sizes))
            for row in rows if row["regret"]
        ]  # fmt: skip
        title = "regret: points of agreement lost against the best set found of the same size, by layers skipped"
        few = np.linspace(0, len(sizes) - 1, min(len(sizes), FEW - 1)).round().astype(int)
        sized = [Column(str(size), rank=int(place not in few)) for place, size in enumerate(sizes)]
        tables.append(Grid(title, [*words("score"), *sized], lost))
    return tables


def frontier_table(frontier: Sequence[Mapping[str, Any]], timing: Mapping[str, Any] | None) -> Grid:
    """Return agreement with the full model by layers skipped: the search and the best-known scores beside each other.

    `frontier` is that of the audit, `timing` that of result.json; without it no latency is predicted.
    """
    view = frontier_rows(frontier, timing)
    shown = main_series(view)
    rows = [
        (
            str(row["size"]),
            percent(row["flops_share"]),
            *([milliseconds(row["predicted_ms"])] if view["cell"] else []),
            *(percent(row["cells"][key]["agreement"]) if key in row["cells"] else BLANK for key in shown),
        )
        for row in view["rows"]
    ]
    columns = [
        *numbers("skipped", "FLOPs"),
        *(numbers("predicted") if view["cell"] else []),
        *(Column(view["series"][key], rank=0 if key in {shown[0], OWN} else place) for place, key in enumerate(shown)),
    ]
    title = "agreement with the full model (selection split, after the readout) by layers skipped"
    return Grid(title + (f"; predicted latency at {view['cell']}" if view["cell"] else ""), columns, rows)


def candidates_table(selection: Mapping[str, Any]) -> Grid:
    """Return the best set of every size against the goals: the chosen one first, then those that come nearest.

    `selection` is `goals.selection` of result.json.
    """
    candidates = selection["candidates"]
    rows = [
        (
            (", ".join(map(str, row["skip"])) or "none") + (" (chosen)" if row["chosen"] else ""),
            points(row["accuracy_delta"]),
            points(row["lower_bound"]),
            percent(row["flip_rate"]),
            ratio(row.get("predicted_speedup")),
            "\n".join(row["misses"]) or "met",
        )
        for row in candidates[:SIZES_SHOWN]
    ]
    judged = "after the readout" if selection["readout"] else "stock head"
    title = (
        f"goals on the selection split: {selection['tried']:,} sets tried on {selection['rows']:,} rows ({judged}); bound at "
        f"{selection['corrected']:.4%}, so that {selection['choices']:,} sets hold together at {selection['confidence']:.0%}"
    ) + (f"; {SIZES_SHOWN} of {len(candidates)} sizes" if len(candidates) > SIZES_SHOWN else "")
    columns = [
        *words("skipped layers"),
        *numbers("accuracy", "bound", "changed"),
        Column("goals", words=True, below=True),
    ]
    columns.insert(4, Column("predicted speed-up", rank=1))
    styles = {place: SHIPS for place, row in enumerate(candidates[:SIZES_SHOWN]) if row["chosen"] and not row["misses"]}
    return Grid(title, columns, rows, styles=styles)


def _rho(value: Mapping[str, Any]) -> str:
    if value["rho"] is None:
        return BLANK
    bounds = f" [{', '.join(map(correlation, value['ci95']))}]" if value["ci95"] else ""
    return correlation(value["rho"]) + bounds
