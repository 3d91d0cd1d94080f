"""Data files as columns: what stands in a file is what comes back, or one sentence says what is wrong, with its line."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from compressor.errors import UserError, nearest
from compressor.files import json_of

SEPARATORS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "vertical bars"}
LINE_END = re.compile(r"\r\n|\r|\n")
FIELD = re.compile(r'(?:"[^"]*+(?:""[^"]*+)*+"|(?!")[^,\r\n]*+)(?:,|\r\n|\r|\n|\Z)')
"""A field of a csv file with what ends it; nothing where a quote opens that does not close at the end of a field."""
MOST_ROWS, MOST_BYTES = 10_000_000, 8 * 2**30
"""Rows of a parquet file, and their bytes before they were packed: a small file may hold any number."""
MOST_COLUMNS, MOST_CELLS = 10_000, 200_000_000
"""Columns of a file, and its values, those counted too that rows lack."""
NAMED = 3
"""Bad rows that a message names, of all that it counts."""


@dataclass(frozen=True)
class Table:
    """A file as read. Rows count from 0 here, from 1 in messages."""

    source: str
    """The file (or hub split), as messages name it."""
    columns: dict[str, list]
    """Column by name, all of one length."""
    bad: dict[int, str] = field(default_factory=dict)
    """Rows that could not be read, and why; every column holds None there."""
    index: dict[str, list] = field(default_factory=dict)
    """The index of a pandas table: columns for whoever names them."""
    hint: str = ""
    """What the file seems to be instead, where its header is odd."""
    names: dict[str, list[str]] = field(default_factory=dict)
    """Column -> what its ids are called, where the source says so."""

    @property
    def rows(self) -> int:
        """Number of rows, bad ones included."""
        return max((len(values) for values in (*self.columns.values(), *self.index.values())), default=0)

    def column(self, name: str) -> list:
        """Return the values of a column; raises UserError where there is none of that name."""
        if name in self.columns:
            return self.columns[name]
        if name in self.index:
            return self.index[name]
        names = [*self.columns, *self.index]
        if self.hint:
            raise UserError(f"{self.source}: there is no column {name!r}: {self.hint}.")
        more = nearest(name, names) or ";"
        if f'"{name}"' in self.columns:
            more = " without quotes (in a tsv quotes are characters; save the file as csv if they are none);"
        raise UserError(
            f"{self.source}: there is no column {name!r}{more} the columns are {', '.join(map(str, names))}."
        )

    def check(self) -> "Table":
        """Return the table; raises UserError where rows of it could not be read."""
        if self.bad:
            raise UserError(f"{self.source}: {bad_rows(self.bad, self.rows)}; correct them.")
        return self


def bad_rows(bad: dict[int, str], rows: int) -> str:
    """Return the first bad rows in words, and how many of all `rows` they are."""
    first = "; ".join(bad[row] for row in sorted(bad)[:NAMED])
    more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
    return first + more + (f" ({len(bad):,} of {rows:,} rows are bad)" if len(bad) > 1 else "")


def read_table(path: Path, named_by: str, encoding: str | None = None) -> Table:
    """Return the columns of a csv, tsv, jsonl or parquet file; `named_by` is the recipe field that named the file.

    Text files are UTF-8 unless `encoding` says otherwise. Values of csv and tsv are text throughout. In a csv file double
    quotes go around values that need them; in a tsv file a line is a row and quotes are characters. Raises UserError
    where the file is missing, of another kind, broken as a whole or without rows; broken rows are in `bad`.
    """
    path, suffix = expanded(path), path.suffix.lower()
    if suffix not in KINDS:
        hint = nearest(suffix, KINDS) or ";"
        raise UserError(
            f"{path}: {suffix or 'no suffix'} ({named_by}) is no known kind of data{hint} use {', '.join(KINDS)}."
        )
    _check_file(path, named_by)
    content = path if suffix == PARQUET else _read_text(path, named_by, encoding)
    try:
        table = KINDS[suffix](str(path), content)
    except ValueError as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise UserError(f"{path}: not readable as {suffix[1:]} ({reason}); correct the file.") from error
    if not table.rows:
        raise UserError(f"{path}: the file has no rows; {named_by} needs at least one.")
    return table.check() if len(table.bad) == table.rows and not table.hint else table


def read_lines(path: Path, named_by: str, encoding: str | None = None) -> list[str]:
    r"""Return the lines of a text file, UTF-8 unless `encoding` says otherwise; \n, \r\n and \r end a line, nothing else does.

    Raises UserError where the file is missing or not encoded so.
    """
    path = expanded(path)
    _check_file(path, named_by)
    return _lines(_read_text(path, named_by, encoding))


def read_objects(path: Path, named_by: str) -> Table:
    """Return a json file, a list of objects, as a table; raises UserError where it is missing or anything else."""
    path = expanded(path)
    _check_file(path, named_by)
    try:
        records = json_of(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: not readable as json ({error}); a file with an object a line is called .jsonl."
        ) from error
    listed = isinstance(records, list) and records and all(isinstance(record, dict) for record in records)
    names = dict.fromkeys(name for record in records for name in record) if listed else {}
    if not listed or len(names) > MOST_COLUMNS or len(names) * len(records) > MOST_CELLS:
        raise UserError(
            f"{path}: a json file of data is a list of objects such as [{{...}}, ...], of at most {MOST_COLUMNS:,} names; save "
            "it so, or as jsonl."
        )
    return Table(str(path), {name: [record.get(name) for record in records] for name in names})


def expanded(path: Path) -> Path:
    """Return the path with a leading ~ as the home folder, where there is one."""
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def _check_file(path: Path, named_by: str) -> None:
    found = False
    with suppress(OSError):  # a name that is too long, a folder that may not be looked into
        found = path.is_file()
    if not found:
        raise UserError(f"{path}: no such file; correct {named_by}.")


def _read_text(path: Path, named_by: str, encoding: str | None) -> str:
    name = encoding or "utf-8"
    try:
        data = path.read_bytes()
        return data.decode(name).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = 1 + len(LINE_END.findall(data[: error.start].decode(name, errors="replace")))
        remedy = "save the file as UTF-8" + (", or set data.encoding" if named_by.startswith("data.") else "")
        raise UserError(
            f"{path}: line {line} is not {encoding or 'UTF-8'} (byte 0x{data[error.start]:02x}); "
            f"{'correct data.encoding or the file' if encoding else remedy}."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the file cannot be read ({error}); check its rights and {named_by}.") from error


def _lines(text: str) -> list[str]:
    return [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]


def _read_tsv(source: str, text: str) -> Table:
    records = [(line, row.split("\t")) for line, row in enumerate(_lines(text), start=1) if row]
    return _from_records(source, records, "\t", "no value of a tsv file holds tabs or line ends; use csv or jsonl")


def _read_csv(source: str, text: str) -> Table:
    lines = io.StringIO(text, newline="").readlines()
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(lines, strict=True)
    records, ends = [], []
    begin = 1
    try:
        for record in reader:
            if record:
                records.append((begin, record))
                ends.append(reader.line_num)
            begin = reader.line_num + 1
    except csv.Error as error:
        hint = _separator_hint(next(csv.reader(lines[:1])), ",")
        rest, place = "".join(lines[begin - 1 :]), 0
        while (found := FIELD.match(rest, place)) and found.end() > place:
            place = found.end()
        line = begin + len(LINE_END.findall(rest[:place]))
        raise ValueError(
            hint or f"the quote that opens in line {line} does not close at the end of a field: {_TWICE}"
        ) from error
    _check_swallowed(records, ends, lines)
    return _from_records(source, records, ",", "a text that holds commas goes in double quotes")


_TWICE = "a text that holds quotes goes in quotes, each quote inside written twice"


def _check_swallowed(records: Sequence[tuple[int, list[str]]], ends: Sequence[int], lines: Sequence[str]) -> None:
    """Raise ValueError where a quote at the begin of one row and one at the end of another make a single row of both.

    That is valid csv. But each of its lines then has as many fields as the header, one of which (such as the label) is
    in every line a value that this column has elsewhere; the lines of a text do not.
    """
    known = [set(column) for column in zip(*(row for _, row in records if len(row) == len(records[0][1])), strict=True)]
    for (begin, _), end in zip(records, ends, strict=True):
        inside = [LINE_END.sub("", line).split(",") for line in lines[begin - 1 : end]] if end > begin else [[]]
        if any(len(row) != len(known) for row in inside):
            continue
        if any(all(row[place] in values for row in inside) for place, values in enumerate(known)):
            raise ValueError(
                f"the quote that opens in line {begin} closes in line {end}, but each of these lines reads as a row of its "
                f"own: {_TWICE}"
            )


def _from_records(source: str, records: Sequence[tuple[int, list[str]]], separator: str, surplus: str) -> Table:
    """Return the table of lines split into fields, the header first."""
    if not records:
        return Table(source, {})
    (_, header), *rows = records
    _check_cells(len(header), len(rows))
    twice = next((name for name, count in Counter(header).items() if name and count > 1), None)
    if twice is not None:
        raise ValueError(f"the header names the column {twice!r} twice")
    bad, hinted = {}, False
    for row, (line, fields) in enumerate(rows):
        if len(fields) != len(header):
            bad[row] = f"line {line} has {len(fields)} field{'s' * (len(fields) != 1)}, the header {len(header)}"
            if len(fields) > len(header) and not hinted:
                bad[row], hinted = f"{bad[row]} ({surplus})", True
    values = [[None] * len(header) if row in bad else fields for row, (_, fields) in enumerate(rows)]
    columns = {name: [fields[place] for fields in values] for place, name in enumerate(header)}
    return Table(source, columns, bad, hint=_separator_hint(header, separator))


def _check_cells(columns: int, rows: int) -> None:
    """Raise ValueError for more columns than a table has, or a table that a few names in each of many rows make huge."""
    if columns > MOST_COLUMNS or columns * rows > MOST_CELLS:
        raise ValueError(
            f"it has {columns:,} columns and {rows:,} rows; at most {MOST_COLUMNS:,} columns, {MOST_CELLS:,} values are read"
        )


def _separator_hint(header: Sequence[str], own: str) -> str:
    others = {sign: name for sign, name in SEPARATORS.items() if len(header) == 1 and sign in header[0]}
    name = next(iter(others.values()), "")
    return (
        f"the file seems to be separated by {name}; save it with {SEPARATORS[own]} between the values" if name else ""
    )


def _read_jsonl(source: str, text: str) -> Table:
    records: list[dict] = []
    bad = {}
    for number, line in enumerate(_lines(text), start=1):
        if not line.strip():
            continue
        try:
            record, problem = json_of(line), "each line must be an object such as {...}"
        except json.JSONDecodeError as error:
            record, problem = None, error.msg
        except ValueError as error:  # a number too long, or values nested too deep
            record, problem = None, str(error).partition(";")[0]
        if not isinstance(record, dict):
            bad[len(records)], record = f"line {number}: {problem}", {}
        records.append(record)
    names = dict.fromkeys(name for record in records for name in record)
    _check_cells(len(names), len(records))
    names = names or ({"": None} if records else {})  # one column for rows of which none could be read
    return Table(source, {name: [record.get(name) for record in records] for name in names}, bad)


def _read_parquet(source: str, path: Path) -> Table:
    import pyarrow.parquet as pq

    try:
        told = pq.read_metadata(path)
        groups = [told.row_group(number) for number in range(told.num_row_groups)]
        if told.num_rows > MOST_ROWS or sum(group.total_byte_size for group in groups) > MOST_BYTES:
            raise ValueError(
                f"it has {told.num_rows:,} rows, and at most {MOST_ROWS:,} of {MOST_BYTES:,} bytes are read"
            )
        table = pd.read_parquet(path)
        columns = {column: table[column].tolist() for column in table.columns}
        names = [name for name in table.index.names if name is not None and name not in columns]
        return Table(source, columns, index={name: table.index.get_level_values(name).tolist() for name in names})
    except Exception as error:  # pyarrow and pandas raise whatever a broken file leads them to
        raise ValueError(str(error) or type(error).__name__) from error


PARQUET = ".parquet"
KINDS = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_jsonl, PARQUET: _read_parquet}
"""Reader by suffix: takes the name of the source, and the text or (parquet) the path."""
