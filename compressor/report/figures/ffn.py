"""The two figures on feed-forward blocks: their ratio by depth, and what a probe says against what a removal does."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from compressor.report.figures.style import BAND, COMPRESSED, FULL, INK, MUTED, SKIPPED, dress, new_figure
from compressor.report.formats import count, layers_text, number, percent, span

REFERENCE = {1: 150.0, 4: 50.0, 8: 14.0, 12: 2.0}
"""Layer of BERT-base -> its published ratio; the mean share is REFERENCE_SHARE."""
REFERENCE_SHARE = 0.92
REFERENCE_COLOUR = "#b07d00"
LABELS = {"gold": "gold labels", "model": "the model's own predictions"}
PLAIN = {"color": FULL, "linewidth": 1.2, "marker": "o", "markersize": 4, "linestyle": (0, (4, 2)), "zorder": 3}
MENDED = {"color": COMPRESSED, "linewidth": 2, "zorder": 5}
_MARK = {"linestyle": "", "markersize": 7.5, "markeredgewidth": 1.6}
REMOVED = _MARK | {"marker": "o", "color": COMPRESSED, "markersize": 14, "markeredgecolor": "white"}
KEPT = _MARK | {"marker": "o", "markerfacecolor": "white", "markeredgecolor": SKIPPED}
spread = partial(span, percent, unit=" %")
"""From shares to the smallest and largest, such as `0.46 to 12.39 %`."""


def times(ratio: float | None, share: float | None) -> str:
    """Return a ratio R as `150x`; `∞` where nothing is class-specific, a dash where nothing is common either."""
    if ratio is None:
        return "–" if share is None else "∞"
    return f"{count(ratio) if ratio >= 1000 else number(ratio)}x"


def ratio_figure(analysis: Mapping[str, Any]) -> Figure:
    """R of [CLS] by layer on a log axis: corrected with its interval, as measured, shuffled labels, reference figures."""
    changes = [layer["cls"]["change"] for layer in analysis["layers"]]
    places = np.array([layer["layer"] for layer in analysis["layers"]])
    said = [times(change["ratio_corrected"], change["share_corrected"]) for change in changes]
    ends = f"{said[0]} (layer 1)" + (f" to {said[-1]} (layer {len(said)})" if len(said) > 1 else "")
    figure = new_figure(4.6, f"FFNs move [CLS] of all texts alike {ends} as far as they move its classes apart")
    axes = figure.subplots()
    dress(axes, "both")
    axes.set_yscale("log")
    nulls = [[layer["null"][f"ratio_null_{end}"] for end in ("low", "high")] for layer in analysis["layers"]]
    low, high = np.array(nulls, dtype=float).T
    axes.fill_between(places, low, high, color=BAND, linewidth=0, zorder=1)
    for key, look in (("ratio", PLAIN), ("ratio_corrected", MENDED)):
        axes.plot(places, np.array([change[key] for change in changes], dtype=float), **look)
    if len(places) > 1:
        _reference(axes, len(places))
    drawn = [
        value for change in changes for value in (change["ratio"], change["ratio_corrected"], *change["ratio_ci95"])
    ]
    drawn = [value for value in [*drawn, *low, *high, *REFERENCE.values()] if value and np.isfinite(value)]
    bottom, top = min(drawn) / 2, max(drawn) * 2.2
    for place, change, text in zip(places, changes, said, strict=True):
        _point(axes, place, change, text, top)
    axes.set_ylim(bottom, top)
    axes.set_xlim(places[0] - 0.4, places[-1] + 0.6)
    axes.set_xticks(places)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("R = common over class-specific change\n(root of energies, log scale)")
    labels = LABELS.get(analysis["labels"], analysis["labels"])
    axes.set_xlabel(f"layer (n = {count(analysis['rows'])} calibration texts, classes: {labels})")
    mean = analysis["mean_share_cls"]
    said = f" (mean share {percent(mean)})" if mean is not None else ""
    handles = [
        Line2D([], [], label=f"corrected, 95 % jackknife interval{said}", **MENDED | {"marker": "D"}),
        Line2D([], [], label="as measured, biased by sampling", **PLAIN),
        Patch(facecolor=BAND, label=f"shuffled labels, 95 % (n = {count(analysis['sample_rows'])})"),
    ]
    if len(places) > 1:
        theirs = f"reference, BERT-base L{', L'.join(map(str, REFERENCE))} (mean share {100 * REFERENCE_SHARE:.0f} %)"
        handles.append(Line2D([], [], linestyle="", marker="X", color=REFERENCE_COLOUR, markersize=9, label=theirs))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure


def needed_figure(analysis: Mapping[str, Any]) -> Figure:
    """What a probe gains over each block against the predictions that change without it, and with its mean kept."""
    layers = analysis["layers"]
    removed, kept = ([removal_of(layer, kind) for layer in layers] for kind in ("removed", "means_kept"))
    figure = new_figure(5.2, needed_finding(layers))
    axes = figure.subplots()
    dress(axes, "both")
    axes.set_yscale(
        "function", functions=(lambda y: np.sign(y) * np.sqrt(np.abs(y)), lambda y: np.sign(y) * np.square(y))
    )
    axes.axvline(0, color=INK, linewidth=1.2, zorder=2)
    ends = [100 * bound for layer in layers for bound in layer["probe"]["difference_ci95"]]
    reach = max(ends) - min(ends) or 1.0
    left, right = min(*ends, 0) - 0.08 * reach, max(*ends, 0) + 0.08 * reach
    for layer, gone, mean in zip(layers, removed, kept, strict=True):
        _joined(axes, layer, gone, mean, 0.014 * (right - left))
    axes.set_xlim(left, right)
    axes.axvspan(left, 0, color=SKIPPED, alpha=0.06, linewidth=0, zorder=0)
    axes.text(0.01, 0.985, "looks harmful", transform=axes.transAxes, fontsize=9, color=SKIPPED, va="top")
    highest = max(100 * entry["flip_ci95"][1] for entry in (*removed, *kept))
    axes.set_ylim(0, 1.12 * highest)
    axes.set_yticks(_apart(1.12 * highest))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.set_ylabel(
        f"changed predictions without the block, %\n(square-root scale, n = {count(removed[0]['rows'])} evaluation texts)"
    )
    axes.set_xlabel(
        f"probe accuracy after minus before the block, points (paired, n = {count(layers[0]['probe']['rows'])} calibration texts)"
    )
    handles = [
        Line2D([], [], label="block of that layer removed", **REMOVED),
        Line2D([], [], label="only its mean output kept ([CLS] and other tokens)", **KEPT),
        Line2D([], [], color=MUTED, alpha=0.6, linewidth=1.4, label="95 % interval"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def needed_finding(layers: Sequence[Mapping[str, Any]]) -> str:
    """Return what the probes and the removals found together."""
    harmful = harmful_layers(layers)
    rates = [removal_of(layer, "removed")["flip_rate"] for layer in layers]
    if not harmful:
        return f"No FFN looks harmful to a probe; without one, {spread(rates)} of the predictions change"
    theirs = [rates[layer - 1] for layer in harmful]
    subject, verb, it = ("FFN", "looks", "it") if len(harmful) == 1 else ("FFNs", "look", "one of them")
    return (
        f"The {subject} of {layers_text(harmful)} {verb} harmful to a probe, but without {it} {spread(theirs)} of the "
        "predictions change"
    )


def harmful_layers(layers: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the layers behind whose block a probe is worse, beyond chance also for so many layers (Holm, 5 %)."""
    probes = {layer["layer"]: layer["probe"] for layer in layers}
    return [place for place, probe in probes.items() if probe["difference"] < 0 and probe["mcnemar_p_holm"] < 0.05]


