"""The picture of a sweep: how much faster each point is, against how many predictions it changes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from compressor.report.figures import style

COLOURS = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a8f98"
MARKERS = "osD^vP*X"
"""A colour and a shape for each model; both start again where there are more models."""
NAMED = 8
"""Points of the front that have their names beside them."""
ROOM = 0.04
"""Share of the largest share of changed predictions, left of which a name has no room to the left."""


def pareto_figure(rows: Sequence[Mapping[str, Any]], front: Sequence[str]) -> Figure:
    """Return the figure of all timed points with 95 % intervals of their speed-up; the front is joined and named.

    The horizontal scale is the square root of the share of changed predictions: the points worth having are at the left.
    """
    best = max((row for row in rows if row["name"] in front), key=lambda row: row["speedup"])
    figure = style.new_figure(
        5.0, f"{len(front)} of {len(rows)} points are worth a look: up to {best['speedup']:.1f}x as fast, "
        f"{100 * best['flip_rate']:.1f} % changed"
    )  # fmt: skip
    axes = figure.subplots()
    models = list(dict.fromkeys(row["place"].get("model") for row in rows))
    for number, model in enumerate(models):
        own = [row for row in rows if row["place"].get("model") == model]
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        middle = [row["speedup"] for row in own]
        reach = [
            [max(0.0, row["speedup"] - row["speedup_low"]) for row in own],
            [max(0.0, row["speedup_high"] - row["speedup"]) for row in own],
        ]
        axes.errorbar(
            [100 * row["flip_rate"] for row in own], middle, yerr=reach, fmt=marker, color=colour, ecolor=colour,
            elinewidth=1, markersize=6, label=model,
        )  # fmt: skip
    known = {row["name"]: row for row in rows}
    line = [known[name] for name in front]
    axes.plot(
        [100 * row["flip_rate"] for row in line],
        [row["speedup"] for row in line],
        color=style.MUTED,
        linewidth=1,
        linestyle="--",
    )
    widest = max(100 * row["flip_rate"] for row in rows)
    for row in line[:NAMED]:
        # no point lies to the left of the front and above it, and the line comes from below
        roomy = 100 * row["flip_rate"] > ROOM * widest
        shift, side = ((-7, 5), "right") if roomy else ((0, 9), "left")
        axes.annotate(
            row["name"],
            (100 * row["flip_rate"], row["speedup"]),
            textcoords="offset points",
            xytext=shift,
            horizontalalignment=side,
            fontsize=8,
            color=style.INK,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    axes.set_xscale("function", functions=(lambda share: abs(share) ** 0.5, lambda place: place**2))
    axes.set_xlim(0, 1.1 * widest or 1)
    axes.axhline(1, color=style.MUTED, linewidth=0.8)
    axes.set_xlabel("changed predictions, % (square-root scale)")
    axes.set_ylabel("times as fast as its opponent (95 % interval)")
    style.dress(axes, "both")
    if len(models) > 1:
        axes.legend(loc="lower right", fontsize=9, frameon=True, framealpha=0.9, edgecolor=style.GRID)
    return figure
