"""A task by name or from the user's own files, as four parts disjoint in text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data import demo
from compressor.data.files import Table, expanded, read_table
from compressor.data.labels import Label, check_targets, listed
from compressor.data.rows import SKIP, Rows, kept_rows, to_rows, to_split, value_ids
from compressor.data.splits import (
    Same,
    Split,
    copies_of,
    cut_train,
    first_rows,
    hash_order,
    normalised,
    without_overlaps,
)
from compressor.errors import UserError, nearest
from compressor.recipe.data import DataSpec


@dataclass(frozen=True)
class TaskData:
    """The four parts of a task.

    train: fine-tuning and distillation. calibration: text for states, scores and refits, labels optional.
    selection: chooses among plans. evaluation: read once, at the end. No text stands in two parts, and none twice in
    calibration or selection: copies would judge what was fitted to themselves, and count as evidence of their own.
    """

    name: str
    train: Split
    calibration: Split
    selection: Split
    evaluation: Split
    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    """Names of the classes in id order; the labels of every part are these ids."""
    removed_overlaps: dict[str, int]
    """Rows removed from train, calibration and selection because their text also stands in a later part."""
    removed_copies: dict[str, int] = field(default_factory=dict)
    """Rows removed because their text stands in calibration or selection already: the first in hash order stays."""
    guard: Split | None = None
    """Rows that certify a cascade: the calibration part, or what was set aside of it."""
    skipped_rows: dict[str, int] = field(default_factory=dict)
    """Bad rows that were left out of each file, where the recipe says so."""
    warnings: tuple[str, ...] = ()
    """What whoever reads the result should know of the data, a sentence each."""
    label_values: dict[str, int] = field(default_factory=dict)
    """The class of each value that the label column of the training file holds."""


@dataclass(frozen=True)
class NamedTask:
    """Columns and class names of a task known by name, and the splits that hold its labelled and unlabelled rows."""

    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    validation: str = "validation"
    test: str = "test"


_PAIR = ("sentence1", "sentence2")
GLUE = {
    "cola": NamedTask(("sentence",), ("unacceptable", "acceptable")),
    "sst2": NamedTask(("sentence",), ("negative", "positive")),
    "mrpc": NamedTask(_PAIR, ("not_equivalent", "equivalent")),
    "qqp": NamedTask(("question1", "question2"), ("not_duplicate", "duplicate")),
    "qnli": NamedTask(("question", "sentence"), ("entailment", "not_entailment")),
    "rte": NamedTask(_PAIR, ("entailment", "not_entailment")),
    "wnli": NamedTask(_PAIR, ("not_entailment", "entailment")),
    "mnli": NamedTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), "validation_matched", "test_matched"
    ),
}
DEMO = NamedTask(("sentence",), demo.LABELS)
REFUSED = {"stsb": "it is a regression task, and layers are scored by how well they separate classes"}


def load_task(spec: DataSpec, *, model_labels: Sequence[str] | None, seed: int, same: Same = normalised) -> TaskData:
    """Read the task and cut it into its parts.

    `model_labels` are the class names of a fine-tuned classifier in id order: labels become its ids, and names are
    matched exactly, then without case. None means the model is fine-tuned here: the classes are those of the data.
    Selection, and calibration where its split is `train`, are cut out of train by row hash (see `cut_train`);
    calibration from `test` takes the first `size` texts in hash order. Rows of equal `same` are copies of one text.
    Raises UserError naming file, column and row, or the field of the recipe, where something does not fit.
    """
    wanted = ("train", "validation", "test") if spec.calibration.split == "test" else ("train", "validation")
    if spec.task is None:
        rows = {part: _own_file(spec, part) for part in wanted}
        names = tuple(model_labels or _classes(rows["train"], skip=spec.on_bad_row == "skip"))
        data_names, model_ids = names, np.arange(len(names))
    else:
        task, rows = _named_task(spec, wanted, seed)
        names = tuple(model_labels or task.label_names)
        data_names, model_ids = task.label_names, np.arange(len(names))
        if spec.labels is None:
            model_ids = _model_ids(spec.task, task.label_names, names)
    ids_allowed = spec.task is not None or model_labels is not None
    if spec.labels is not None and ids_allowed:
        check_targets(spec.labels, names)
        data_names, model_ids = names, np.arange(len(names))
    splits, notes = {}, []
    for part in wanted:
        splits[part], note = to_split(part, rows[part], data_names, model_ids, ids_allowed, spec.on_bad_row == "skip")
        notes += [note] if note else []
    same = cache(same)
    _check_different(splits, rows, same)
    cut = _parts(splits, spec, seed, same)
    parts, removed = without_overlaps(cut, same)
    source_of = {name: rows["train"].source for name in parts} | {"evaluation": rows["validation"].source}
    if spec.calibration.split == "test":
        source_of["calibration"] = rows["test"].source
    _check_parts(parts, removed, source_of, names)
    return TaskData(
        name=spec.task or Path(spec.train).stem,
        **parts,
        text_columns=task.text_columns if spec.task else tuple(spec.text_columns),
        label_names=names,
        removed_overlaps=removed,
        removed_copies={
            "calibration": copies_of(cut["calibration"], splits[spec.calibration.split], same),
            "selection": copies_of(cut["selection"], splits["train"], same),
        },
        skipped_rows={part: len(rows[part].texts) - len(splits[part]) for part in wanted},
        warnings=tuple(notes),
        label_values=value_ids(rows["train"], data_names, model_ids, ids_allowed),
    )


def _parts(splits: dict[str, Split], spec: DataSpec, seed: int, same: Same) -> dict[str, Split]:
    """Return the four parts, each of which gives way to those after it where a text stands in both."""
    size = spec.calibration.size
    if spec.calibration.split == "train":
        train, calibration, selection = cut_train(splits["train"], spec.selection.size, size, seed, same)
    else:
        train, _, selection = cut_train(splits["train"], spec.selection.size, 0, seed, same)
        test = splits["test"].take(hash_order(splits["test"], seed))
        calibration = test.take(first_rows(test, same)[:size])
    return {"train": train, "calibration": calibration, "selection": selection, "evaluation": splits["validation"]}


def _check_parts(
    parts: dict[str, Split], removed: dict[str, int], source_of: dict[str, str], names: tuple[str, ...]
) -> None:
    for name, part in parts.items():
        if len(part) < (2 if name == "selection" else 1):
            lost = removed.get(name, 0)
            why = f" once the {lost} whose text also stands in a later part are removed" if lost else ""
            raise UserError(f"{source_of[name]}: its rows leave too few for the {name} part{why}; give more rows.")
    for name in ("train", "selection", "evaluation"):
        labels = parts[name].labels
        if labels is not None and len(classes := np.unique(labels)) < 2:
            raise UserError(
                f"{source_of[name]}: the {name} part ({len(labels)} rows) holds the single class {names[classes[0]]!r}; "
                "correct the label column, or give more rows of every class."
            )


def _check_different(splits: dict[str, Split], rows: dict[str, Rows], same: Same) -> None:
    """Raise UserError where nothing would be left of a file, since the evaluation file holds the same rows."""
    evaluated = set(map(same, splits["validation"].texts))
    for part, split in splits.items():
        if part != "validation" and evaluated.issuperset(map(same, split.texts)):
            raise UserError(
                f"{rows[part].source}: all its rows are the same rows as in {rows['validation'].source}; train and evaluate "
                "on different texts."
            )


def _classes(rows: Rows, *, skip: bool) -> list[str]:
    """Return the names of the classes that the training file holds: numbers in order, then names in order."""
    kept_rows(rows, rows.bad, skip=skip, remedy="correct the file" if skip else f"correct the file, or {SKIP}")
    if rows.labels is None:
        raise UserError("data.label is missing: fine-tuning needs the label column; set it, or leave out finetune.")
    found: set[Label] = set(rows.labels) - {None}
    if len(found) == 1:
        raise UserError(
            f"{rows.source}: all rows have the label {str(next(iter(found)))!r} in column {rows.label_column!r}; "
            "fine-tuning needs rows of at least two classes."
        )
    return [str(label) for label in sorted(found, key=lambda label: (isinstance(label, str), label))]


def _own_file(spec: DataSpec, part: str) -> Rows:
    table = read_table(Path(getattr(spec, part)), f"data.{part}", spec.encoding)
    return to_rows(table, spec.text_columns, spec.label, labels_needed=part != "test", **_reading(spec))


def _reading(spec: DataSpec) -> dict[str, Any]:
    return {"mapping": spec.labels, "skip": spec.on_bad_row == "skip"}


def _named_task(spec: DataSpec, wanted: Sequence[str], seed: int) -> tuple[NamedTask, dict[str, Rows]]:
    """Return the task's row of the table and the rows of the `wanted` parts."""
    if spec.task == "demo":
        files = demo.generate_files(seed)
        columns = {
            part: dict(zip(("sentence", "label"), map(list, zip(*files[part], strict=True)), strict=True))
            for part in wanted
        }
        tables = {part: Table(f"demo {part}", columns[part]) for part in wanted}
        return DEMO, {part: to_rows(tables[part], DEMO.text_columns, "label", **_reading(spec)) for part in wanted}
    if spec.task in REFUSED:
        raise UserError(
            f"data.task: {spec.task} cannot be compressed here: {REFUSED[spec.task]}; choose a classification task."
        )
    if spec.task not in GLUE:
        known = ["demo", *GLUE]
        raise UserError(
            f"data.task: {spec.task!r} is not known{nearest(spec.task, known) or ';'} known are {', '.join(known)}; "
            "for your own files leave task out and set data.train, data.validation and data.text."
        )
    task = GLUE[spec.task]
    split_of = {"train": "train", "validation": task.validation, "test": task.test}
    folder = expanded(Path(spec.source))
    is_local = folder.exists() or folder.is_absolute() or spec.source.startswith((".", "~"))
    reader = partial(_read_folder, folder, spec.task) if is_local else _hub_reader(spec.source, spec.task)
    rows = {}
    for part in wanted:
        table = reader(part, split_of[part])
        # A few questions of qqp are empty on the hub itself; the model reads them as such.
        rows[part] = to_rows(
            table, task.text_columns, "label", labels_needed=part != "test", empty_texts=True, **_reading(spec)
        )
    return task, rows


