"""The figures of a report. Each function takes plain data and returns a Figure whose title states what it shows.

Colours are the Okabe-Ito set; shape, hatching or fill repeats what colour says. The background is white everywhere.
"""

from collections import Counter

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from compressor.report.figures.style import (
    BAND,
    COMPRESSED,
    FULL,
    INK,
    MUTED,
    SKIPPED,
    cell_panels,
    dress,
    label_below,
    legend,
    new_figure,
)
from compressor.report.formats import claimed_text, count, format_of, is_full, number, percent, span, variant_name
from compressor.report.wording.kinds import headed

FORMAT_COLOURS = ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00"]
FORMAT_MARKERS = ["o", "s", "^", "D", "v", "P"]


def accuracy_figure(rows: list[dict], n: int, metric: str = "accuracy") -> Figure:
    """Paired change of the metric with its 95 % interval beside the share of changed predictions, one line a variant.

    `rows` holds {variant, delta, ci95, flip_rate} (shares; delta and ci95 None where there are no labels).
    """
    labelled = all(row["ci95"] is not None for row in rows)
    worse = [row for row in rows if labelled and row["ci95"][1] < 0]
    better = [row for row in rows if labelled and row["ci95"][0] > 0]
    if not labelled:
        title = f"At most {percent(max(row['flip_rate'] for row in rows))} of the predictions change (no labels: no {metric})"
    elif worse or better:
        open_ones = len(rows) - len(worse) - len(better)
        counts = {"worse": len(worse), "better": len(better), "not distinguishable": open_ones}
        said = ", ".join(f"{total} {word}" for word, total in counts.items() if total)
        title = f"{headed(metric)} of {len(rows)} variants against the full model: {said}"
    else:
        title = f"The {metric} of no variant is distinguishable from the full model's"
    figure = new_figure(1.5 + 0.42 * len(rows), title)
    columns = 2 if labelled else 1
    panels = figure.subplots(1, columns, sharey=True, squeeze=False, width_ratios=[1.7, 1][:columns])[0]
    heights = np.arange(len(rows))[::-1]
    for axes in panels:
        dress(axes, "x")
        axes.set_ylim(-0.7, len(rows) - 0.3)
    if labelled:
        forest = panels[0]
        for height, row in zip(heights, rows, strict=True):
            low, high = (100 * bound for bound in row["ci95"])
            style = _model_style(row["variant"])
            forest.plot(
                [low, high], [height, height], color=style["color"], linewidth=2.2, solid_capstyle="butt", zorder=3
            )
            forest.plot([100 * row["delta"]], [height], markersize=8, zorder=4, linestyle="", **style)
        forest.axvline(0, color=INK, linewidth=1.2)
        left = min(-2.2, *(100 * row["ci95"][0] - 0.2 for row in rows))
        forest.set_xlim(left, max(0.6, *(100 * row["ci95"][1] + 0.2 for row in rows)))
        for bound, name in ((-1, "lossless"), (-2, "near")):
            forest.axvline(bound, color=SKIPPED, linewidth=1, linestyle=(0, (4, 3)))
            forest.text(bound, 1.01, f"{name}: −{-bound}", color=SKIPPED, fontsize=8, ha="center", va="bottom",
                        transform=forest.get_xaxis_transform())  # fmt: skip
        forest.set_xlabel(f"{metric} change, points\n(paired 95 % interval, n = {count(n)})")
    flips = panels[-1]
    for height, row in zip(heights, rows, strict=True):
        share = 100 * row["flip_rate"]
        flips.barh(height, share, 0.5, color=_model_style(row["variant"])["color"], zorder=3)
        flips.text(share, height, f" {percent(row['flip_rate'])}", va="center", ha="left", fontsize=9, color=INK)
    flips.set_xlim(0, max(1.0, *(135 * row["flip_rate"] for row in rows)))
    flips.set_xlabel(f"changed predictions, %\n(n = {count(n)})")
    panels[0].set_yticks(heights, [variant_name(row["variant"]) for row in rows])
    return figure


