"""Labels that are no single class: a number a row, or any number of labels a row, as they stand in a file."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from compressor.data.files import Table
from compressor.data.labels import Label, NoClass, class_ids, is_missing, listed, parse_label, shown
from compressor.files import json_of

UNKNOWN = -1
"""What stands in columns of 0 and 1 where a row has no label."""
Sets = list[tuple[Label, ...] | None]
"""The labels that each row has, None where they are not known."""


def read_scores(table: Table, column: str, bad: dict[int, str], *, negative: bool = True) -> list[float | None]:
    """Return the numbers of a column, None where there is none; rows with something else, NaN or infinity are added to `bad`.

    So are `negative` numbers where they may not be.
    """
    found: list[float | None] = []
    for row, value in enumerate(table.column(column)):
        number = _number(value)
        if number is not None and not math.isfinite(number):
            bad.setdefault(row, f"row {row + 1}, column {column!r}: the score {shown(value)} is no finite number")
            number = None
        if number is not None and number < 0 and not negative:
            bad.setdefault(
                row, f"row {row + 1}, column {column!r}: the relevance {shown(value)} is below 0, which is none at all"
            )
            number = None
        found.append(number)
    return found


def read_sets(table: Table, columns: Sequence[str], bad: dict[int, str]) -> Sets:
    """Return the labels of each row: of one column a list of names (or the JSON of one), of several those that hold a 1.

    Rows with anything else are added to `bad`; None is a row without labels known, the empty tuple one that has none.
    """
    if len(columns) > 1:
        return _from_columns(table, columns, bad)
    (column,) = columns
    found: Sets = []
    for row, value in enumerate(table.column(column)):
        names, problem = _listed(value)
        if problem:
            bad.setdefault(row, f"row {row + 1}, column {column!r}: {problem}")
        found.append(names)
    return found


def to_scores(scores: Sequence[float | None], kept: Sequence[int]) -> np.ndarray:
    """Return the scores of the rows that are `kept`, float64 [N]."""
    return np.array([scores[row] for row in kept], dtype=np.float64)


def to_matrix(sets: Sets, kept: Sequence[int], names: Sequence[str], ids: Mapping[Label, int | None]) -> np.ndarray:
    """Return which of `names` each row has that is `kept`: int64 [N, C] of 0 and 1."""
    made = np.zeros((len(kept), len(names)), dtype=np.int64)
    for place, row in enumerate(kept):
        made[place, [ids[label] for label in sets[row]]] = 1
    return made


def ids_of(sets: Sets, names: Sequence[str], *, ids_allowed: bool) -> dict[Label, int | None]:
    """Return the place in `names` of every label that occurs, None for one that is none of them."""
    return class_ids({label for labels in sets if labels for label in labels}, names, ids_allowed=ids_allowed)


def unknown_labels(labels: Sequence[Label], ids: Mapping[Label, int | None], names: Sequence[str]) -> str:
    """Return what is wrong with the labels of a row, empty where all of them are among `names`."""
    lacking = [str(label) for label in labels if ids[label] is None]
    return f"{listed(lacking)} is none of {listed(names)}" if lacking else ""


def _number(value: object) -> float | None:
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except ValueError:
        return math.nan


def _listed(value: object) -> tuple[tuple[Label, ...] | None, str]:
    """Return the labels of a cell and what is wrong with it."""
    if is_missing(value):
        return None, ""
    if isinstance(value, str):
        text = value.strip()
        try:
            value = json_of(text) if text.startswith("[") else [text] if text else []
        except ValueError:
            return None, f"{shown(text)} is no list of labels"
    items = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(items, list | tuple):
        return None, f"{shown(items)} is no list of labels"
    labels = [parse_label(item) for item in items]
    wrong = next(
        (item for item, label in zip(items, labels, strict=True) if label is None or isinstance(label, NoClass)), None
    )
    if wrong is not None:
        return None, f"the list holds {shown(wrong)}, which is no label"
    return tuple(dict.fromkeys(labels)), ""


def _from_columns(table: Table, columns: Sequence[str], bad: dict[int, str]) -> Sets:
    given: list[list[str] | None] = [[] for _ in range(table.rows)]
    for column in columns:
        for row, value in enumerate(table.column(column)):
            label = parse_label(value)
            flag = {"true": 1, "false": 0}.get(str(label).casefold(), label)
            if flag == 1 and given[row] is not None:
                given[row].append(column)
            elif flag is None or flag == UNKNOWN:
                given[row] = None
            elif flag not in (0, 1):
                bad.setdefault(row, f"row {row + 1}, column {column!r}: {shown(value)} is neither 0 nor 1")
    return [None if labels is None else tuple(labels) for labels in given]
