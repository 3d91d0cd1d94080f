"""Figures of the layer roles: features by layer as a heat map with the roles below, and the change between checkpoints."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressor.report.figures.style import COMPRESSED, FULL, GRID, INK, MUTED, SKIPPED, dress, label_below, new_figure
from compressor.report.formats import count, short_names

Json = Mapping[str, Any]
LIMIT = 2.5
"""Deviations at which the colours of the heat map end."""
NUMBERED = 14
"""Layers up to which cells hold their number and columns their role in full; beyond, roles stand upright."""
COLUMNS = 36
"""Most columns with a label of their own."""


def roles_figure(analysis: Json, labels: Mapping[str, str], title: str) -> Figure:
    """Heat map of the standardised features (rows, in the order of `labels`) by layer, each layer's role under it.

    A row's name is followed by the roles that it speaks for (+) or against (−).
    """
    names, layers = list(labels), analysis["layers"]
    values = np.array([analysis["standardised"][name] for name in names], dtype=float)
    wide = layers > NUMBERED
    figure = new_figure(1.9 + 0.31 * len(names) + 0.5 * wide, title)
    axes = figure.subplots()
    image = axes.imshow(values, cmap="PuOr", vmin=-LIMIT, vmax=LIMIT, aspect="auto")
    axes.set_facecolor(GRID)  # where a feature is not defined
    if not wide:
        for (row, column), value in np.ndenumerate(values):
            if np.isfinite(value):
                colour = "white" if abs(value) > 0.72 * LIMIT else INK
                axes.text(
                    column, row, f"{value:+.1f}".replace("-", "−"), ha="center", va="center", fontsize=7.5, color=colour
                )
    axes.set_yticks(range(len(names)), [_row_label(name, labels[name], analysis["routing"]) for name in names])
    shown = range(0, layers, -(-layers // COLUMNS))
    axes.set_xticks(list(shown), [_column_label(analysis["roles"][layer], wide) for layer in shown])
    axes.tick_params(axis="x", rotation=90 if wide else 0, length=0, labelsize=8 if layers > 8 else 9, colors=INK)
    axes.tick_params(axis="y", length=0, labelsize=8.5, colors=INK)
    axes.set_xticks(np.arange(layers + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(names) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    axes.spines[:].set_visible(False)
    margin = "" if wide else "margin over the next role, "
    label_below(
        figure,
        f"columns: layer, role, {margin}share of draws with the same; n = {count(analysis['draws'])} draws, "
        f"{count(analysis['positions'])} FFN positions a layer\n"
        "rows: feature, and the roles that it speaks for (+) or against (−)",
        size=9,
    )
    bar = figure.colorbar(image, ax=axes, fraction=0.03, pad=0.01, extend="both")
    bar.set_label("deviations from the mean of the layers", fontsize=8.5, color=MUTED)
    bar.ax.tick_params(labelsize=8, colors=INK)
    bar.outline.set_visible(False)
    return figure


def change_figure(change: Json, title: str) -> Figure:
    """Three panels by layer: flattening with its interval, saturated positions kept, gained and lost, change of ranks."""
    rows = change["layers"]
    places = [row["layer"] for row in rows]
    figure = new_figure(6.6, title)
    flat, saturated, ranks = figure.subplots(3, 1, sharex=True)
    for axes in (flat, saturated, ranks):
        dress(axes, "y")
    for row in rows:
        if row["flattening_ci95"]:
            flat.plot(
                [row["layer"]] * 2, row["flattening_ci95"], color=COMPRESSED, linewidth=2.5, solid_capstyle="butt"
            )
    flat.plot(places, np.array([row["flattening"] for row in rows], dtype=float), "o", color=COMPRESSED, markersize=6)
    flat.axhline(1, color=INK, linewidth=1)
    flat.set_ylabel("flattening, ratio\n(above 1: flatter)")
    drawn = f"95 % interval of {count(change['draws'])} draws" if change["draws"] else "no interval: the draws differ"
    flat.set_title(f"spread of FFN positions, before / after; {drawn}", fontsize=9.5, color=INK, loc="left")
    kept, gained, lost = (np.array([row[key] or np.nan for row in rows]) for key in ("kept", "gained", "lost"))
    style = {"width": 0.62, "linewidth": 1.2}
    saturated.bar(places, kept, label="kept", color=FULL, edgecolor=FULL, **style)
    saturated.bar(places, gained, bottom=np.nan_to_num(kept), label="gained", color=COMPRESSED, edgecolor="white", hatch="//",
                  **style)  # fmt: skip
    saturated.bar(places, -lost, label="lost", color="white", edgecolor=SKIPPED, hatch="xx", **style)
    saturated.axhline(0, color=MUTED, linewidth=0.8)
    saturated.set_ylabel("saturated positions,\ncount")
    what = f"FFN positions above mean + 3 sd (n = {count(change['positions'])} a layer)"
    saturated.set_title(what, fontsize=9.5, color=INK, loc="left")
    _legend_above(saturated)
    for key, label, colour, marker in (
        ("rank_change", "attention output", COMPRESSED, "o"),
        ("ffn_rank_change", "FFN", SKIPPED, "s"),
    ):
        changes = 100 * np.array([row[key] for row in rows], dtype=float)
        ranks.plot(places, changes, marker, color=colour, markersize=6, label=label)
    ranks.axhline(0, color=INK, linewidth=1)
    ranks.set_ylabel("change of the\neffective rank, %")
    names = short_names([change["before"], change["after"]])
    ranks.set_xlabel(f"layer; before: {names[change['before']]}, after: {names[change['after']]}")
    ranks.set_xticks(places[:: -(-len(places) // COLUMNS)])
    _legend_above(ranks)
    return figure


def _legend_above(axes: Axes) -> None:
    """Put the legend over the right end of the axes, where no bar or point can be."""
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.03), ncols=3, frameon=False, fontsize=9, borderaxespad=0)


def _row_label(name: str, label: str, routing: Mapping[str, Mapping[str, int]]) -> str:
    speaks = [f"{role} {'+' if routed[name] > 0 else '−'}" for role, routed in routing.items() if name in routed]
    return f"{label} ({', '.join(speaks)})" if speaks else label


def _column_label(row: Json, wide: bool) -> str:
    role = row["role"] or "unknown"
    stable = "" if row["stability"] is None else f"{100 * row['stability']:.0f} %"
    if wide:
        return f"{stable}  {role}  {row['layer']}"
    margin = "" if row["margin"] is None else f"{row['margin']:.2f}"
    return f"{row['layer']}\n{role}\n{margin}\n{stable}"
