"""How every figure of a report looks: colours, size, axes, and the bytes it is stored as.

Colours are the Okabe-Ito set; shape, hatching or fill repeats what colour says. The background is white everywhere.
"""

import base64
import io
import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, BAND = "#222222", "#5f6368", "#e3e5e8", "#e6e0f0"
FULL, COMPRESSED, SKIPPED = "#8a8f98", "#0072b2", "#d55e00"
WIDTH, DPI = 8.6, 150


def png(figure: Figure) -> bytes:
    """Return the figure as PNG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    # matplotlib writes its own version into the file unless told not to
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def picture(figure: Figure) -> dict[str, Any]:
    """Return a figure as pages take it: its title, the PNG, and the PNG as text."""
    data = png(figure)
    return {"title": " ".join(figure.get_suptitle().split()), "png": data, "base64": base64.b64encode(data).decode()}


def new_figure(height: float, title: str) -> Figure:
    """Return an empty figure of `height` inches whose title states what it shows."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")
    figure.suptitle("\n".join(textwrap.wrap(title, 84)), x=0.01, ha="left", fontsize=12, fontweight="bold", color=INK)
    return figure


def dress(axes: Axes, grid: str) -> None:
    """Give the axes their grid (along `x`, `y` or `both`), spines and text colours."""
    axes.grid(axis=grid, color=GRID, linewidth=0.9)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(colors=INK, labelsize=9)
    for label in (axes.xaxis.label, axes.yaxis.label):
        label.set(color=MUTED, fontsize=9.5)


def label_below(figure: Figure, text: str, size: float = 9.5) -> None:
    """Say below all panels what their x axes show."""
    figure.supxlabel(text, x=0.01, ha="left", fontsize=size, color=MUTED)


def cell_panels(figure: Figure, cells: Sequence[str], columns: int, *, sharex: bool = False) -> list[Axes]:
    """Return a panel for each cell, its name above it, in rows of `columns`."""
    panels = figure.subplots(-(-len(cells) // columns), columns, sharex=sharex, sharey=True, squeeze=False).ravel()
    for axes, cell in zip(panels, cells, strict=False):
        dress(axes, "x")
        axes.set_title(cell, fontsize=9.5, color=INK, loc="left")
    for axes in panels[len(cells) :]:
        axes.set_axis_off()
    return list(panels[: len(cells)])


def legend(axes: Axes, handles: list | None) -> None:
    """Put a legend where the axes have room; without `handles`, of what is labelled."""
    axes.legend(handles=handles, loc="best", fontsize=9, frameon=True, framealpha=0.9, edgecolor=GRID)
