"""The figure of the guarded early exit: changed predictions against saved work along the path of thresholds."""

import numpy as np
from matplotlib.figure import Figure

from compressor.report.figures.style import BAND, COMPRESSED, FULL, INK, MUTED, SKIPPED, dress, new_figure
from compressor.report.formats import count, percent
from compressor.report.wording.cascade import cascade_finding


def cascade_figure(cascade: dict) -> Figure:
    """Share of changed predictions and its upper bound over the encoder work saved, on the certification rows.

    `cascade` is that of result.json. Points are the thresholds of the path in their order, filled where they were
    tested; the chosen point is the last whose bound is at most `max_flips`. The evaluation split stands beside it.
    """
    certificate, measured, path = cascade["certificate"], cascade["evaluation"], cascade["path"]
    figure = new_figure(4.9, cascade_finding(cascade))
    axes = figure.subplots()
    dress(axes, "both")
    saved = np.array([100 * (1 - point["work"]) for point in path])
    flips, bounds = (np.array([100 * point[key] for point in path]) for key in ("flips", "bound"))
    tested = np.array([point["tested"] for point in path])
    limit, confidence = 100 * certificate["max_flips"], f"{100 * certificate['confidence']:g} %"
    order = np.argsort(saved, kind="stable")
    axes.fill_between(saved[order], flips[order], bounds[order], color=BAND, linewidth=0, zorder=1)
    axes.plot(saved[order], bounds[order], color=COMPRESSED, linewidth=1.4, linestyle=(0, (4, 2)), zorder=3,
              label=f"upper bound of that share at {confidence} confidence")  # fmt: skip
    texts = f"changed on {count(certificate['rows'])} certification texts"
    for chosen, fill, word in ((tested, COMPRESSED, "tested"), (~tested, "white", "not tested")):
        if chosen.any():
            axes.plot(saved[chosen], flips[chosen], "o", markersize=5, markerfacecolor=fill, markeredgecolor=COMPRESSED,
                      linestyle="", zorder=4, label=f"{texts}, {word}")  # fmt: skip
    axes.axhline(limit, color=SKIPPED, linewidth=1.4, zorder=2, label=f"allowed: {percent(certificate['max_flips'])}")
    if certificate["met"]:
        at = 100 * (1 - certificate["work"])
        axes.plot([at, at], [100 * certificate["flips"] / certificate["rows"], 100 * certificate["bound"]], color=INK,
                  linewidth=1.6, zorder=5)  # fmt: skip
        axes.plot([at], [100 * certificate["bound"]], "D", markersize=9, markerfacecolor="white", markeredgecolor=INK,
                  markeredgewidth=1.8, linestyle="", zorder=6, label="chosen: the last whose bound is allowed")  # fmt: skip
    at, value = 100 * (1 - measured["work"]), 100 * measured["flip_rate"]
    low, high = (100 * bound for bound in measured["flip_ci95"])
    axes.plot([at, at], [low, high], color=FULL, linewidth=2.4, zorder=5)
    axes.plot([at], [value], "s", markersize=8, color=FULL, markeredgecolor=INK, linestyle="", zorder=7,
              label=f"evaluation, n = {count(measured['rows'])} (95 % interval)")  # fmt: skip
    axes.set_ylim(0, 1.06 * max(high, 2.2 * limit, value))
    axes.set_xlabel("encoder work saved, % of the full model's FLOPs at real lengths")
    axes.set_ylabel("predictions that differ\nfrom the full model's, %")
    axes.axvline(0, color=MUTED, linewidth=0.8)
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    return figure
