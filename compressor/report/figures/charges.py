"""The figure of node charges: what each node of a folded head adds to some changed and some wrong predictions."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from compressor.report.figures.style import COMPRESSED, INK, MUTED, SKIPPED, dress, new_figure
from compressor.report.formats import cut, number, percent

FOR, AGAINST, BIAS = (COMPRESSED, "#56b4e9"), (SKIPPED, "#f0a36b"), "#c9cdd3"
"""Neighbours in a stack alternate between two shades, so that their borders show."""
KINDS = {"flipped": "changed", "confident_wrong": "confidently wrong"}
"""Kind of an example in result.json -> what the report calls it."""


def margin_charges(example: dict) -> tuple[np.ndarray, float]:
    """Return what each node [K], and what the bias, give the predicted class over the runner-up."""
    first, second = np.argsort(-np.array(example["logits"]), kind="stable")[:2]
    charges, bias = np.array(example["charges"]), example["bias"]
    return charges[:, first] - charges[:, second], bias[first] - bias[second]


def charges_figure(examples: list[dict]) -> Figure:
    """Charges of every node towards the predicted class, stacked to both sides of 0; their sum is the margin.

    `examples` is `explain` of result.json: {id, kind, full, compressed, logits [C], charges [K, C], bias [C]}.
    """
    groups = {kind: [row for row in examples if row["kind"] == kind] for kind in KINDS}
    groups = {kind: rows for kind, rows in groups.items() if rows}
    said = []
    for kind, rows in groups.items():
        margins = sorted(float(sum(values) + bias) for values, bias in map(margin_charges, rows))
        spread = number(margins[0]) + (f" to {number(margins[-1])}" if len(margins) > 1 else "")
        said.append(f"{spread} where it {'is ' if kind == 'confident_wrong' else ''}{KINDS[kind]}")
    figure = new_figure(
        1.7 + 0.35 * len(groups) + 0.42 * len(examples), f"Lead of the prediction in logits: {', '.join(said)}"
    )
    panels = figure.subplots(
        len(groups), 1, sharex=True, squeeze=False, height_ratios=[len(rows) + 0.6 for rows in groups.values()]
    )[:, 0]
    # of a bar, from its left to its right end
    reach = max(float(np.abs(values).sum() + abs(bias)) for values, bias in map(margin_charges, examples))
    for axes, (kind, rows) in zip(panels, groups.items(), strict=True):
        dress(axes, "x")
        axes.set_title(f"{KINDS[kind]} predictions", fontsize=9.5, color=INK, loc="left")
        for height, row in zip(range(len(rows))[::-1], rows, strict=True):
            _bar(axes, height, row, reach)
        axes.axvline(0, color=INK, linewidth=1.2)
        axes.set_yticks(range(len(rows))[::-1], [_name(row) for row in rows])
        for label in axes.get_yticklabels():
            label.set_parse_math(False)  # a dollar sign in a name is no formula
        axes.set_ylim(-0.6, len(rows) - 0.4)
    panels[-1].set_xlabel("charge to the predicted class less that to the runner-up, in logits (numbers: nodes)")
    handles = [
        Patch(color=FOR[0], label="node for the prediction"),
        Patch(color=AGAINST[0], label="node against it"),
        Patch(facecolor=BIAS, edgecolor=MUTED, hatch="////", label="bias"),
        Line2D([], [], linestyle="", marker="D", markerfacecolor="white", markeredgecolor=INK, label="sum = margin"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure


def _bar(axes: Axes, height: int, row: dict, reach: float) -> None:
    values, bias = margin_charges(row)
    ends = {True: 0.0, False: 0.0}  # of the stack for the prediction, and of that against it
    for node, value in enumerate([*values, bias]):
        towards, is_bias = value >= 0, node == len(values)
        start, ends[towards] = ends[towards], ends[towards] + value
        look = {"facecolor": (FOR if towards else AGAINST)[node % 2], "edgecolor": "white"}
        if is_bias:
            look = {"facecolor": BIAS, "edgecolor": MUTED, "hatch": "////"}
        axes.barh(height, value, 0.56, left=start, linewidth=0.5, zorder=3, **look)
        if not is_bias and abs(value) > 0.035 * reach:
            axes.text(start + value / 2, height, str(node), fontsize=7.5, color="white" if node % 2 == 0 else INK,
                      ha="center", va="center", zorder=5)  # fmt: skip
    # at the lower edge, where it hides no number
    axes.plot(
        [values.sum() + bias], [height - 0.3], "D", markersize=6, markerfacecolor="white", markeredgecolor=INK, zorder=6
    )


def _name(row: dict) -> str:
    own, full, share = row["compressed"]["label"], row["full"]["label"], percent(row["compressed"]["confidence"])
    said = f"{full} → {own}" if row["kind"] == "flipped" else f"{own}, gold {row['label']}"
    return f"{cut(row['id'], 28)}\n{cut(said, 34)}, {share}"
