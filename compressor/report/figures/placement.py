"""Figures of the placement experiment: improvement by the share of layers with a block, and importance by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from compressor.report.figures.style import COMPRESSED, FULL, INK, SKIPPED, dress, new_figure

Json = Mapping[str, Any]
LOOKS = {"first": (SKIPPED, "v"), "middle": (COMPRESSED, "o"), "last": (FULL, "^")}
"""Place -> colour and marker; keys = the recipe's `Place`."""
OTHER, MARKERS = "#b07d00", "DPX*hd"
"""Colour and markers of placements by hand."""
SHIFT = 0.9
"""Percent that the places of one ratio stand apart, so that intervals do not cover each other."""


def metric_name(metric: str) -> str:
    """Return what a metric is called."""
    return "masked-language loss" if metric == "mlm_loss" else f"{metric} accuracy"


def ratio_figure(analysis: Json, title: str) -> Figure:
    """Relative improvement over the share of layers with a block, one panel a metric, one line a place, t intervals."""
    metrics = [verdict["metric"] for verdict in analysis["verdicts"]]
    figure = new_figure(1.2 + 2.5 * len(metrics), f"Masked-language loss: {title}")
    panels = figure.subplots(len(metrics), 1, sharex=True, squeeze=False)[:, 0]
    for axes, metric in zip(panels, metrics, strict=True):
        _panel(axes, analysis, metric)
    panels[-1].set_xlabel("layers with a feed-forward block, %; equal parameters throughout")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=6, frameon=False, fontsize=9)
    return figure


def _panel(axes: Axes, analysis: Json, metric: str) -> None:
    dress(axes, "y")
    found = {each["placement"]: each for each in analysis["improvements"] if each["metric"] == metric}
    measured = [each for each in analysis["placements"][1:] if found[each["name"]]["mean"] is not None]
    axes.axhline(0, color=INK, linewidth=1)
    for number, (place, (colour, marker)) in enumerate(LOOKS.items()):
        shift = SHIFT * (number - 1)
        shown = [(each["ratio"] + shift, found[each["name"]]) for each in measured if each["place"] == place]
        _points(axes, shown, colour, marker, place)
    own = [each for each in measured if not each["place"]]
    for number, each in enumerate(own):
        ratio = 100 * sum(width > 0 for width in each["widths"]) / len(each["widths"])
        shift = SHIFT * (2 + number // 2) * (-1) ** number  # beside the grid's, in turn above and below
        _points(axes, [(ratio + shift, found[each["name"]])], OTHER, MARKERS[number % len(MARKERS)], each["name"])
    axes.plot([100], [0], "s", color=INK, markersize=6, label="uniform" if metric == "mlm_loss" else None)
    seeds = len(analysis["seeds"])
    axes.set_ylabel("improvement, %\nof the uniform model's")
    rows = f"{analysis['rows'][metric]:,} {'masked tokens' if metric == 'mlm_loss' else 'rows'}"
    axes.set_title(
        f"{metric_name(metric)}; 95 % t interval of n = {seeds} seeds, {rows}", fontsize=9.5, color=INK, loc="left"
    )


def _points(axes: Axes, points: list[tuple[float, Json]], colour: str, marker: str, label: str) -> None:
    if not points:
        return
    for place, each in points:
        if each["ci95"]:
            axes.plot([place] * 2, [100 * bound for bound in each["ci95"]], color=colour, linewidth=1.6, alpha=0.7)
    places, means = [place for place, _ in points], [100 * each["mean"] for _, each in points]
    axes.plot(places, means, marker=marker, color=colour, markersize=6, linewidth=1.3, label=label)


def importance_figure(analysis: Json, title: str) -> Figure:
    """Loss caused where a layer's block is off, by equal shares and by regression, with bootstrap intervals."""
    importances = analysis["importances"][0]
    figure = new_figure(3.9, title)
    axes = figure.subplots()
    dress(axes, "y")
    axes.axhline(0, color=INK, linewidth=1)
    layers = np.array([row["layer"] for row in importances["layers"]])
    for key, shift, colour, marker, label in (
        ("equal", -0.14, FULL, "s", "equal share of the loss among the layers off"),
        ("regression", 0.14, COMPRESSED, "o", "regression: every layer a loss of its own"),
    ):
        for row in importances["layers"]:
            if row[f"{key}_ci95"]:
                bounds = [100 * bound for bound in row[f"{key}_ci95"]]
                axes.plot([row["layer"] + shift] * 2, bounds, color=colour, linewidth=2, alpha=0.7)
        values = 100 * np.array([row[key] for row in importances["layers"]], dtype=float)
        axes.plot(layers + shift, values, marker, color=colour, markersize=6, label=label)
    axes.set_xticks(layers[:: -(-len(layers) // 24)])
    what = f"n = {importances['placements']} placements x {importances['seeds']} seeds; bars: 95 % of bootstrap draws"
    axes.set_xlabel(f"layer; {what}")
    axes.set_ylabel("loss caused without the block,\n% of the uniform model's")
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1.0), ncols=2, frameon=False, fontsize=9, borderaxespad=0)
    return figure
