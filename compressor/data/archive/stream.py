"""Texts of an archive in chunks, of which any number of readers take a share each; one chunk is in memory at a time."""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressor.data.files import expanded
from compressor.data.hub import reading_hub
from compressor.data.labels import is_missing
from compressor.data.splits import Same
from compressor.errors import UserError, first_line, nearest
from compressor.recipe.data import ArchiveSpec

if TYPE_CHECKING:
    import pyarrow as pa

CHUNK = 1000
"""Rows that are read, tokenised and summed together; whoever reads them, the chunks are the same."""
LINES = ".txt"


Opened = tuple[list[str], Iterable["pa.RecordBatch"]]
"""The columns of a file, and its rows in batches that are read as they are asked for."""


def _parquet(path: Path, columns: Sequence[str]) -> Opened:
    from pyarrow import parquet

    file = parquet.ParquetFile(path, pre_buffer=False)  # what is buffered before it is read grows with the file
    known = [name for name in columns if name in file.schema_arrow.names]
    return file.schema_arrow.names, file.iter_batches(CHUNK, columns=known, use_threads=False)


def _jsonl(path: Path, _columns: Sequence[str]) -> Opened:
    from pyarrow import json

    reader = json.open_json(path, read_options=json.ReadOptions(use_threads=False))
    return reader.schema.names, reader


def _csv(path: Path, columns: Sequence[str]) -> Opened:
    import pyarrow as pa
    from pyarrow import csv

    # texts that look like numbers, or as if they were missing, are texts
    texts = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)
    reader = csv.open_csv(
        path,
        read_options=csv.ReadOptions(use_threads=False),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=texts,
    )
    return reader.schema.names, reader


FORMATS: dict[str, Callable[[Path, Sequence[str]], Opened]] = {".parquet": _parquet, ".jsonl": _jsonl, ".csv": _csv}
"""Suffix -> what opens such a file; besides these .txt, a text a line. Readers of whole datasets run ahead of who reads them."""


@dataclass(frozen=True)
class Chunk:
    """Rows of an archive: their numbers, from 0, and texts. Left out are `empty` rows, and `known` ones, used elsewhere."""

    rows: np.ndarray
    texts: list[tuple[str, ...]]
    empty: int
    known: int


def rows_of(spec: ArchiveSpec) -> int | None:
    """Return how many rows there are to read, where that is known without reading them."""
    if spec.size is not None or spec.hub:
        return spec.size
    from pyarrow import parquet

    files = files_of(spec)
    if any(file.suffix.lower() != ".parquet" for file in files):
        return None
    return sum(parquet.read_metadata(file).num_rows for file in files)


def files_of(spec: ArchiveSpec) -> list[Path]:
    """Return the files of an archive, in order; raises UserError where there are none or one is of another kind."""
    found: list[Path] = []
    for named in spec.paths:
        path = expanded(Path(named))
        matched = [path] if path.is_file() else Path(path.anchor).glob(str(path.relative_to(path.anchor)))
        files = sorted(file for file in matched if file.is_file())
        if not files:
            raise UserError(f"data.archive.files: {named}: no such file; name files that are there.")
        found += files
    for file in found:
        if file.suffix.lower() not in {*FORMATS, LINES}:
            hint = nearest(file.suffix.lower(), [*FORMATS, LINES]) or ";"
            raise UserError(f"data.archive.files: {file}: this kind cannot be read as a stream{hint} use {KINDS}.")
    return found


KINDS = ", ".join([*FORMATS, LINES])


def chunks(
    spec: ArchiveSpec,
    columns: Sequence[str],
    *,
    known: Collection[tuple[str, ...]] = frozenset(),
    same: Same = lambda texts: texts,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Chunk]:
    """Yield the chunks that fall to reader k of n, `share` (k, n): every n-th, from number k on.

    Rows without text are left out, and those whose `same` is among the `known`: texts by which something is chosen or judged.
    Raises UserError, naming file and row, where something is no text or cannot be read.
    """
    reader, readers = share
    rows = islice(_rows(spec, columns), spec.size)
    for number in count():
        taken = list(islice(rows, CHUNK))
        if not taken:
            return
        if number % readers == reader:
            yield _chunk(number * CHUNK, taken, columns, known, same)


