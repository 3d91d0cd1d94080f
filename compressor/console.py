"""What commands print: results on stdout, progress and errors on stderr.

In a terminal lines end between words, and tables fit (`compressor.cli.tables`). Where nobody looks at a window, a sentence is
a line and tables have room. A width in the environment (COLUMNS) counts as a window.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from compressor.errors import plain

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

ROOM = 160
"""Columns of a table in a pipe or a file."""
TOKEN = re.compile(r"\d\S* (?:MB|GiB|GF|M|ms|s|%|points)(?!\w)\S*|\S*\[[-+\u2212\d.,x% ]+\]\S*|[^ ]+")
"""What stays on one line: a number with its unit, an interval in brackets, a word with all that a no-break space ties to it."""
TIE = "\u00a0"
SEAM = re.compile(r".{4,}[/_,:-]", re.DOTALL)
"""Where a word that is too long for its column is broken."""


@dataclass(frozen=True)
class Sentence:
    """A text for a terminal: its lines end between words, and only a word that is longer than a line goes over the edge."""

    text: str
    style: str = ""

    def __rich_console__(self, _console: "Console", options: "ConsoleOptions") -> "Iterator[RenderableType]":
        """Yield the lines that the terminal has room for; one line in a pipe."""
        from rich.text import Text

        lines = [plain(self.text)] if options.no_wrap else wrap(self.text, options.max_width, broken=False)
        yield Text("\n".join(lines), style=self.style, overflow="ignore", no_wrap=True)


def say(line: str) -> None:
    """Print a line on stderr."""
    if sys.stderr.isatty() or "COLUMNS" in os.environ:
        _console(stderr=True).print(Sentence(line), crop=False)
    else:
        typer.echo(plain(line), err=True)


def print_json(value: Any) -> None:  # noqa: ANN401
    """Print a value as JSON on stdout; where that is not UTF-8, with other signs than ASCII in the form that JSON has."""
    whole = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    typer.echo(json.dumps(value, indent=1, ensure_ascii=not whole))


def show(*parts: "RenderableType | Path", stderr: bool = False) -> None:
    """Print tables and sentences on stdout; words are never cut, so a path longer than the window stays whole."""
    console = _console(stderr=stderr)
    for part in parts:
        console.print(Sentence(str(part)) if isinstance(part, str | Path) else part, crop=False)


def wrap(text: str, width: int, *, broken: bool = True) -> list[str]:
    """Return the text in lines of at most `width`, broken between words; longer words too, unless they may not be `broken`."""
    from rich.cells import cell_len

    lines = []
    for given in plain(text).split("\n"):
        if cell_len(given) <= width:  # with the spaces that it has
            lines.append(given)
            continue
        line = ""
        for token in TOKEN.findall(given):
            joined = f"{line} {token}" if line else token
            if cell_len(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            *full, line = _pieces(token, width) if broken else [token]
            lines += full
        lines.append(line)
    return [line.replace(TIE, " ") for line in lines]


def _pieces(token: str, width: int) -> list[str]:
    """Return a long word in pieces, each but the last ending where a path or a name has a seam if there is one."""
    from rich.cells import cell_len, chop_cells

    pieces = []
    while cell_len(token) > width:
        head = chop_cells(token, width)[0]
        seam = SEAM.match(head)
        piece = seam.group() if seam else head
        pieces.append(piece)
        token = token[len(piece) :]
    return [*pieces, token]


def _console(*, stderr: bool = False) -> "Console":
    """Return where to print: without any style where NO_COLOR is set, nor where there is no terminal."""
    from rich.console import Console

    colours = None if os.environ.get("NO_COLOR") else "auto"
    console = Console(stderr=stderr, color_system=colours)
    if console.is_terminal or "COLUMNS" in os.environ:
        return console
    return Console(stderr=stderr, color_system=colours, width=ROOM, soft_wrap=True)
