"""An analysis on the terminal: its reading and its tables."""

from compressor.cli.tables import FEW, Column, Grid
from compressor.report.sections.section import Section, SectionTable


def section_lines(section: Section) -> list[Grid | str]:
    """Return the reading and every table that a page would not fold away."""
    return [section.reading, "", *(section_table(table) for table in section.tables if not table.folded)]


def section_table(table: SectionTable) -> Grid:
    """Return a section's table: words to the left, numbers to the right; where there is little room the last go first."""
    columns = [
        Column(name, index in table.text_columns, max(0, index - FEW + 1)) for index, name in enumerate(table.columns)
    ]
    return Grid(table.title, columns, table.rows)
