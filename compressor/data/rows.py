"""Rows of text and label out of the columns of a file; whatever is wrong with one is said with file, row and column."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from compressor.data.answers.kinds import RANKING, SCORE, SCORES
from compressor.data.answers.targets import ids_of, read_scores, read_sets, to_matrix, to_scores, unknown_labels
from compressor.data.files import Table, bad_rows
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
    printed,
    shown,
    yaml_hint,
)
from compressor.data.splits import Split, normalised
from compressor.errors import UserError

SKIP = "leave such rows out with data.on_bad_row: skip"


@dataclass(frozen=True)
class Rows:
    """The rows of one file, good and bad. `labels` is None where the file has none.

    A label is an int or a name, of scores a number, of many labels the tuple of them.
    """

    source: str
    """The file (or hub split), as messages name it."""
    texts: list[tuple[str, ...]]
    labels: list[Any] | None
    label_column: str | None = None
    bad: dict[int, str] = field(default_factory=dict)
    """Rows (from 0) that cannot be used, and why; their texts are empty, their labels None."""
    groups: list[str] | None = None
    """The query of each row of a ranking."""
    written: dict[str, Label] = field(default_factory=dict)
    """What each value of the label column means, as it stands in the file."""


def to_rows(
    table: Table,
    text_columns: Sequence[str],
    label_column: str | Sequence[str] | None,
    *,
    kind: str = "single_label",
    group: str | None = None,
    labels_needed: bool = True,
    empty_texts: bool = False,
    mapping: Mapping[str, str] | None = None,
    skip: bool = False,
) -> Rows:
    """Return texts and labels out of a table; rows in messages count from 1.

    Without `labels_needed` the label column may be absent, or hold nothing but missing values and -1: unlabelled rows.
    A row is bad where it could not be read, a text is missing or (unless `empty_texts`) empty, or the label is missing or
    no class. Rows of rankings are grouped by the column `group`, None for the first text. `mapping` says what values of the
    label column mean. Raises UserError where a column is missing, or (unless `skip`) the mapping lacks a value.
    """
    bad = dict(table.bad)
    texts = [_texts(table, column, empty_texts, bad) for column in text_columns]
    labels, written = None, {}
    if kind != "single_label":
        rows = _other_kind(table, texts, label_column, kind, labels_needed, bad)
        return rows if kind != RANKING else replace(rows, groups=_groups(table, group or text_columns[0], rows.bad))
    if label_column is not None and (labels_needed or label_column in table.columns or label_column in table.index):
        found = [parse_label(value) for value in table.column(label_column)]
        if labels_needed or not all(label is None or label == -1 for label in found):
            labels = found if mapping is None else _mapped(table, label_column, found, mapping, skip)
            written = {
                printed(value): label
                for value, label in zip(found, labels, strict=True)
                if label is not None and not isinstance(label, NoClass)
            }
    for row, label in enumerate(labels or []):
        if label is None or isinstance(label, NoClass):
            lacks = mapping is not None and label is not None
            problem = (
                "the label is missing"
                if label is None
                else f"the label {shown(label.value)} is not {'in data.labels' if lacks else 'a class (int or name)'}"
            )
            bad.setdefault(row, f"row {row + 1}, column {label_column!r}: {problem}")
    good = None if labels is None else [None if row in bad else label for row, label in enumerate(labels)]
    return Rows(table.source, list(zip(*texts, strict=True)), good, label_column, bad, written=written)


def _other_kind(
    table: Table,
    texts: list[list[str]],
    label_columns: str | Sequence[str] | None,
    kind: str,
    labels_needed: bool,
    bad: dict[int, str],
) -> Rows:
    """Return the rows whose labels are scores or sets; `bad` gets those without a usable one."""
    columns = [label_columns] if isinstance(label_columns, str) else list(label_columns or [])
    there = all(column in table.columns or column in table.index for column in columns)
    named, labels = ", ".join(columns) or None, None
    if columns and (labels_needed or there):
        own = dict(bad)
        read = (
            read_scores(table, columns[0], own, negative=kind == SCORE)
            if kind in SCORES
            else read_sets(table, columns, own)
        )
        if labels_needed or any(label is not None and label != -1 for label in read):
            labels, bad = read, own
    for row, label in enumerate(labels or []):
        if label is None:
            bad.setdefault(
                row, f"row {row + 1}, column {named!r}: the {'score is' if kind in SCORES else 'labels are'} missing"
            )
    return Rows(table.source, list(zip(*texts, strict=True)), labels, named, bad)


def kept_rows(
    rows: Rows, bad: Mapping[int, str], *, skip: bool = False, remedy: str = "correct the file"
) -> tuple[list[int], str]:
    """Return the rows that can be used, and a sentence on the others, empty where there are none.

    Raises UserError where rows are bad and not to be left out (`skip`), or all are.
    """
    if not bad:
        return list(range(len(rows.texts))), ""
    said = bad_rows(dict(bad), len(rows.texts))
    if not skip or len(bad) == len(rows.texts):
        raise UserError(f"{rows.source}: {said}; {remedy}.")
    kept = [row for row in range(len(rows.texts)) if row not in bad]
    return kept, f"{rows.source}: {len(bad)} of {len(rows.texts)} rows are left out (data.on_bad_row: skip): {said}."


def to_split(
    part: str,
    rows: Rows,
    data_names: tuple[str, ...],
    model_ids: np.ndarray,
    ids_allowed: bool,
    skip: bool,
    kind: str = "single_label",
) -> tuple[Split, str]:
    """Return the good rows of a file, and a sentence on those left out; raises UserError for bad ones unless `skip`."""
    bad, remedy = dict(rows.bad), "correct the file" if skip else f"correct the file, or {SKIP}"
    ids: dict[Label, int | None] = {}
    if rows.labels is not None and kind == "many_labels":
        ids = ids_of(rows.labels, data_names, ids_allowed=ids_allowed)
        for row, labels in enumerate(rows.labels):
            if wrong := unknown_labels(labels or (), ids, data_names):
                bad[row] = f"row {row + 1}, column {rows.label_column!r}: {wrong}"
    if rows.labels is not None and kind == "single_label":
        ids = class_ids({label for label in rows.labels if label is not None}, data_names, ids_allowed=ids_allowed)
        check_named(rows.source, rows.label_column, ids, data_names)
        wrong = _no_classes(rows, ids, data_names, f" or the ids 0 to {len(data_names) - 1}" if ids_allowed else "")
        if wrong:
            bad |= wrong
            remedy = f"correct the labels, name another label column, map the values with data.labels, or {SKIP}"
    if rows.groups is not None:
        bad |= _alone(rows, bad)
    kept, note = kept_rows(rows, bad, skip=skip, remedy=remedy)
    groups = rows.groups and [rows.groups[row] for row in kept]
    if rows.labels is None:
        labels = None
    elif kind in SCORES:
        labels = to_scores(rows.labels, kept)
    elif kind == "many_labels":
        labels = to_matrix(rows.labels, kept, data_names, ids)
    else:
        labels = model_ids[np.array([ids[rows.labels[row]] for row in kept], dtype=np.int64)]
    return Split([rows.texts[row] for row in kept], labels, [f"{part}:{row}" for row in kept], groups), note


def _no_classes(rows: Rows, ids: Mapping[Label, int | None], names: Sequence[str], as_ids: str) -> dict[int, str]:
    """Return what is wrong with the rows whose label is no class."""
    return {
        row: f"row {row + 1}, column {rows.label_column!r}: the label {shown(str(label))} is none of {listed(names)}{as_ids}"
        for row, label in enumerate(rows.labels)
        if label is not None and ids[label] is None
    }


def _groups(table: Table, column: str, bad: dict[int, str]) -> list[str]:
    """Return the query of each row; rows that have none are added to `bad`."""
    found = []
    for row, value in enumerate(table.column(column)):
        (name,) = normalised(("" if is_missing(value) else str(value),))
        if not name:
            bad.setdefault(row, f"row {row + 1}, column {column!r}: the query is missing")
        found.append(name)
    return found


def _alone(rows: Rows, bad: Mapping[int, str]) -> dict[int, str]:
    """Return what is wrong with the rows of queries that have a single document among the rows that are not bad."""
    documents: dict[str, set[tuple[str, ...]]] = {}
    for row, group in enumerate(rows.groups):
        if row not in bad:
            documents.setdefault(group, set()).add(normalised(rows.texts[row]))
    return {
        row: f"row {row + 1}: the query {shown(group)} has one document, and an order takes two"
        for row, group in enumerate(rows.groups)
        if row not in bad and len(documents[group]) < 2
    }


def value_ids(rows: Rows, data_names: tuple[str, ...], model_ids: np.ndarray, ids_allowed: bool) -> dict[str, int]:
    """Return the class of each value that the label column holds, as it is written there."""
    ids = class_ids(set(rows.labels or ()) - {None}, data_names, ids_allowed=ids_allowed)
    known = {value: ids.get(label) for value, label in rows.written.items()}
    return {value: int(model_ids[place]) for value, place in known.items() if place is not None}


def _mapped(
    table: Table, column: str, labels: list[Label | NoClass | None], mapping: Mapping[str, str], skip: bool
) -> list[Label | NoClass | None]:
    """Return the labels that `mapping` makes of the values; raises UserError (unless `skip`) where it lacks some."""
    mapped, lacking = map_labels(labels, mapping)
    if lacking and not skip:
        count = sum(label is not None and printed(label) in lacking for label in labels)
        raise UserError(
            f"{table.source}: column {column!r}: data.labels lacks the value{'s' * (len(lacking) > 1)} "
            f"{listed(lacking, MAPPED)} ({count:,} row{'s' * (count != 1)}){yaml_hint(lacking, mapping)}; add "
            f"{'them' if len(lacking) > 1 else 'it'}, or {SKIP}."
        )
    return mapped


def _texts(table: Table, column: str, empty_texts: bool, bad: dict[int, str]) -> list[str]:
    """Return the texts of a column; rows that have none are added to `bad`."""
    texts = []
    for row, value in enumerate(table.column(column)):
        text = "" if is_missing(value) else str(value) if isinstance(value, int | float) else value
        problem = ""
        if not isinstance(text, str):
            problem = f"a {type(value).__name__} is not text"
        elif not text.strip() and not empty_texts:
            problem = f"the text is {'missing' if is_missing(value) else 'empty'}"
        elif not text.isascii() and SURROGATE.search(text):
            problem = "the text holds half of a surrogate pair, which is not valid Unicode"
        if problem:
            bad.setdefault(row, f"row {row + 1}, column {column!r}: {problem}")
        texts.append("" if problem else text)
    return texts
