"""What commands print: results on stdout, progress and errors on stderr."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.table import Table


def say(line: str) -> None:
    """Print a line on stderr."""
    typer.echo(line, err=True)


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print a value as JSON on stdout; where that is not UTF-8, with other signs than ASCII in the form that JSON has."""
    whole = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(value, indent=1, ensure_ascii=not whole))


def show(*parts: "Table | str | Path") -> None:
    """Print tables and sentences on stdout, paths unbroken."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    # a pipe or a narrow window would cut numbers off; tables then keep their own width
    if not console.is_terminal:
        console = Console(width=max(console.width, 160))
    for part in parts:
        console.print(part, soft_wrap=not isinstance(part, Table), markup=False, highlight=False)
