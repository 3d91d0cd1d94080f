"""The figure of `compressor bench`: speed-ups with their intervals over the noise of each opponent, a panel a cell."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from compressor.report.figures.style import BAND, COMPRESSED, INK, MUTED, cell_panels, new_figure
from compressor.report.formats import cell_name, claimed_text, ratio, short_names, span

WIDEST = 3.0
"""Spread of speed-ups from which on a logarithmic axis shows them better."""


def bench_figure(
    latency: Mapping[str, Sequence[Mapping[str, Any]]], noise_floor: Sequence[Mapping[str, Any]]
) -> Figure:
    """Speed-up of every compared model with its 95 % interval, hollow where it is not claimed, one panel a cell.

    `latency` and `noise_floor` are those of a Benchmark. The band is the opponent's A/A interval, either way round: a
    speed-up is claimed where its whole interval lies to the right of the band. Raises ValueError where nothing was
    compared.
    """
    noise = {(row["model"], _cell(row)): row["ci95"] for row in noise_floor}
    rows = [
        {**row, "name": name, "band": _band(noise[row["against"], _cell(row)])}
        for name, cells in latency.items()
        for row in cells
        if row["speedup_ci95"]
    ]
    if not rows:
        raise ValueError("a figure of speed-ups needs a comparison")
    names, cells = ([*dict.fromkeys(values)] for values in ((row["name"] for row in rows), map(_cell, rows)))
    shown, columns = _labels(rows), 2 if len(cells) == 4 else min(3, len(cells))
    lines = -(-len(cells) // columns)
    two_lines = any("\n" in label for label in shown.values())
    figure = new_figure(1.3 + lines * (0.75 + (0.46 if two_lines else 0.34) * len(names)), finding(rows))
    panels = cell_panels(figure, cells, columns, sharex=True)
    bounds = [bound for row in rows for bound in row["speedup_ci95"]]
    logarithmic = max(bounds) / min(bounds) > WIDEST
    for axes, cell in zip(panels, cells, strict=True):
        axes.axvline(1, color=INK, linewidth=1.2, zorder=2)
        for row in (row for row in rows if _cell(row) == cell):
            height = len(names) - 1 - names.index(row["name"])
            axes.fill_betweenx([height - 0.45, height + 0.45], *row["band"], color=BAND, linewidth=0, zorder=1)
            axes.plot(row["speedup_ci95"], [height, height], color=COMPRESSED, linewidth=2.2, zorder=3)
            axes.plot([row["speedup"]], [height], "o", markersize=7, markeredgecolor=COMPRESSED, markeredgewidth=1.6,
                      markerfacecolor=COMPRESSED if row["claimed"] else "white", zorder=4)  # fmt: skip
            axes.annotate(ratio(row["speedup"]), (max(row["speedup_ci95"][1], row["speedup"]), height), (6, 0),
                          textcoords="offset points", fontsize=8.5, va="center", color=INK, zorder=5)  # fmt: skip
        axes.set_ylim(-0.6, len(names) - 0.2)
        axes.set_yticks(range(len(names)), [shown[name] for name in reversed(names)], fontsize=8.5)
        axes.tick_params(labelbottom=True)
        if logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(4))
    left, right = panels[0].get_xlim()  # all panels share it
    room = (right / left) ** 0.15 if logarithmic else 1 + 0.15 * (right - left) / right
    panels[0].set_xlim(left, right * room)  # for the numbers
    handles = [
        Line2D([], [], linestyle="", marker="o", color=COMPRESSED, label="claimed"),
        Line2D(
            [], [], linestyle="", marker="o", markerfacecolor="white", color=COMPRESSED, label="hollow: not claimed"
        ),
        Patch(facecolor=BAND, label="noise floor of the opponent (A/A)"),
    ]
    found = figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize=9,
                          title=_axis(rows), title_fontsize=9.5, alignment="left")  # fmt: skip
    found.get_title().set_color(MUTED)
    return figure


def finding(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the title: the spread of what is claimed, and how many are slower by more than the noise.

    `rows` hold {speedup, speedup_ci95, claimed, band}, the band being the noise floor either way round.
    """
    return claimed_text([{**row, "slower": row["speedup_ci95"][1] < row["band"][0]} for row in rows])


def _names(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    return short_names([*dict.fromkeys(row[key] for key in ("name", "against") for row in rows)])


def _labels(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return name -> label beside the axis; the opponent stands below it where not all have the same."""
    rivals, short = {row["name"]: row["against"] for row in rows}, _names(rows)
    if len(set(rivals.values())) == 1:
        return {name: short[name] for name in rivals}
    return {name: f"{short[name]}\nover {short[rival]}" for name, rival in rivals.items()}


def _axis(rows: Sequence[Mapping[str, Any]]) -> str:
    rivals, runs = {row["against"] for row in rows}, [row["runs"] for row in rows]
    over = f"over {_names(rows)[next(iter(rivals))]} " if len(rivals) == 1 else ""
    return f"speed-up {over}(ratio of latencies, 95 % interval; n = {span(str, runs)} runs)"


def _band(noise: Sequence[float]) -> tuple[float, float]:
    low, high = noise
    return min(1.0, low, 1 / high), max(1.0, high, 1 / low)


def _cell(row: Mapping[str, Any]) -> str:
    return cell_name(row["batch"], row["length"])