def removal_of(layer: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    """Return one removal of a layer."""
    return next(entry for entry in layer["removal"] if entry["kind"] == kind)


def _reference(axes: Axes, layers: int) -> None:
    """Draw the published ratios, the reference model's first and last layer where this model has its own."""
    for layer, value in REFERENCE.items():
        place = 1 + (layer - 1) * (layers - 1) / (max(REFERENCE) - 1)
        axes.plot([place], [value], "X", color=REFERENCE_COLOUR, markersize=10, zorder=2, markeredgecolor="white")
        axes.annotate(f"L{layer}: {value:g}x", (place, value), (6, -11), textcoords="offset points", fontsize=8,
                      color=REFERENCE_COLOUR, zorder=2)  # fmt: skip


def _joined(
    axes: Axes, layer: Mapping[str, Any], gone: Mapping[str, Any], mean: Mapping[str, Any], aside: float
) -> None:
    """Draw one layer's two removals, the one that keeps the mean a little `aside`, and the probe's interval."""
    gain, bounds = 100 * layer["probe"]["difference"], [100 * bound for bound in layer["probe"]["difference_ci95"]]
    heights = [100 * entry["flip_rate"] for entry in (gone, mean)]
    axes.plot([gain, gain + aside], heights, color=MUTED, linewidth=1, linestyle=(0, (2, 2)), zorder=2)
    axes.plot(bounds, [heights[0]] * 2, color=COMPRESSED, alpha=0.45, linewidth=1.4, zorder=3)
    looks = ((gone, gain, COMPRESSED, REMOVED), (mean, gain + aside, SKIPPED, KEPT))
    for (entry, place, colour, look), height in zip(looks, heights, strict=True):
        bounds = [100 * bound for bound in entry["flip_ci95"]]
        axes.plot([place] * 2, bounds, color=colour, alpha=0.45, linewidth=1.4, zorder=3)
        axes.plot([place], [height], zorder=5, **look)
    axes.text(gain, heights[0], str(layer["layer"]), fontsize=9, color="white", fontweight="bold", ha="center", va="center",
              zorder=6)  # fmt: skip


def _point(axes: Axes, place: int, change: Mapping[str, Any], text: str, top: float) -> None:
    """Draw one corrected ratio; one without bound is an arrow at the upper edge."""
    low, high = change["ratio_ci95"]
    at = change["ratio_corrected"]
    if low is not None:
        axes.plot([place, place], [low, high or top], color=COMPRESSED, linewidth=1.8, zorder=4)
    if low is not None and high is None:
        axes.plot([place], [top / 1.15], "^", color=COMPRESSED, markersize=7, zorder=4)
    if at is not None:
        axes.plot([place], [at], "D", color=COMPRESSED, markersize=7, zorder=6, markeredgecolor="white")
    note = axes.annotate(text, (place, at or top / 1.3), (8, 5 if at else -6), textcoords="offset points", fontsize=9.5,
                         color=COMPRESSED, fontweight="bold", zorder=7)  # fmt: skip
    note.set_path_effects([withStroke(linewidth=3, foreground="white")])


def _apart(top: float) -> list[float]:
    """Return round percentages from 0 to `top` that stand apart on a square-root axis."""
    chosen = [0.0]
    for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 50, 75, 100):
        if tick <= top and tick**0.5 - chosen[-1] ** 0.5 > 0.06 * top**0.5:
            chosen.append(tick)
    return chosen
