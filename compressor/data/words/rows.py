"""Rows of words and their labels out of the columns of a file; what is wrong with one is said with file, row and column."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.data.files import Table
from compressor.data.labels import (
    MAPPED,
    SURROGATE,
    Label,
    NoClass,
    check_named,
    class_ids,
    is_missing,
    listed,
    map_labels,
    parse_label,
    shown,
)
from compressor.data.rows import SKIP, Rows, kept_rows
from compressor.data.splits import Split
from compressor.errors import UserError

NO_LABEL = -1
"""What stands for a word without a label, as in test files."""
Read = tuple[Label | NoClass | None, ...] | NoClass | None
"""The labels of a text as they are read: one for each item of a list, `NoClass` of what is no list, None where there is none."""


def word_rows(
    table: Table,
    words: str,
    tags: str | None,
    *,
    labels_needed: bool = True,
    mapping: Mapping[str, str] | None = None,
    skip: bool = False,
) -> Rows:
    """Return the words and labels of the rows of a table whose columns `words` and `tags` hold lists.

    Without `labels_needed` the tags may be absent, or -1 throughout. A row is bad where it has no list of words, a word is
    empty or no text, or its labels are not one for each word. Raises UserError where a column is missing, or (unless `skip`)
    the mapping lacks a value.
    """
    bad = dict(table.bad)
    texts = [_words(value, row, words, bad) for row, value in enumerate(table.column(words))]
    labels = None
    if tags is not None and (labels_needed or tags in table.columns):
        read = _Labels(table.names.get(tags), mapping)
        found = [read(value) for value in table.column(tags)]
        if labels_needed or not all(label is None or _blank(label) for label in found):
            labels = found
            if read.lacking and not skip:
                raise UserError(
                    f"{table.source}: column {tags!r}: data.labels lacks the values {listed(sorted(read.lacking), MAPPED)}; add "
                    f"them, or {SKIP}."
                )
            for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
                if problem := _wrong(text, label):
                    bad.setdefault(row, f"row {row + 1}, column {tags!r}: {problem}")
    good = None if labels is None else [None if row in bad else label for row, label in enumerate(labels)]
    return Rows(table.source, [() if row in bad else text for row, text in enumerate(texts)], good, tags, bad)


def word_split(
    part: str, rows: Rows, names: tuple[str, ...], *, ids_allowed: bool, skip: bool = False
) -> tuple[Split, str]:
    """Return the good rows of a file, and a sentence on those left out; raises UserError for bad ones unless `skip`."""
    bad, ids = dict(rows.bad), {}
    if rows.labels is not None:
        ids = class_ids({label for labels in rows.labels for label in labels or ()}, names, ids_allowed=ids_allowed)
        check_named(rows.source, rows.label_column, ids, names)
        unknown = {label for label, place in ids.items() if place is None}
        for row, labels in enumerate(rows.labels):
            if lacking := sorted({*map(str, labels or ())} & {*map(str, unknown)}):
                bad[row] = f"row {row + 1}, column {rows.label_column!r}: {listed(lacking)} is none of {listed(names)}"
    remedy = "correct the file" if skip else f"correct the file, or {SKIP}"
    kept, note = kept_rows(rows, bad, skip=skip, remedy=remedy)
    labels = None
    if rows.labels is not None:
        labels = np.array([ids[label] for row in kept for label in rows.labels[row]], dtype=np.int64)
    return Split([rows.texts[row] for row in kept], labels, [f"{part}:{row}" for row in kept], by_word=True), note


class _Labels:
    """Reads lists of tags; what each value means is looked up once. `lacking` are values that the mapping lacks."""

    def __init__(self, names: Sequence[str] | None, mapping: Mapping[str, str] | None) -> None:
        self._names, self._mapping = names, mapping
        self._known: dict[Any, Label | NoClass | None] = {}
        self.lacking: set[str] = set()

    def __call__(self, cell: object) -> Read:
        items = _items(cell)
        if items is None:
            return None if is_missing(cell) else NoClass(cell)
        return tuple(self._label(item) for item in items)

    def _label(self, item: object) -> Label | NoClass | None:
        if not isinstance(item, str | int | float):
            return None if item is None else NoClass(item)
        if item not in self._known:
            label = parse_label(item)
            if self._names and isinstance(label, int) and 0 <= label < len(self._names):
                label = self._names[label]
            if self._mapping is not None and label is not None and label != NO_LABEL:
                (label,), lacking = map_labels([label], self._mapping)
                self.lacking.update(lacking)
            self._known[item] = label
        return self._known[item]


def _blank(labels: Read) -> bool:
    return isinstance(labels, tuple) and {*labels} <= {NO_LABEL}


def _items(cell: object) -> list | None:
    """Return the items of a cell that is a list, None for anything else."""
    if isinstance(cell, np.ndarray):
        return cell.tolist()
    return list(cell) if isinstance(cell, list | tuple) else None


def _words(cell: object, row: int, column: str, bad: dict[int, str]) -> tuple[str, ...]:
    items = _items(cell)
    problem = ""
    if items is None:
        problem = "the words are missing" if is_missing(cell) else f"{shown(cell)} is no list of words"
    elif not items:
        problem = "the text has no words"
    else:
        items = [str(item) if isinstance(item, int | float) and not is_missing(item) else item for item in items]
        wrong = next((place for place, item in enumerate(items) if not isinstance(item, str) or not item.strip()), None)
        broken = next(
            (place for place, item in enumerate(items) if isinstance(item, str) and SURROGATE.search(item)), None
        )
        if wrong is not None:
            problem = f"word {wrong + 1} is {shown(items[wrong])}, no text"
        elif broken is not None:
            problem = f"word {broken + 1} holds half of a surrogate pair, which is not valid Unicode"
    if problem:
        bad.setdefault(row, f"row {row + 1}, column {column!r}: {problem}")
        return ()
    return tuple(items)


def _wrong(words: tuple[str, ...], labels: Read) -> str:
    """Return what is wrong with the labels of a text, empty where nothing is."""
    if labels is None:
        return "the labels are missing"
    if isinstance(labels, NoClass):
        return f"{shown(labels.value)} is no list of labels"
    if words and len(labels) != len(words):
        return f"{len(labels)} labels for {len(words)} words"
    for word, label in enumerate(labels, start=1):
        if label is None or label == NO_LABEL:
            return f"the label of word {word} is missing"
        if isinstance(label, NoClass):
            return f"the label {shown(label.value)} of word {word} is no class (int or name)"
    return ""