def first_chunk(spec: ArchiveSpec, columns: Sequence[str]) -> Chunk:
    """Return the first chunk; raises UserError as `chunks` does, and where the archive has no rows."""
    found = next(chunks(spec, columns), None)
    if found is None:
        raise UserError(f"data.archive: {spec.hub or ', '.join(spec.paths)}: there are no rows; name text.")
    return found


def _chunk(first: int, taken: list[tuple[str, tuple]], columns: Sequence[str], known: Collection, same: Same) -> Chunk:
    rows, texts, empty = [], [], 0
    for place, (source, values) in enumerate(taken):
        for column, value in zip(columns, values, strict=True):
            if not (is_missing(value) or isinstance(value, str | int | float)):
                raise UserError(
                    f"{source}: row {first + place + 1} of the archive, column {column!r}: a {type(value).__name__} is no text; "
                    "name another column with data.archive.text."
                )
        text = tuple("" if is_missing(value) else str(value) for value in values)
        if all(part.strip() for part in text):
            rows.append(first + place)
            texts.append(text)
        else:
            empty += 1
    new = [place for place, text in enumerate(texts) if not known or same(text) not in known]
    return Chunk(
        np.array([rows[place] for place in new], dtype=np.int64),
        [texts[place] for place in new],
        empty,
        len(texts) - len(new),
    )


def _rows(spec: ArchiveSpec, columns: Sequence[str]) -> Iterator[tuple[str, tuple]]:
    """Yield the source of each row and the values of its text columns."""
    if spec.hub:
        yield from _hub_rows(spec, columns)
        return
    import pyarrow as pa

    for path in files_of(spec):
        try:
            yield from _lines(path, columns) if path.suffix.lower() == LINES else _table_rows(path, columns)
        except (OSError, ValueError, pa.ArrowException) as error:  # a broken encoding is a ValueError
            reason = first_line(error).rstrip(".")
            raise UserError(f"data.archive.files: {path}: it cannot be read ({reason}); correct the file.") from error


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple]]:
    if len(columns) != 1:
        raise UserError(f"data.archive.files: {path}: a line holds one text, and this model reads pairs; use {KINDS}.")
    with path.open(encoding="utf-8-sig") as opened:
        for line in opened:
            yield str(path), (line.rstrip("\n"),)


def _table_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, tuple]]:
    names, batches = FORMATS[path.suffix.lower()](path, columns)
    _check_columns(columns, names, f"data.archive.files: {path}")
    for batch in batches:
        for values in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
            yield str(path), values


def _check_columns(columns: Sequence[str], names: Sequence[str], where: str) -> None:
    """Raise UserError, beginning with `where`, for columns that are none of the `names`."""
    missing = next((name for name in columns if name not in names), None)
    if missing is not None:
        hint = nearest(missing, names) or ";"
        raise UserError(
            f"{where}: there is no column {missing!r}{hint} the columns are {', '.join(names)}; name one with data.archive.text."
        )


def _hub_rows(spec: ArchiveSpec, columns: Sequence[str]) -> Iterator[tuple[str, tuple]]:
    import datasets

    with reading_hub(f"data.archive.hub: {spec.hub!r}", "give data.archive.files of your own"):
        loaded = datasets.load_dataset(spec.hub, spec.config, split=spec.split, streaming=True)
        names = loaded.column_names or list(columns)
        _check_columns(columns, names, f"data.archive.hub: {spec.hub}")
        for row in loaded:
            yield spec.hub, tuple(row[name] for name in columns)
