"""Files of words and tags as tables whose cells are lists: CoNLL files, and json, jsonl or parquet in the shape of conll2003."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from compressor.data.files import PARQUET, Table, expanded, read_lines, read_objects, read_table
from compressor.errors import UserError
from compressor.files import json_of

CONLL = ".conll", ".bio", ".iob", ".txt"
"""Files of a word a line, with an empty line between texts."""
LISTS = ".json", ".jsonl", PARQUET
"""Files whose rows hold a list of words, and one of tags."""
WORDS, TAGS = "tokens", "tags"
"""What the first and the last column of a CoNLL file are called, beside their numbers from 1."""
BETWEEN = "-DOCSTART-"
"""What stands in the first column between documents, on a line of its own."""


def read_words(path: Path, named_by: str, encoding: str | None = None) -> Table:
    """Return the columns of a file of words, each cell the list of a text's values; errors of `read_table`.

    Columns of CoNLL files are parted by tabs, where the file has any, and else by white space; all lines have as many.
    Comments of CoNLL-U (# and no tab, in a file with tabs) and lines of -DOCSTART- are left out. Ids in parquet files of the
    library datasets come with their names.
    """
    path, suffix = expanded(path), path.suffix.lower()
    if suffix in CONLL:
        return _conll(path, named_by, encoding)
    if suffix not in LISTS:
        raise UserError(
            f"{path}: {suffix or 'no suffix'} ({named_by}) holds no lists of words; use {', '.join((*CONLL, *LISTS))}."
        )
    table = read_objects(path, named_by) if suffix == ".json" else read_table(path, named_by, encoding)
    if suffix == PARQUET:
        table.names.update(_class_names(path))
    return table


def _conll(path: Path, named_by: str, encoding: str | None) -> Table:
    texts: list[list[list[str]]] = []
    bad: dict[int, str] = {}
    lines = read_lines(path, named_by, encoding)
    width, tabs = 0, any("\t" in line for line in lines)
    for text in _blocks(lines):
        rows: list[list[str]] = []
        for number, line in text:
            if line.split()[0] == BETWEEN or (tabs and line.startswith("#") and "\t" not in line):
                continue
            values = [value.strip() for value in line.split("\t")] if tabs else line.split()
            width = width or len(values)
            if len(values) != width:
                bad.setdefault(
                    len(texts),
                    f"line {number} has {len(values)} column{'s' * (len(values) != 1)}, the first line {width}",
                )
            rows.append(values)
        if rows:
            texts.append(rows)
    if not texts:
        raise UserError(f"{path}: the file has no words; {named_by} needs a word a line, an empty line between texts.")
    named = {str(place + 1): place for place in range(width)} | {WORDS: 0} | ({TAGS: width - 1} if width > 1 else {})
    columns: dict[str, list[Any]] = {
        name: [None if row in bad else [values[place] for values in text] for row, text in enumerate(texts)]
        for name, place in named.items()
    }
    table = Table(str(path), columns, bad)
    return table.check() if len(bad) == len(texts) else table


def _blocks(lines: list[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield the lines between empty ones, each with its number from 1."""
    block: list[tuple[int, str]] = []
    for number, line in enumerate([*lines, ""], start=1):
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []


def _class_names(path: Path) -> dict[str, list[str]]:
    """Return column -> names of its ids, where the library datasets wrote them into the file's own metadata."""
    import pyarrow.parquet as pq

    stored = (pq.read_schema(path).metadata or {}).get(b"huggingface")
    try:
        features = json_of(stored)["info"]["features"] if stored else {}
        inner = {name: entry.get("feature", entry) for name, entry in features.items() if isinstance(entry, dict)}
        return {
            name: list(entry["names"])
            for name, entry in inner.items()
            if isinstance(entry, dict) and entry.get("names")
        }
    except (ValueError, KeyError, TypeError, AttributeError):  # of another version: ids are then ids
        return {}
