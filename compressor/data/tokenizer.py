"""A tokenizer from anyone: what its file may not hold, and that no text of a user's makes it end the program or run for ever."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from compressor.errors import UserError, first_line
from compressor.files import read_json

PARTS = "normalizer", "pre_tokenizer", "post_processor"
"""What a tokenizer does to a text beside looking up its vocabulary."""
LONGEST, GROWTH = 1_000, 1_000
"""Signs of what a part puts into a text, and how many times longer all of them together may make one."""
PROBES = "a" * 400 + "!", "ab" * 200 + " ", " " * 400 + "\n", "1" * 400 + "x", "a b " * 100 + "\0", "-_." * 130 + "a"
"""Texts on which regular expressions that backtrack take very long; others need microseconds."""
SECONDS = 0.1
"""How long a tokenizer may take for one of them, at the better of two tries."""
PANIC = "PanicException"
"""What errors inside the Rust library become in Python; it is no heir of Exception."""


def check_tokenizer(file: Path, where: str) -> None:
    """Raise UserError, beginning with `where`, for a tokenizer.json whose parts blow texts up before they are cut.

    A file that is not there, or no JSON, is for the library to complain of.
    """
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return
    growth = 1.0
    for name in PARTS:
        for part in _parts(content.get(name) if isinstance(content, Mapping) else None):
            put = max(
                (len(value) for value in map(part.get, ("content", "prepend")) if isinstance(value, str)), default=0
            )
            if put > LONGEST:
                raise UserError(
                    f"{where}: the {name} of tokenizer.json puts {put:,} signs into a text, and {LONGEST:,} are served; give a "
                    "stock tokenizer."
                )
            growth *= max(1, put)
    if growth > GROWTH:
        raise UserError(
            f"{where}: tokenizer.json makes texts up to {growth:.0e} times longer, and {GROWTH:,} times is served; give a stock "
            "tokenizer."
        )


def _parts(value: Any) -> Iterator[Mapping[str, Any]]:  # noqa: ANN401
    """Yield every object within some JSON."""
    rest = [value]
    while rest:
        found = rest.pop()
        if isinstance(found, Mapping):
            yield found
        if isinstance(found, Mapping | list):
            rest += found.values() if isinstance(found, Mapping) else found


def probe(tokenize: Callable[[str], Any], where: str) -> None:
    """Raise UserError, beginning with `where`, for a tokenizer that breaks off or takes long on `PROBES`."""
    for text in PROBES:
        seconds = _seconds(tokenize, text, where)
        if seconds > SECONDS and (seconds := _seconds(tokenize, text, where)) > SECONDS:
            raise UserError(
                f"{where}: the tokenizer takes {seconds:.1f} s for {len(text)} signs, {text[:5]!r}...: a regular expression in "
                "tokenizer.json tries too many ways; give a stock tokenizer."
            )


def _seconds(tokenize: Callable[[str], Any], text: str, where: str) -> float:
    started = time.process_time()
    with tokenizing(where):
        tokenize(text)
    return time.process_time() - started


@contextmanager
def no_panic(where: str) -> Iterator[None]:
    """Turn a panic of the Rust library into a UserError that begins with `where`."""
    with _told(where, PANIC):
        yield


@contextmanager
def tokenizing(where: str) -> Iterator[None]:
    """Turn whatever the Rust library raises at a text, panics and plain exceptions, into a UserError that begins with `where`."""
    with _told(where, PANIC, Exception.__name__):
        yield


@contextmanager
def _told(where: str, *kinds: str) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if type(error).__name__ not in kinds:
            raise
        raise UserError(
            f"{where}: the tokenizer breaks off at a text ({first_line(error)[:200]}); give a stock tokenizer."
        ) from error
