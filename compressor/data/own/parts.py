"""A user's own file or folder as the parts that a recipe names: which file is what, and what is cut out of which.

Cuts go by a hash of what the tokenizer sees, so copies of one text never lie in two parts, and the order of a file is no
matter.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from compressor.data.files import KINDS, Table, bad_rows, expanded, read_lines, read_objects, read_table
from compressor.data.labels import MAPPED
from compressor.data.own.columns import Found
from compressor.data.rows import to_rows
from compressor.data.splits import Same, Split, hash_order, row_hash
from compressor.errors import UserError

NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval", "evaluation", "validation_matched", "dev_matched"),
    "test": ("test", "test_matched"),
}
"""What the files of a folder are called, without the suffix, by what is in them; the first that is there counts."""
SUFFIXES = (*KINDS, ".json", ".txt")
SHARD = re.compile(r"-0+-of-0*1$")
"""What the hub adds to the name of a split that is one file."""
EVALUATION = 1000, 2000
"""Rows of an evaluation cut out of a file: half of it up to the first, then a third, at most the second."""
LARGEST = {"train": 12_000, "validation": 5_000, "test": 6_000}
"""Rows of a part; of larger files a sample is drawn."""
LEAST = 40
"""Different texts without which nothing can be chosen and judged."""
SEED = 0


@dataclass(frozen=True)
class Parts:
    """What a recipe reads. Labels are places among the model's classes, in all of `train` and `validation` or in none."""

    train: Split
    """Selection and, without a test part, calibration are cut out of it later."""
    validation: Split
    test: Split | None
    """Text for calibration, unlabelled."""
    files: Mapping[str, str]
    """The file (as `read_own` calls it) of each part."""
    notes: Mapping[str, str]
    """Where a part is from, for those that are not simply the file of that name."""

    @property
    def labelled(self) -> bool:
        """Whether accuracy can be measured."""
        return self.validation.labels is not None

    def by_name(self) -> dict[str, Split]:
        """Return the parts that are there, by the field of the recipe that names them."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: part for name, part in parts.items() if part is not None}


def read_own(path: Path, named_by: str = "DATA") -> dict[str, Table]:
    """Return the table of a file, or of each part's file of a folder; a single file is called `all`.

    `named_by` is what messages call the argument that names the path.

    Read are csv, tsv, jsonl, json (a list of objects), parquet and txt (a text a line, in the column `text`). Raises
    UserError where there is nothing to read, two files could be one part, or a file is broken.
    """
    path = expanded(path)
    if not path.is_dir():
        return {"all": _read(path, named_by)}
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES and not file.name.startswith("."))
    stems = {file: SHARD.sub("", file.stem).casefold() for file in files}
    found = {}
    for part, names in NAMES.items():
        for name in names:
            named = [file for file in files if stems[file] == name]
            if len(named) > 1:
                raise UserError(
                    f"{path}: {' and '.join(file.name for file in named)} could both be the {part} part; keep one."
                )
            if named:
                found.setdefault(part, named[0])
    if not found and len(files) == 1:
        return {"all": _read(files[0], named_by)}
    if not found:
        have = f"it has {', '.join(file.name for file in files[:6])}" if files else f"it has no {', '.join(SUFFIXES)}"
        raise UserError(
            f"{path}: the folder has no file called train, validation or test ({have}); name one file instead."
        )
    return {part: _read(file, named_by) for part, file in found.items()}


def usable(table: Table, found: Found, part: str) -> tuple[Split, str]:
    """Return the rows that have texts and, where `found` has a label column with labels in this table, a label.

    With them comes a clause on the rows that are left out, empty where there are none; `part` begins the ids of rows. Raises
    UserError where a text column is missing or no row is left.
    """
    rows = to_rows(table, found.text, found.label, labels_needed=False)
    bad, labels = dict(rows.bad), None
    if rows.labels is not None:
        labels = [None if label is None else found.values.get(str(label)) for label in rows.labels]
        for row, label in enumerate(labels):
            if label is None:
                bad.setdefault(row, f"row {row + 1}, column {found.label!r}: {rows.labels[row]!r} is no label")
    kept = [row for row in range(len(rows.texts)) if row not in bad]
    if not kept:
        raise UserError(f"{table.source}: {bad_rows(bad, len(rows.texts))}; no row can be used.")
    ids = None if labels is None else np.array([labels[row] for row in kept], dtype=np.int64)
    split = Split([rows.texts[row] for row in kept], ids, [f"{part}:{row}" for row in kept])
    name = Path(table.source).name
    return split, f"{len(bad):,} of {table.rows:,} rows of {name} left out: {bad_rows(bad, table.rows)}" if bad else ""


def assign(splits: Mapping[str, Split], same: Same) -> Parts:
    """Return the parts that a recipe reads, out of the usable rows of the files; what is missing is cut.

    Where some files have labels, evaluation and training part come from these, and the text of another file is for
    calibration. Raises UserError where there are too few different texts.
    """
    labelled = {name: split for name, split in splits.items() if split.labels is not None}
    pool = labelled or dict(splits)
    evaluation = next(name for name in ("validation", "test", "train", "all") if name in pool)
    train = next((name for name in ("train", "validation", "test") if name in pool and name != evaluation), None)
    spare = next((name for name in ("test", "train", "validation") if name in {*splits} - {evaluation, train}), None)
    test = None if spare is None else replace(splits[spare], labels=None)
    notes = {}
    if train is None:
        whole = splits[evaluation]
        validation, rest = cut(_sample(whole, LARGEST["train"] + EVALUATION[1])[0], same)
        of = "rows" if evaluation == "all" else f"rows of the {evaluation} file"
        notes["validation"] = f"cut off the {len(whole):,} {of} by hash of the text, copies together"
        if len(rest) + len(validation) < len(whole):
            notes["train"] = f"a sample of {len(rest):,} of the other rows"
    else:
        rest, notes["train"] = _sample(splits[train], LARGEST["train"], train)
        validation, notes["validation"] = _sample(splits[evaluation], LARGEST["validation"], evaluation)
        for part, file in (("validation", evaluation), ("train", train)):
            notes[part] = notes[part] or (f"the {file} file" if file != part else "")
    if test is not None:
        test, note = _sample(test, LARGEST["test"], spare)
        notes["test"] = (note or f"the {spare} file") + (", whose labels are not used" if spare in labelled else "")
    files = {"train": train or evaluation, "validation": evaluation, "test": spare or ""}
    return Parts(rest, validation, test, files, {part: note for part, note in notes.items() if note})


def cut(rows: Split, same: Same) -> tuple[Split, Split]:
    """Return `rows` as an evaluation part and the rest; copies of one text (rows of equal `same`) lie in one of the two.

    Raises UserError where there are fewer than `LEAST` texts.
    """
    copies: dict[tuple, list[int]] = {}
    for row, texts in enumerate(rows.texts):
        copies.setdefault(same(texts), []).append(row)
    if len(copies) < LEAST:
        raise UserError(
            f"there are {len(copies)} different texts with what is needed, and at least {LEAST} are, some hundreds to prove "
            "anything; give more rows."
        )
    target = evaluation_size(len(rows))
    evaluation: list[int] = []
    for key in sorted(copies, key=lambda key: row_hash(key, SEED)):
        if len(evaluation) >= target:
            break
        if len(evaluation) + len(copies[key]) <= max(target, len(rows) // 2):  # a text of many copies is no evaluation
            evaluation += copies[key]
    chosen = set(evaluation)
    return rows.take(sorted(chosen)), rows.take([row for row in range(len(rows)) if row not in chosen])


def evaluation_size(rows: int) -> int:
    """Return how many of `rows` are for the evaluation: a third; more, up to half, while that is under 1,000; at most 2,000.

    Few rows cannot prove that little is lost, so small files give more of theirs.
    """
    least, most = EVALUATION
    return min(most, max(math.ceil(rows / 3), min(least, rows // 2)))


def _sample(rows: Split, most: int, file: str = "") -> tuple[Split, str]:
    """Return at most `most` rows, those of the lowest hash in their order, and a clause where some are left out."""
    if len(rows) <= most:
        return rows, ""
    return rows.take(
        sorted(hash_order(rows, SEED)[:most])
    ), f"a sample of {most:,} of the {len(rows):,} rows of the {file} file"


def _read(path: Path, named_by: str) -> Table:
    suffix = path.suffix.lower()
    if suffix == ".txt":
        lines = [line for line in read_lines(path, named_by) if line.strip()]
        if not lines:
            raise UserError(f"{path}: the file has no lines; give at least {LEAST} texts.")
        return Table(str(path), {"text": lines})
    table = read_objects(path, named_by) if suffix == ".json" else read_table(path, named_by)
    if table.hint:
        raise UserError(f"{path}: {table.hint}.")
    if suffix in {".csv", ".tsv"}:
        _check_header(table)
    return table


def _check_header(table: Table) -> None:
    """Raise UserError where the first line is a row: it names a column by one of the few values that stand below it."""
    for name, values in table.columns.items():
        if name and name in values and len({*values}) <= MAPPED:
            raise UserError(
                f"{table.source}: the first line seems to be a row, since {name!r} stands below it again, not the names of the "
                "columns; put a line such as text,label in front."
            )
