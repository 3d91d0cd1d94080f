"""A task by name or from the user's own files, as four parts disjoint in text."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np

from compressor.data.answers.kinds import SCORES, TOKENS
from compressor.data.files import read_table
from compressor.data.labels import Label, check_targets
from compressor.data.named import SCORE_NAME, ids_in_model, kind_of, named_task, reading
from compressor.data.rows import SKIP, Rows, kept_rows, to_rows, to_split, value_ids
from compressor.data.splits import Same, Split, copies_of, cut_train, first_texts, normalised, without_overlaps
from compressor.data.words.files import read_words
from compressor.data.words.rows import word_rows, word_split
from compressor.errors import UserError
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


def load_task(
    spec: DataSpec, *, model_labels: Sequence[str] | None, seed: int, same: Same = normalised, kind: str | None = None
) -> TaskData:
    """Read the task and cut it into its parts; `kind` is that of the model, None for what the recipe says (`kind_of`).

    `model_labels` are the class names of a fine-tuned classifier in id order: labels become its ids, and names are
    matched exactly, then without case. None means the model is fine-tuned here: the classes are those of the data.
    Selection, and calibration where its split is `train`, are cut out of train by row hash (see `cut_train`);
    calibration from `test` takes the first `size` texts in hash order. Rows of equal `same` are copies of one text.
    Raises UserError naming file, column and row, or the field of the recipe, where something does not fit.
    """
    kind = kind or kind_of(spec)
    wanted = ("train", "validation", "test") if spec.calibration.split == "test" else ("train", "validation")
    if spec.task is None:
        rows = {part: _own_file(spec, part, kind) for part in wanted}
        names = tuple(model_labels or _classes(rows["train"], spec, kind, skip=spec.on_bad_row == "skip"))
        data_names, model_ids = names, np.arange(len(names))
    else:
        task, rows = named_task(spec, wanted, seed, kind)
        names = tuple(model_labels or ((SCORE_NAME,) if kind in SCORES else task.label_names))
        data_names, model_ids = task.label_names, np.arange(len(names))
        if spec.labels is None and kind == "single_label":
            model_ids = ids_in_model(spec.task, task.label_names, names)
    ids_allowed = spec.task is not None or model_labels is not None
    if spec.labels is not None and ids_allowed:
        check_targets(spec.labels, names)
        data_names, model_ids = names, np.arange(len(names))
    splits, notes = {}, []
    for part in wanted:
        skip = spec.on_bad_row == "skip"
        if kind == TOKENS:
            splits[part], note = word_split(part, rows[part], data_names, ids_allowed=ids_allowed, skip=skip)
        else:
            splits[part], note = to_split(part, rows[part], data_names, model_ids, ids_allowed, skip, kind)
        notes += [note] if note else []
    same = cache(same)
    _check_different(splits, rows, same)
    cut = _parts(splits, spec, seed, same)
    parts, removed = without_overlaps(cut, same)
    source_of = {name: rows["train"].source for name in parts} | {"evaluation": rows["validation"].source}
    if spec.calibration.split == "test":
        source_of["calibration"] = rows["test"].source
    _check_parts(parts, removed, source_of, names, kind)
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
        label_values=value_ids(rows["train"], data_names, model_ids, ids_allowed) if kind == "single_label" else {},
    )


def _parts(splits: dict[str, Split], spec: DataSpec, seed: int, same: Same) -> dict[str, Split]:
    """Return the four parts, each of which gives way to those after it where a text stands in both."""
    size = spec.calibration.size
    if spec.calibration.split == "train":
        train, calibration, selection = cut_train(splits["train"], spec.selection.size, size, seed, same)
    else:
        train, _, selection = cut_train(splits["train"], spec.selection.size, 0, seed, same)
        calibration = first_texts(splits["test"], size, seed, same)
    return {"train": train, "calibration": calibration, "selection": selection, "evaluation": splits["validation"]}


def _check_parts(
    parts: dict[str, Split], removed: dict[str, int], source_of: dict[str, str], names: tuple[str, ...], kind: str
) -> None:
    for name, part in parts.items():
        if part.counted < (2 if name == "selection" else 1):
            lost = removed.get(name, 0)
            why = f" once the {lost} whose text also stands in a later part are removed" if lost else ""
            raise UserError(f"{source_of[name]}: its rows leave too few for the {name} part{why}; give more rows.")
    for name in ("train", "selection", "evaluation"):
        labels = parts[name].labels
        if labels is None or len(classes := np.unique(labels, axis=0)) > 1:
            continue
        if kind != "single_label":
            every = f"the score {classes[0]:g}" if kind in SCORES else "the same labels"
            raise UserError(
                f"{source_of[name]}: all rows of the {name} part ({len(labels)}) have {every}; correct the label column, or give "
                "more rows of every kind."
            )
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


def _classes(rows: Rows, spec: DataSpec, kind: str, *, skip: bool) -> list[str]:
    """Return the names of the outputs: the classes or labels in the training file, numbers in order, then names in order."""
    kept_rows(rows, rows.bad, skip=skip, remedy="correct the file" if skip else f"correct the file, or {SKIP}")
    if rows.labels is None:
        raise UserError("data.label is missing: fine-tuning needs the label column; set it, or leave out finetune.")
    if kind in SCORES:
        return [SCORE_NAME]
    if kind == "many_labels" and len(spec.label_columns) > 1:
        return spec.label_columns
    sets = rows.labels if kind in {"many_labels", TOKENS} else [(label,) for label in rows.labels]
    found: set[Label] = {label for labels in sets for label in labels or ()} - {None}
    if len(found) == 1:
        raise UserError(
            f"{rows.source}: all rows have the label {str(next(iter(found)))!r} in column {rows.label_column!r}; "
            "fine-tuning needs rows of at least two classes."
        )
    return [str(label) for label in sorted(found, key=lambda label: (isinstance(label, str), label))]


def _own_file(spec: DataSpec, part: str, kind: str) -> Rows:
    if kind == TOKENS:
        table = read_words(Path(getattr(spec, part)), f"data.{part}", spec.encoding)
        words, *more = spec.text_columns
        if more:
            raise UserError(
                f"data.text: {words}, {more[0]}; words with a label each come from one column, so name one."
            )
        return word_rows(table, words, spec.label, labels_needed=part != "test", **reading(spec))
    table = read_table(Path(getattr(spec, part)), f"data.{part}", spec.encoding)
    return to_rows(
        table, spec.text_columns, spec.label, kind=kind, group=spec.group, labels_needed=part != "test", **reading(spec)
    )
