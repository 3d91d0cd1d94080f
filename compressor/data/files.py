"""Data files as rows of text and label values; whatever is wrong with one is said with file, column and row."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from compressor.errors import UserError, nearest

Label = int | str
INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0+)?")
FRACTION = re.compile(r"-?[0-9]*\.[0-9]+")


@dataclass(frozen=True)
class Rows:
    """The rows of one file as read. A label is an int or a name; `labels` is None where the file has none."""

    source: str
    """The file (or hub split), as messages name it."""
    texts: list[tuple[str, ...]]
    labels: list[Label] | None
    label_column: str | None = None


def read_columns(path: Path, field: str) -> dict[str, list]:
    """Return the columns of a csv, tsv, jsonl or parquet file by name; `field` is the recipe field that named the file.

    Text files are UTF-8; csv and tsv are read as text throughout, with double quotes around values that need them.
    Raises UserError where the file is missing, of another kind, broken or without rows.
    """
    suffix = path.suffix.lower()
    if suffix not in READERS:
        hint = nearest(suffix, READERS) or ";"
        raise UserError(
            f"{path}: {suffix or 'no suffix'} ({field}) is no known kind of data{hint} use {', '.join(READERS)}."
        )
    if not path.is_file():
        raise UserError(f"{path}: no such file; correct {field}.")
    try:
        columns = READERS[suffix](path)
    except (ValueError, OSError) as error:  # pandas', pyarrow's and json's reading errors are ValueErrors
        reason = str(error).strip().split("\n")[0].removeprefix("Error tokenizing data. C error: ").rstrip(".")
        raise UserError(f"{path}: not readable as {suffix[1:]} ({reason}); correct the file.") from error
    if not any(len(values) for values in columns.values()):
        raise UserError(f"{path}: the file has no rows; {field} needs at least one.")
    return columns


def to_rows(
    columns: dict[str, list],
    source: str,
    text_columns: Sequence[str],
    label_column: str | None,
    *,
    labels_needed: bool = True,
    empty_texts: bool = False,
) -> Rows:
    """Return texts and labels out of `columns`; rows in messages count from 1.

    Without `labels_needed` the label column may be absent, or hold nothing but missing values and -1: unlabelled rows.
    Raises UserError where a column is missing, a text is missing or (unless `empty_texts`) empty, or a label is missing.
    """
    texts = [_texts(columns, source, column, empty_texts) for column in text_columns]
    labels = None
    if label_column is not None and (labels_needed or label_column in columns):
        labels = [_label(value) for value in _column(columns, source, label_column)]
        if not labels_needed and all(label is None or label == -1 for label in labels):
            labels = None
    for row, label in enumerate(labels or [], start=1):
        if not isinstance(label, Label):
            problem = (
                "the label is missing" if label is None else f"the label {label.value!r} is not a class (int or name)"
            )
            raise UserError(f"{source}: row {row}, column {label_column!r}: {problem}; give every row one label.")
    return Rows(source, list(zip(*texts, strict=True)), labels, label_column)


@dataclass(frozen=True)
class _NoClass:
    value: object


def _column(columns: dict[str, list], source: str, column: str) -> list:
    if column not in columns:
        hint = nearest(column, columns) or ";"
        raise UserError(
            f"{source}: there is no column {column!r}{hint} the columns are {', '.join(map(str, columns))}."
        )
    return columns[column]


def _texts(columns: dict[str, list], source: str, column: str, empty_texts: bool) -> list[str]:
    texts = []
    for row, value in enumerate(_column(columns, source, column), start=1):
        where = f"{source}: row {row}, column {column!r}"
        text = "" if _is_missing(value) else str(value) if isinstance(value, int | float) else value
        if not isinstance(text, str):
            raise UserError(f"{where}: a {type(value).__name__} is not text; name a column of texts in data.text.")
        if not text.strip() and not empty_texts:
            raise UserError(
                f"{where}: the text is {'missing' if _is_missing(value) else 'empty'}; fill it or remove the row."
            )
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise UserError(
                f"{where}: the text holds half of a surrogate pair, which is not valid Unicode; correct it."
            )
        texts.append(text)
    return texts


def _label(value: object) -> Label | _NoClass | None:
    """Return an int for whole numbers, however they are written, a name for other text, None where missing."""
    if _is_missing(value):
        return None
    if not isinstance(value, int | float | str):
        return _NoClass(value)
    text = str(int(value)) if isinstance(value, bool) else str(value).strip()
    if INTEGER.fullmatch(text):
        return int(text.partition(".")[0])
    if isinstance(value, float) or FRACTION.fullmatch(text):
        return _NoClass(value)  # regression targets are no classes
    return text or None


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and value != value)


def _read_delimited(path: Path, separator: str) -> dict[str, list]:
    # Without the NA filter the words NA, null and None stay words; an empty field is an empty string.
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, na_filter=False, encoding="utf-8-sig")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus leading fields for row names
        raise ValueError("rows have more fields than the header; put texts that hold the separator in double quotes")
    return {column: table[column].tolist() for column in table.columns}


def _read_jsonl(path: Path) -> dict[str, list]:
    records = []
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                record = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"line {number}: {error.msg}") from error
            if not isinstance(record, dict):
                raise ValueError(f"line {number}: each line must be an object such as {{...}}")
            records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    return {name: [record.get(name) for record in records] for name in names}


def _read_parquet(path: Path) -> dict[str, list]:
    table = pd.read_parquet(path)
    return {column: table[column].tolist() for column in table.columns}


READERS = {
    ".csv": lambda path: _read_delimited(path, ","),
    ".tsv": lambda path: _read_delimited(path, "\t"),
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
