"""The figures on confident errors: margins, reliability, and what readers of each layer would have got right."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import expit, logit

from compressor.report.figures.style import BAND, COMPRESSED, FULL, INK, SKIPPED, dress, label_below, legend, new_figure
from compressor.report.formats import count, number, percent, percent_interval, points, points_interval

REFERENCE_SHARE, REFERENCE_MARGIN = (0.60, 0.93), (0.39, 0.72)
"""High-confidence shares and mean margins reported for fine-tuned BERT classifiers."""
STYLES = {"full": {"color": FULL, "marker": "s"}, "compressed": {"color": COMPRESSED, "marker": "o"}}
TICKS = (20, 35, 50, 60, 70, 80, 90, 95, 98, 99, 99.5, 99.9, 99.99)
ANY = {"any probe": "any\nprobe", "any kNN": "any\nkNN", "any head": "any\nhead", "any reader": "any\nof all"}


def margins_figure(analysis: Mapping[str, Any]) -> Figure:
    """Share of the errors above each margin with its 95 % band beside the mean margins, the reference ranges marked."""
    at = analysis["high_confidence_margin"]
    models = {name: model for name, model in analysis["models"].items() if model["errors"]}
    first = analysis["models"]["full"]
    share = first["high_confidence_share"]
    title = "The full model makes no error, so it has no confident one"
    if share["value"] is not None:
        title = (
            f"{percent(share['value'])} of the full model's {count(first['errors'])} errors are confident: margin above "
            f"{at:g} (95 % interval {percent_interval(share['ci95'])})"
        )
    figure = new_figure(3.9, title)
    shares, means = figure.subplots(1, 2, width_ratios=[2.1, 1])
    for axes in (shares, means):
        dress(axes, "both")
    for name, model in models.items():
        margin = [row["margin"] for row in model["curve"]]
        low, high = zip(*(row["share_ci95"] for row in model["curve"]), strict=True)
        colour, n = STYLES[name]["color"], count(model["errors"])
        shares.fill_between(margin, *([100 * bound for bound in bounds] for bounds in (low, high)), color=colour, alpha=0.18,
                            linewidth=0)  # fmt: skip
        shares.plot(margin, [100 * row["share"] for row in model["curve"]], **STYLES[name], linewidth=2, markersize=4.5,
                    label=f"{name} (n = {n} errors)", zorder=3)  # fmt: skip
    shares.plot([at, at], [100 * bound for bound in REFERENCE_SHARE], color=SKIPPED, linewidth=5, alpha=0.55, zorder=2,
                solid_capstyle="butt", label="reference range")  # fmt: skip
    shares.set(xlim=(0, 1), ylim=(0, 102), ylabel="errors above the margin, %\n(band: 95 % interval)")
    shares.set_xlabel("margin, p(predicted) − p(gold)")
    legend(shares, None)
    means.axvspan(*REFERENCE_MARGIN, color=SKIPPED, alpha=0.18, linewidth=0)
    for height, (name, model) in enumerate(reversed(models.items())):
        mean = model["mean_margin"]
        means.plot(mean["ci95"], [height, height], color=STYLES[name]["color"], linewidth=2.2)
        means.plot([mean["value"]], [height], markersize=8, linestyle="", **STYLES[name])
        means.annotate(number(mean["value"]), (mean["value"], height), (0, 8), textcoords="offset points", ha="center",
                       fontsize=9, color=INK)  # fmt: skip
    means.set_yticks(range(len(models)), [*reversed(models)])
    means.set(xlim=(0, 1), ylim=(-0.6, max(len(models), 1) - 0.3))
    means.set_xlabel("mean margin of the errors\n(95 % interval;\nshaded: reference range)")
    return figure


def reliability_figure(analysis: Mapping[str, Any]) -> Figure:
    """Accuracy against confidence in bins of equal mass, before and after the temperature, one panel a model."""
    models = analysis["models"]
    full = models["full"]
    before, after = (full[when]["ece"]["value"] for when in ("before", "after"))
    title = (
        f"Calibration error of the full model: {percent(before)} as it is, {percent(after)} with the temperature "
        f"{number(full['temperature']['temperature'])} of the selection split"
    )
    figure = new_figure(4.1, title)
    panels = figure.subplots(1, len(models), sharex=True, sharey=True, squeeze=False)[0]
    bins = [row for model in models.values() for when in ("before", "after") for row in model[when]["reliability"]]
    confidence = [row["confidence"] for row in bins]
    floor = min(row["accuracy_ci95"][0] for row in bins) - 0.02
    line = np.linspace(_odds(min(confidence)) - 0.4, _odds(max(confidence)) + 0.4, 200)
    for axes, (name, model) in zip(panels, models.items(), strict=True):
        dress(axes, "both")
        axes.plot(line, 100 * expit(line), color=INK, linewidth=1, linestyle=(0, (4, 3)))
        _bins(axes, model["before"]["reliability"], {"color": SKIPPED, "marker": "o", "label": "as it is"})
        chosen = number(model["temperature"]["temperature"])
        _bins(axes, model["after"]["reliability"],
              {"color": COMPRESSED, "marker": "D", "markerfacecolor": "white", "label": f"temperature {chosen}"})  # fmt: skip
        axes.set_title(name, fontsize=9.5, color=INK, loc="left")
        shown = [tick for tick in TICKS if line[0] <= _odds(tick / 100) <= line[-1]]
        axes.set_xticks([_odds(tick / 100) for tick in shown], [f"{tick:g}" for tick in shown])
        axes.set(xlim=(line[0], line[-1]), ylim=(100 * floor, 101))
        legend(axes, None)
    panels[0].set_ylabel("right answers, % (95 % interval)")
    n = f"n = {count(analysis['rows'])} rows in {len(full['before']['reliability'])} bins of equal mass"
    label_below(figure, f"mean confidence of the bin, % on a scale of log odds ({n}; dashed: as often right as sure)")
    return figure


def recovery_figure(found: Mapping[str, Any]) -> Figure:
    """Share of the errors that the probe behind each layer, and any reader, gets right, against what luck would fix."""
    union = found["groups"][-1]
    title = f"Some reader of some layer gets {percent(union['fixed_share'])} of the errors right"
    if union["beyond_chance_ci95"] is not None:
        title += (
            f"; beyond luck: {points(union['beyond_chance'])} "
            f"(95 % interval {points_interval(union['beyond_chance_ci95'])})"
        )
    figure = new_figure(4.1, title)
    axes = figure.subplots()
    dress(axes, "y")
    probes = [row for row in found["readers"] if row["kind"] == "probe"]
    nearest = [row for row in found["readers"] if row["kind"] == "knn"]
    groups = [row for row in found["groups"] if row["kind"] != "any head" or found["head_nodes"]]
    layers = len(probes)
    for rows, offset, colour, marker, name in (
        (probes, -0.13, COMPRESSED, "o", "linear probe"),
        (nearest, 0.13, "#009e73", "^", f"{found['neighbours']} nearest neighbours"),
        (groups, 0.0, INK, "s", "any of several readers"),
    ):
        first = 1 if rows is not groups else layers + 1.5
        places = [first + step + offset for step in range(len(rows))]
        for place, row in zip(places, rows, strict=True):
            axes.plot([place, place], [100 * bound for bound in row["fixed_ci95"]], color=colour, linewidth=2, zorder=3)
            axes.plot([place], [100 * row["fixed_share"]], marker, color=colour, markersize=7, zorder=4)
            if row["chance_share"] is not None:
                axes.plot([place], [100 * row["chance_share"]], "_", color=SKIPPED, markersize=13, markeredgewidth=2.4,
                          zorder=5)  # fmt: skip
        axes.plot([], [], marker, color=colour, linestyle="", label=name)
    axes.axvspan(layers + 0.75, layers + 0.75 + len(groups), color=BAND, alpha=0.6, linewidth=0, zorder=0)
    axes.set_xticks(
        [*range(1, layers + 1), *(layers + 1.5 + step for step in range(len(groups)))],
        [*map(str, range(1, layers + 1)), *(ANY[row["kind"]] for row in groups)],
    )
    axes.set(xlim=(0.4, layers + 0.75 + len(groups)), ylim=(-3, 104))
    axes.set_xlabel("[CLS] state behind layer (left); any of several readers (right)")
    axes.set_ylabel(f"errors that it gets right, %\n(95 % interval, n = {count(found['errors'])} errors)")
    handles = [*axes.get_legend_handles_labels()[0], Line2D([], [], color=SKIPPED, linewidth=2.4, label="luck alone")]
    figure.legend(handles=handles, loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def _odds(share: float) -> float:
    """Return where a confidence stands: most are near 1, and log odds keep them apart."""
    return float(logit(min(max(share, 1e-5), 1 - 1e-5)))


def _bins(axes: Axes, rows: list[dict], style: Mapping[str, Any]) -> None:
    for row in rows:
        bounds = [100 * bound for bound in row["accuracy_ci95"]]
        axes.plot([_odds(row["confidence"])] * 2, bounds, color=style["color"], linewidth=1.1, alpha=0.5, zorder=2)
    places = [_odds(row["confidence"]) for row in rows]
    axes.plot(places, [100 * row["accuracy"] for row in rows], linewidth=1.2, markersize=5.5, zorder=3, **style)
