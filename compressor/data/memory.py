"""Texts that a program holds, as the tables that files are read into: lists, columns, pandas, datasets."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from compressor.data.files import Table
from compressor.data.labels import id_of_name, is_missing
from compressor.data.own.parts import NAMES, read_own
from compressor.errors import UserError

FORMS = (
    "give a file or folder, texts, (text, label) or ((text, pair), label) tuples, a dict of columns, a pandas DataFrame, or a "
    "Dataset of the library datasets"
)
COLUMNS = "text", "text_pair"
"""What the columns of a list of texts, or of pairs, are called."""


def given_tables(train: Any, validation: Any) -> dict[str, Table]:  # noqa: ANN401
    """Return what was given as tables by part, as `read_own` does; one alone may hold several parts.

    Each is None, a path, an iterable of texts or of (text, label), a mapping of columns, a DataFrame, a Dataset, or a mapping of
    several of the last two by the name of a part. Raises UserError where there is nothing, or it is of another form.
    """
    given = {name: value for name, value in (("train", train), ("validation", validation)) if value is not None}
    if not given:
        raise UserError(f"train: there are no texts; {FORMS}, as train, validation or both.")
    tables = {name: _tables(value, name) for name, value in given.items()}
    if len(given) == 1:
        return next(iter(tables.values()))
    for name, parts in tables.items():
        if len(parts) > 1:
            raise UserError(
                f"{name}: this holds the parts {', '.join(parts)}; where train and validation are both given each is one of them."
            )
    return {name: next(iter(parts.values())) for name, parts in tables.items()}


def named(table: Table, classes: Sequence[str]) -> Table:
    """Return the table with ids as names where the source names them as the model names its `classes`.

    The ids of a data set need not be those of the model; where it calls its labels otherwise, they are left as they are.
    """
    known = {
        column: names
        for column, names in table.names.items()
        if all(id_of_name(name, classes) is not None for name in names)
    }
    columns = {
        column: [_name(value, known[column]) for value in values] if column in known else values
        for column, values in table.columns.items()
    }
    return replace(table, columns=columns)


def _name(value: Any, names: Sequence[str]) -> Any:  # noqa: ANN401
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value


def _tables(value: Any, field: str) -> dict[str, Table]:  # noqa: ANN401
    """Return the table of one argument called `all`, or those of its parts."""
    if isinstance(value, str | Path):
        return read_own(Path(value), field)
    if isinstance(value, Mapping) and value and all(_is_table(part) for part in value.values()):
        found = {part: next((name for name in names if name in value), None) for part, names in NAMES.items()}
        if not any(found.values()) and len(value) > 1:
            raise UserError(
                f"{field}: none of {', '.join(map(str, value))} is called train, validation or test; give one."
            )
        parts = {part: name for part, name in found.items() if name is not None} or {"all": next(iter(value))}
        return {part: _table(value[name], f"{field} ({name})") for part, name in parts.items()}
    return {"all": _table(value, f"{field} ({type(value).__name__})")}


def _is_table(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, pd.DataFrame) or _dataset(value)


def _dataset(value: Any) -> bool:  # noqa: ANN401
    """Tell whether a value is a Dataset; who has one has imported the library, which takes its time."""
    library = sys.modules.get("datasets")
    return library is not None and isinstance(value, library.Dataset)


def _table(value: Any, source: str) -> Table:  # noqa: ANN401
    if _dataset(value):
        names = {name: list(kind.names) for name, kind in value.features.items() if hasattr(kind, "int2str")}
        table = Table(source, value.to_dict(), names=names)
    elif isinstance(value, pd.DataFrame):
        table = _from_frame(value, source)
    elif isinstance(value, Mapping):
        table = Table(source, {str(name): _values(values, f"{source}: {name}") for name, values in value.items()})
    elif isinstance(value, Iterable) and not isinstance(value, bytes):
        table = _from_rows(_values(value, source), source)
    else:
        raise UserError(f"{source}: this is no data; {FORMS}.")
    lengths = {name: len(values) for name, values in table.columns.items()}
    if len({*lengths.values()}) > 1:
        listed = ", ".join(f"{name} {length:,}" for name, length in lengths.items())
        raise UserError(f"{source}: the columns have different lengths ({listed}); give one value a row in each.")
    if not table.rows:
        raise UserError(f"{source}: there are no rows; {FORMS}.")
    return table


def _from_frame(frame: pd.DataFrame, source: str) -> Table:
    names = [str(name) for name in frame.columns]
    twice = next((name for place, name in enumerate(names) if name in names[:place]), None)
    if twice is not None:
        raise UserError(f"{source}: there are two columns {twice!r}; rename one.")
    columns = {name: _values(frame.iloc[:, place], source) for place, name in enumerate(names)}
    index = [name for name in frame.index.names if name is not None and str(name) not in columns]
    return Table(source, columns, index={str(name): frame.index.get_level_values(name).tolist() for name in index})


def _from_rows(rows: list, source: str) -> Table:
    """Return texts, or (text, label) of which a text may be a pair, or dicts, as columns."""
    if rows and all(isinstance(row, Mapping) for row in rows):
        names = dict.fromkeys(name for row in rows for name in row)
        return Table(source, {str(name): [_value(row.get(name)) for row in rows] for name in names})
    labelled = not any(is_missing(row) or isinstance(row, str) for row in rows)
    texts: list[tuple] = []
    labels = []
    for number, row in enumerate(rows, start=1):
        text, label = row if labelled and _is_pair(row) else (row, None)
        parts = tuple(text) if _is_pair(text) else (text,)
        whole = all(is_missing(part) or isinstance(part, str) for part in parts)
        if not whole or (texts and len(parts) != len(texts[0])):
            raise UserError(
                f"{source}: row {number} is {_shortened(row)}; give rows of one form: texts, (text, label), or "
                "((text, pair), label)."
            )
        texts.append(parts)
        labels.append(_value(label))
    columns = dict(zip(COLUMNS, map(list, zip(*texts, strict=True)), strict=False))
    return Table(source, {**columns, **({"label": labels} if labelled and rows else {})})


def _is_pair(value: Any) -> bool:  # noqa: ANN401
    return isinstance(value, list | tuple) and len(value) == 2


def _values(values: Any, where: str) -> list:  # noqa: ANN401
    """Return the values of a column as Python has them: what numpy, pandas or torch hold is a number, text or None."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise UserError(f"{where}: {_shortened(values)} is no column; give one value a row.")
    listed = values.tolist() if hasattr(values, "tolist") else list(values)
    return [_value(value) for value in listed]


def _value(value: Any) -> Any:  # noqa: ANN401
    return value.item() if isinstance(value, np.generic) else value


def _shortened(value: Any) -> str:  # noqa: ANN401
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
