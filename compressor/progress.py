"""Progress: rich bars on a terminal's stderr, a line in a notebook, plain lines elsewhere, nothing in library use.

A `Track` wraps an iterable. Functions that may take seconds accept one and never know where it draws.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Track = Callable[..., Iterable]
"""`track(iterable, description, total=None)` yields the items of `iterable` and shows how far it is."""

PLAIN_EVERY_S = 5.0
NOTEBOOK_EVERY_S = 0.5


def silent(iterable: Iterable[Item], description: str = "", total: int | None = None) -> Iterable[Item]:  # noqa: ARG001
    """Yield from `iterable` and show nothing."""
    return iterable


def plain(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield from `iterable`; print a line to stderr every few seconds of work that lasts over two."""
    total = total if total is not None else (len(iterable) if hasattr(iterable, "__len__") else None)
    started = time.monotonic()
    shown = started - PLAIN_EVERY_S + 2.0
    for count, item in enumerate(iterable):
        if time.monotonic() - shown >= PLAIN_EVERY_S:
            shown = time.monotonic()
            print(f"  {description}: {count}{f'/{total}' if total else ''}", file=sys.stderr, flush=True)  # noqa: T201
        yield item


def bars(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Yield from `iterable` under a rich progress bar with the time left, removed when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("  {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    # few refreshes: the bar's thread must not take time from what is measured
    with Progress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=2) as progress:
        yield from progress.track(iterable, total=total, description=description)


def track_for_terminal() -> Track:
    """Return `bars` where stderr is a terminal and `plain` where it is not."""
    return bars if sys.stderr.isatty() else plain


@contextmanager
def shown(wanted: bool | None = None) -> Iterator[tuple[Track, Callable[[str], None]]]:
    """Yield how a call from Python shows progress: a track, and what is called with a line for each step.

    `wanted` is None for where somebody looks, a notebook or a terminal, and silent elsewhere.
    """
    kernel = _in_notebook()
    if wanted or (wanted is None and (kernel or sys.stderr.isatty())):
        with _notebook_line() if kernel else _terminal_lines() as made:
            yield made
    else:
        yield silent, lambda _line: None


def _in_notebook() -> bool:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return getattr(shell, "kernel", None) is not None


@contextmanager
def _terminal_lines() -> Iterator[tuple[Track, Callable[[str], None]]]:
    yield track_for_terminal(), lambda line: print(line, file=sys.stderr, flush=True)  # noqa: T201


@contextmanager
def _notebook_line() -> Iterator[tuple[Track, Callable[[str], None]]]:
    """Yield a track that writes over one line below the cell, gone at the end; rich's bars need ipywidgets there."""
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    drawn = float("-inf")

    def show(line: str) -> None:
        nonlocal drawn
        drawn = time.monotonic()
        handle.update({"text/plain": line}, raw=True)

    def track(iterable: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
        total = total if total is not None else (len(iterable) if hasattr(iterable, "__len__") else None)
        for count, item in enumerate(iterable):
            if time.monotonic() - drawn >= NOTEBOOK_EVERY_S:
                show(f"{description}: {count}{f' of {total}' if total else ''}")
            yield item

    try:
        yield track, show
    finally:
        show("")
