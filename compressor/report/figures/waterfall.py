"""The picture of an answer's factors: what runs today at the left, a step for each factor, what is shipped at the right."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from compressor.report.formats import milliseconds, ratio

HEIGHT, TOP = 96, 20
"""Height in pixels that the longest time takes, and the room above it for a number."""
BAR = 0.62
"""Share of a column that its bar takes."""


def waterfall(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return {columns, rows, height}: the columns of the picture, its lines of text below them, its height in pixels.

    `steps` are those of `tables.first.steps`: times in ms, the first what runs today. A column has {kind, x, width, y,
    height, level, number, lines}: `x` and `width` in percent of the whole width, `y`, `height` and `level` (the time
    that it leads to) in pixels from the top; `kind` is `today`, `saved`, `lost` or `now`. Widths are shares so that the
    picture fits every page without making its text smaller.
    """
    longest = max(step["to_ms"] for step in steps)
    ends = [("today", 0.0, steps[0]["to_ms"], _ms(steps[0]["to_ms"]), ["today"])]
    for before, step in pairwise(steps):
        low, high = sorted((before["to_ms"], step["to_ms"]))
        faster = step["to_ms"] <= before["to_ms"]
        sign = "−" if faster else "+"
        words = [*textwrap.wrap(step["name"], 10 if len(steps) < 6 else 7), ratio(step["ratio"])]
        ends.append(("saved" if faster else "lost", low, high, f"{sign}{_ms(high - low)}", words))
    ends.append(("now", 0.0, steps[-1]["to_ms"], _ms(steps[-1]["to_ms"]), ["shipped"]))
    column = 100 / len(ends)
    made = []
    for index, (kind, low, high, number, words) in enumerate(ends):
        y, bottom = (TOP + HEIGHT * (1 - value / longest) for value in (high, low))
        made.append(
            {
                "kind": kind,
                "x": round(index * column + (1 - BAR) / 2 * column, 2),
                "width": round(BAR * column, 2),
                "centre": round((index + 0.5) * column, 2),
                "y": round(y, 1),
                "height": round(max(bottom - y, 1.5), 1),
                "level": round(bottom if kind == "saved" else y, 1),
                "number": number,
                "lines": words,
            }
        )
    rows = max(len(entry["lines"]) for entry in made)
    return {"columns": made, "floor": TOP + HEIGHT, "height": TOP + HEIGHT + 8 + 15 * rows}


def _ms(time: float) -> str:
    return milliseconds(time).removesuffix(" ms")
