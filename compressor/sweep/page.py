"""sweep.html: the picture of all points, and a table of them that sorts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.files import write_files, write_text
from compressor.report.build import TEMPLATES, render_page
from compressor.report.figures import style
from compressor.sweep.figure import pareto_figure
from compressor.sweep.result import PAGE

SCRIPT = (TEMPLATES / "sweep.js").read_text(encoding="utf-8")
"""Sorts the table by the column whose heading is clicked."""


def build_page(folder: Path, result: Mapping[str, Any]) -> list[Path]:
    """Write sweep.html and its figure from the content of sweep.json; return their paths."""
    timed = [row for row in result["points"] if row["speedup"] is not None]
    drawn = style.picture(pareto_figure(timed, result["front"])) if timed else None
    keys = list(
        dict.fromkeys(key for row in result["points"] for key, value in row["place"].items() if value is not None)
    )
    context = {
        **result,
        "figure": drawn,
        "keys": keys,
        "failed": [row for row in result["points"] if row["state"] == "failed"],
    }
    write_text(folder / PAGE, render_page("sweep.html.j2", SCRIPT, context))
    pictures = write_files(folder / "figures", {"sweep.png": drawn["png"]}) if drawn else []
    return [folder / PAGE, *pictures]
