"""An analysis on the terminal: its reading and its tables."""

from rich.table import Table

from compressor.cli.tables import text_table
from compressor.report.sections.section import Section, SectionTable


def section_lines(section: Section) -> list[Table | str]:
    """Return the reading and every table that a page would not fold away."""
    tables = [section_table(table) for table in section.tables if not table.folded]
    return [section.reading, *tables]


def section_table(table: SectionTable) -> Table:
    """Return a section's table: words to the left, numbers to the right."""
    made = text_table(table.title, table.columns, table.rows)
    for index, column in enumerate(made.columns):
        column.justify = "left" if index in table.text_columns else "right"
    return made
