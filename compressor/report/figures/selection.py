"""The figures on the choice of layers: separability, audit of the scores, frontier; made like those of `figures`."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from compressor.report.figures.style import (
    BAND,
    COMPRESSED,
    FULL,
    GRID,
    INK,
    MUTED,
    SKIPPED,
    dress,
    label_below,
    legend,
    new_figure,
)
from compressor.report.formats import correlation, count, layers_text, number, score_name
from compressor.report.tables.selection import DOWNSTREAM, OWN, row_rho
from compressor.report.wording.selection import audit_finding, frontier_finding

SCORE_AXES = {
    "trace_ratio": "separability, tr(S_b) / tr(S_w)",
    "shrunk_fisher": "separability, tr(S_w⁻¹ S_b)",
    "h_score": "separability, H-score",
    "linear_probe": "separability, linear probe accuracy",
    "pooled_trace_ratio": "separability of all tokens, tr(S_b) / tr(S_w)",
}
SERIES_STYLES = {
    OWN: {"color": COMPRESSED, "marker": "D", "linewidth": 2.6, "markersize": 8, "zorder": 4},
    DOWNSTREAM: {"color": "#7b3294", "marker": "p"},
    "block_influence": {"color": "#e69f00", "marker": "s"},
    "cka": {"color": "#009e73", "marker": "^"},
    "top_first": {"color": "#cc79a7", "marker": "v"},
    "every_other": {"color": "#56b4e9", "marker": "P"},
    "random": {"color": MUTED, "marker": "x", "linestyle": (0, (4, 3))},
}
SEARCH_STYLES = ({"color": INK, "marker": "o"}, {"color": INK, "marker": "o", "linestyle": (0, (1, 1.5))})
OTHER_STYLE = {"color": FULL, "marker": "h"}
MIX_PANELS = {"heads": "a layer's heads", "neurons": "a layer's neurons"}
LEAST_DAMAGE = 1e-7
"""Nats below which nothing is told apart."""
AGREEMENT_TICKS = (100, 99, 98, 95, 90, 80, 70, 60, 50, 40, 30, 20, 10, 0)


def separability_figure(layers: list[dict], skip: list[int], score: str, rows: int | None) -> Figure:
    """Curve of the separability over states 0..L above bars of each layer's gain; skipped layers are marked in both.

    `layers` holds {layer, separability, gain} with state 0 first and its gain None.
    """
    states = [row["layer"] for row in layers]
    values = np.array([row["separability"] for row in layers], dtype=float)
    steps = [(row["layer"], row["gain"]) for row in layers if row["gain"] is not None]
    title = "Separability of the classes at the [CLS] state"
    total = sum(gain for _, gain in steps)
    if skip and total > 0:
        lost = sum(gain for layer, gain in steps if layer in skip)
        verb = "adds" if len(skip) == 1 else "add"
        title = (
            f"Skipped {layers_text(skip)} {verb} {number(lost)} of the {number(total)} that all {len(steps)} layers add"
        )
    figure = new_figure(4.9, title)
    curve, bars = figure.subplots(2, 1, sharex=True, height_ratios=[1.5, 1])
    for axes in (curve, bars):
        dress(axes, "y")
        for layer in skip:
            axes.axvspan(layer - 0.5, layer + 0.5, color=SKIPPED, alpha=0.10, linewidth=0)
    curve.plot(states, values, color=COMPRESSED, linewidth=2, zorder=3)
    for state, value in zip(states, values, strict=True):
        fill = "white" if state in skip else COMPRESSED
        edge = SKIPPED if state in skip else COMPRESSED
        curve.plot(
            [state], [value], "o", markersize=7, markerfacecolor=fill, markeredgecolor=edge, markeredgewidth=2, zorder=4
        )
    curve.set_ylabel(SCORE_AXES.get(score, f"separability, {score_name(score)}").replace(", ", "\n"))
    curve.axhline(0, color=MUTED, linewidth=0.8)
    for layer, gain in steps:
        skipped = layer in skip
        bars.bar(layer, gain, 0.62, color="white" if skipped else COMPRESSED, edgecolor=SKIPPED if skipped else COMPRESSED,
                 hatch="///" if skipped else None, linewidth=1.4, zorder=3)  # fmt: skip
    bars.axhline(0, color=MUTED, linewidth=0.8)
    bars.set_ylabel("gain of the layer\n(same unit)")
    sample = f"; n = {count(rows)} calibration texts" if rows else ""
    bars.set_xlabel(f"state (0 = embeddings, l = output of layer l){sample}")
    bars.set_xticks(states)
    kept = Line2D([], [], color=COMPRESSED, marker="o", linewidth=2, label="kept layer")
    gone = Patch(facecolor="white", edgecolor=SKIPPED, hatch="///", label="skipped layer")
    legend(curve, [kept, gone] if skip else [kept])
    return figure


def mix_figure(rows: list[dict], layers: int) -> Figure | None:
    """Curves of the damage by what stays of every block, a line a layer and a panel a kind of block; the chosen marked.

    `rows` are those of `tables.part_amounts`. None where no layer has two amounts of anything.
    """
    panels = {kind: title for kind, title in MIX_PANELS.items() if any(row["kind"] == kind for row in rows)}
    if not panels:
        return None
    figure = new_figure(3.6, "What each layer does to the answer with fewer heads and neurons, each alone")
    shades = colormaps["viridis"](np.linspace(0.05, 0.9, layers))
    for axes, (kind, title) in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True
    ):
        dress(axes, "both")
        for layer in range(1, layers + 1):
            own = sorted(
                (row["left"], max(row["damage"], LEAST_DAMAGE), row["chosen"])
                for row in rows
                if (row["kind"], row["layer"]) == (kind, layer)
            )
            colour, label = shades[layer - 1], f"layer {layer}"
            axes.plot([row[0] for row in own], [row[1] for row in own], color=colour, linewidth=1.6, label=label)
            marked = [row[:2] for row in own if row[2]]
            axes.plot(
                *np.array(marked).reshape(-1, 2).T, "o", color=colour, markeredgecolor=INK, markersize=7, zorder=4
            )
        axes.set_yscale("log")
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"share of {title} that stays; ● chosen")
    figure.axes[0].set_ylabel("damage alone, nats\n(second order)")
    figure.axes[0].legend(fontsize=7.5, ncols=2 if layers > 8 else 1, frameon=False, loc="lower left")
    return figure


def audit_figure(rows: list[dict]) -> Figure:
    """Forest of every score's rank correlation with the measured damage: single layers beside blocks of layers.

    `rows` are those of `tables.audit_rows`, drawn in their order; damage is the KL after the readout.
    """
    figure = new_figure(1.45 + 0.27 * len(rows), audit_finding(rows))
    panels = figure.subplots(1, 2, sharey=True)
    meanings = {"layers": "single layers", "blocks": "all blocks of neighbouring layers"}
    heights = np.arange(len(rows))[::-1]
    for axes, (units, meaning) in zip(panels, meanings.items(), strict=True):
        dress(axes, "x")
        axes.axvline(0, color=INK, linewidth=1.2, zorder=2)
        for height, row in zip(heights, rows, strict=True):
            value, own = row_rho(row, units), row["score"] == OWN
            colour = COMPRESSED if own else MUTED
            if value["rho"] is not None:
                if value["ci95"]:
                    axes.plot(value["ci95"], [height, height], color=colour, linewidth=3 if own else 1.8, zorder=3,
                              solid_capstyle="butt")  # fmt: skip
                axes.plot(
                    [value["rho"]], [height], "D" if own else "o", color=colour, markersize=8 if own else 6.5, zorder=4
                )
            said = correlation(value["rho"]) if value["rho"] is not None else "undefined"
            axes.text(1.01, height, said, transform=axes.get_yaxis_transform(), va="center", fontsize=8.5, color=colour,
                      fontweight="bold" if own else "normal")  # fmt: skip
        axes.set_xlim(-1.04, 1.04)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        sizes = sorted({row_rho(row, units)["n"] for row in rows} - {None})
        n = f" (n = {' to '.join(map(count, dict.fromkeys((sizes[0], sizes[-1]))))})" if sizes else ""
        axes.set_title(f"{meaning}{n}", fontsize=9.5, color=INK, loc="left")
    panels[0].set_yticks(heights, [row["name"] for row in rows])
    for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        if row["score"] == OWN:
            label.set(color=COMPRESSED, fontweight="bold")
    label_below(
        figure, "Spearman rho of a score and the measured damage (KL after the readout); 95 % bootstrap interval"
    )
    return figure


def frontier_figure(frontier: dict, shown: list[str], layers: int, rows: int, chosen: dict | None) -> Figure:
    """Agreement with the full model against encoder FLOPs and, where it is known, against predicted latency.

    `frontier` is that of `tables.frontier_rows`, which must hold the full model; `shown` names the series to draw;
    `layers` and `rows` count the full model's layers and the texts; `chosen` is the plan's {skip, agreement}. The
    vertical scale is the square root of the share of changed predictions: the sets worth having are near the top.
    """
    figure = new_figure(5.0, frontier_finding(frontier, layers))
    timed = frontier["cell"] is not None
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    lowest = min(row["cells"][key]["agreement"] for row in frontier["rows"] for key in shown if key in row["cells"])
    places = {row["size"]: (100 * row["flops_share"], row["predicted_ms"]) for row in frontier["rows"]}
    for index, axes in enumerate(panels):
        dress(axes, "both")
        axes.set_yscale("function", functions=(_from_agreement, _to_agreement))
        axes.set_ylim(100 * lowest - 2, 100.02)
        axes.set_yticks([tick for tick in AGREEMENT_TICKS if tick >= 100 * lowest - 2])
        axes.yaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        at = {size: place[index] for size, place in places.items() if place[index] is not None}
        for key in shown:
            _series(axes, frontier, key, at)
        if chosen and len(chosen["skip"]) in at:
            axes.plot([at[len(chosen["skip"])]], [100 * chosen["agreement"]], "o", markersize=15, markerfacecolor="none",
                      markeredgecolor=SKIPPED, markeredgewidth=2, zorder=6, clip_on=False)  # fmt: skip
        step = -(-len(at) // 13)
        top = axes.secondary_xaxis("top")
        top.set_xticks([at[size] for size in sorted(at)[::step]], [str(size) for size in sorted(at)[::step]])
        top.tick_params(length=3, labelsize=9, colors=INK)
        top.spines["top"].set_color(GRID)
        top.set_xlabel("layers skipped", fontsize=9.5, color=MUTED)
    panels[0].set_ylabel(f"agreement with the full model, %\n(selection split, after readout, n = {count(rows)})")
    panels[0].set_xlabel("encoder FLOPs, % of the full model")
    if timed:
        panels[1].set_xlabel(f"predicted latency, ms ({frontier['cell']})")
    figure.legend(
        handles=_handles(frontier, shown, chosen), loc="outside lower center", ncols=4, frameon=False, fontsize=9
    )
    return figure


def _series(axes: Axes, frontier: dict, key: str, at: dict[int, float]) -> None:
    points = [
        (at[row["size"]], row["cells"][key]) for row in frontier["rows"] if key in row["cells"] and row["size"] in at
    ]
    places = [place for place, _ in points]
    if [key] == frontier["searches"][:1]:
        bounds = 100 * np.array([row["agreement_ci95"] or [row["agreement"]] * 2 for _, row in points])
        axes.fill_between(places, bounds[:, 0], bounds[:, 1], color=BAND, linewidth=0, zorder=1)
    axes.plot(places, [100 * row["agreement"] for _, row in points], **_style(frontier, key), clip_on=False)


def _style(frontier: dict, key: str) -> dict:
    if key in frontier["searches"]:
        index = min(frontier["searches"].index(key), len(SEARCH_STYLES) - 1)
        return {"linewidth": 4, "markersize": 8, "zorder": 3, **SEARCH_STYLES[index]}
    # thin lines lie on top of thick ones: where two series skip the same layers, both can be seen
    return {"linewidth": 1.2, "markersize": 4.5, "zorder": 5, **SERIES_STYLES.get(key, OTHER_STYLE)}


def _handles(frontier: dict, shown: list[str], chosen: dict | None) -> list:
    handles = [Line2D([], [], label=frontier["series"][key], **_style(frontier, key)) for key in shown]
    if frontier["searches"]:
        handles.insert(1, Patch(facecolor=BAND, label="its 95 % interval"))
    if chosen:
        handles.append(Line2D([], [], linestyle="", marker="o", markersize=11, markerfacecolor="none", markeredgecolor=SKIPPED,
                              markeredgewidth=2, label="chosen plan"))  # fmt: skip
    return handles


def _from_agreement(percents: np.ndarray) -> np.ndarray:
    changed = 100 - np.asarray(percents, dtype=float)
    return -np.sign(changed) * np.sqrt(np.abs(changed))


def _to_agreement(places: np.ndarray) -> np.ndarray:
    return 100 + np.sign(places) * np.square(places)