Reader = Callable[[str, str], Table]
"""Takes a part and the name of its split."""


def _read_folder(folder: Path, task: str, part: str, split: str) -> Table:
    path, plain = folder / task / f"{split}.parquet", folder / task / f"{part}.parquet"
    path = plain if plain.is_file() and not path.is_file() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; data.source must be a folder that holds {task}/{split}.parquet.")
    return read_table(path, "data.source")


def _hub_reader(source: str, task: str) -> Reader:
    import datasets

    remedy = f"set a local copy with --set data.source=<folder with {task}/train.parquet, {task}/validation.parquet>"
    try:
        loaded = datasets.load_dataset(source, task)
    # No network, offline mode and unknown repositories are OSErrors, unknown configurations ValueErrors,
    # repositories that hold a script RuntimeErrors.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0].rstrip(".")
        raise UserError(
            f"data.source: {source!r} ({task}) cannot be read from the hub ({reason}); {remedy}."
        ) from error

    def read(part: str, split: str) -> Table:  # noqa: ARG001
        if split not in loaded:
            raise UserError(
                f"data.source: {source!r} ({task}) has no split {split!r}, only {', '.join(loaded)}; {remedy}."
            )
        return Table(f"{source} {task} {split}", loaded[split].to_dict())

    return read


def _model_ids(task: str, task_names: tuple[str, ...], model_names: tuple[str, ...]) -> np.ndarray:
    """Return the model's id of each of the task's classes: int64 [C].

    Models trained with the same names in another order (often so for mnli) are followed; generic names such as
    LABEL_0 mean the task's own order.
    """
    if len(model_names) != len(task_names):
        raise UserError(
            f"data.task: {task} has the {len(task_names)} classes {listed(task_names)}, but the model has "
            f"{len(model_names)}: {listed(model_names)}; choose the model or the task that fits."
        )
    ours, theirs = ([_letters(name) for name in names] for names in (task_names, model_names))
    if sorted(ours) == sorted(theirs):
        return np.array([theirs.index(name) for name in ours], dtype=np.int64)
    if any(name in ours and ours.index(name) != index for index, name in enumerate(theirs)):
        raise UserError(
            f"data.task: {task} has the classes {listed(task_names)}, and the model's {listed(model_names)} do not fit "
            "them; correct id2label in the model's config.json."
        )
    return np.arange(len(task_names))


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())
