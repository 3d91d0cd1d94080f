"""The analyses of a run or of one command as sections, and the page of their own that `compressor analyze --out` writes."""

from collections.abc import Callable, Mapping
from typing import Any

from compressor.report.figures import style
from compressor.report.sections.errors import errors_section
from compressor.report.sections.ffn import ffn_section
from compressor.report.sections.placement import placement_section
from compressor.report.sections.roles import roles_section
from compressor.report.sections.section import Section

SECTIONS: dict[str, Callable[[Mapping[str, Any]], Section]] = {  # keys = Recipe.analysis, and placement
    "errors": errors_section,
    "ffn": ffn_section,
    "roles": roles_section,
    "placement": placement_section,
}


def drawn_sections(analysis: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the sections of the analyses that are there, in the order of the table, figures as PNG bytes by name."""
    sections = [make(analysis[name]) for name, make in SECTIONS.items() if analysis.get(name)]
    return [
        {**vars(section), "drawn": [{"name": name, **style.picture(made)} for name, made in section.figures.items()]}
        for section in sections
    ]


def figure_files(sections: list[dict[str, Any]]) -> dict[str, bytes]:
    """Return file name -> PNG of every figure of drawn sections; names begin with that of the analysis."""
    return {f"{figure['name']}.png": figure["png"] for section in sections for figure in section["drawn"]}
