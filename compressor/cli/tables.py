"""Tables and texts that several commands print."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table whose first column is text and whose others are numbers."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def text_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Return a table of words: the last column wraps where the terminal is narrow."""
    made = Table(title=title, title_justify="left", show_header=any(columns))
    for index, column in enumerate(columns):
        made.add_column(column, no_wrap=index < len(columns) - 1, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def accuracy_text(variant: Mapping[str, Any]) -> str:
    """Return the accuracy of a variant with its interval."""
    if variant["accuracy"] is None:
        return "no labels"
    low, high = variant["accuracy_ci95"]
    return f"{variant['accuracy']:.1%} [{low:.1%}, {high:.1%}]"


def speedup_text(row: Mapping[str, Any] | None) -> str:
    """Return the speed-up of a latency row with its interval; nothing where the row was compared with none."""
    if not row or not row["speedup_ci95"]:
        return ""
    low, high = row["speedup_ci95"]
    mark = "" if row["claimed"] else " (slower)" if row.get("slower") else " (noise)"
    return f"{row['speedup']:.2f}x [{low:.2f}, {high:.2f}]{mark}"