def latency_figure(rows: list[dict]) -> Figure:
    """Median latency of full and compressed model in each format, one panel a cell; whiskers reach to p90.

    `rows` holds {variant, cell, p50_ms, p90_ms, runs}.
    """
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    formats = list(dict.fromkeys(format_of(row["variant"]) for row in rows))
    fastest = Counter(
        min((row for row in rows if row["cell"] == cell), key=lambda row: row["p50_ms"])["variant"] for cell in cells
    )
    winner, wins = fastest.most_common(1)[0]
    title = f"Lowest median latency in {wins} of {len(cells)} cells: {variant_name(winner)}"
    columns = min(3, len(cells))
    lines = -(-len(cells) // columns)
    figure = new_figure(1.2 + lines * (0.75 + 0.42 * len(formats)), title)
    for axes, cell in zip(cell_panels(figure, cells, columns), cells, strict=True):
        for row in (row for row in rows if row["cell"] == cell):
            full = is_full(row["variant"])
            height = len(formats) - 1 - formats.index(format_of(row["variant"])) + (0.19 if full else -0.19)
            axes.barh(height, row["p50_ms"], 0.34, color=FULL if full else COMPRESSED, zorder=3)
            axes.plot([row["p50_ms"], row["p90_ms"]], [height, height], color=INK, linewidth=1.1, zorder=4)
            axes.plot([row["p90_ms"]], [height], "|", color=INK, markersize=6, zorder=4)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.set_yticks(range(len(formats)), formats[::-1])
    runs = span(count, [row["runs"] for row in rows])
    label_below(figure, f"latency of a batch, ms: bar = p50, whisker = p90 (n = {runs} runs each)")
    handles = [Patch(color=FULL, label="full"), Patch(color=COMPRESSED, label="compressed")]
    figure.legend(handles=handles, loc="outside lower right", ncols=2, frameon=False, fontsize=9)
    return figure


def speedup_figure(comparisons: list[dict], same_format: bool = True) -> Figure:
    """Speed-up over the full model with its 95 % interval; hollow where it is not claimed.

    `comparisons` holds {variant, cell, speedup, speedup_ci95, claimed, noise}, the last the interval of the A/A ratio of
    its opponent in its cell, or None. `same_format` says whether every opponent is in the format of its row, else it is what
    runs today.
    """
    cells = list(dict.fromkeys(row["cell"] for row in comparisons))
    formats = list(dict.fromkeys(format_of(row["variant"]) for row in comparisons))
    spacing = 0.8 / max(len(formats), 2)
    figure = new_figure(1.35 + len(cells) * (0.22 + 0.16 * len(formats)), claimed_text(comparisons))
    axes = figure.subplots()
    dress(axes, "x")
    for row in comparisons:
        order = formats.index(format_of(row["variant"]))
        colour, marker = FORMAT_COLOURS[order % len(FORMAT_COLOURS)], FORMAT_MARKERS[order % len(FORMAT_MARKERS)]
        height = len(cells) - 1 - cells.index(row["cell"]) + ((len(formats) - 1) / 2 - order) * spacing
        if row["noise"]:
            band = [height - spacing / 2, height + spacing / 2]
            axes.fill_betweenx(band, *row["noise"], color=BAND, linewidth=0, zorder=1)
        if row["speedup_ci95"]:
            axes.plot(row["speedup_ci95"], [height, height], color=colour, linewidth=1.8, zorder=3)
        axes.plot([row["speedup"]], [height], marker, markersize=7, markeredgecolor=colour, markeredgewidth=1.6, zorder=4,
                  markerfacecolor=colour if row["claimed"] else "white")  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1.2, zorder=2)
    axes.set_ylim(-0.6, len(cells) - 0.4)
    axes.set_yticks(range(len(cells)), cells[::-1])
    over = "the full model in the same format" if same_format else "the full model as it runs today"
    axes.set_xlabel(f"speed-up over {over} (ratio of latencies, 95 % interval; 1 = as fast)")
    handles = [
        Line2D([], [], linestyle="", marker=FORMAT_MARKERS[order % len(FORMAT_MARKERS)], label=name,
               color=FORMAT_COLOURS[order % len(FORMAT_COLOURS)], markersize=7)
        for order, name in enumerate(formats)
    ]  # fmt: skip
    if not all(row["claimed"] for row in comparisons):
        handles.append(
            Line2D([], [], linestyle="", marker="o", markerfacecolor="white", color=MUTED, label="hollow: not claimed")
        )
    if any(row["noise"] for row in comparisons):
        handles.append(Patch(facecolor=BAND, label="noise floor (A/A)"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    return figure


def head_figure(selection_loss: list[float], best_epoch: int, unit: str = "epoch") -> Figure:
    """Selection loss of the compensation head over its epochs or nodes (`unit`), the best marked."""
    points = [[epoch, loss] for epoch, loss in enumerate(selection_loss, start=1)]
    first, best = number(selection_loss[0]), number(min(selection_loss))
    title = f"The head's selection loss: {first} after the first {unit}, {best} at its best"
    return _curve_figure(title, points, best_epoch, unit, "loss on the selection split\n(cross-entropy)")


def distill_figure(curve: list[list[float]], kept: int) -> Figure:
    """KL to the full model on the text held out of the distillation, over its steps, the one that was kept marked."""
    best = number(min(value for _, value in curve))
    title = f"Distillation, on text held out of it: KL {number(curve[0][1])} before it, {best} at its best"
    return _curve_figure(title, curve, kept, "step", "KL to the full model, nats")


def _curve_figure(title: str, points: list[list[float]], best: int, unit: str, axis: str) -> Figure:
    """Curve through points of [place, value] with the place `best` marked."""
    places, values = zip(*points, strict=True)
    figure = new_figure(2.9, title)
    axes = figure.subplots()
    dress(axes, "y")
    axes.plot(places, values, color=COMPRESSED, linewidth=2, marker="o", markersize=3 if len(points) > 15 else 5)
    if best in places:
        axes.axvline(best, color=SKIPPED, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.plot([best], [values[places.index(best)]], "o", markersize=8, markerfacecolor="white",
                  markeredgecolor=SKIPPED, markeredgewidth=2, zorder=4, label=f"best: {unit} {best}")  # fmt: skip
        legend(axes, None)
    axes.set_xlabel(f"{unit} (n = {places[-1]})")
    axes.set_ylabel(axis)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _model_style(variant: str) -> dict[str, str]:
    return {"color": FULL, "marker": "s"} if is_full(variant) else {"color": COMPRESSED, "marker": "o"}
