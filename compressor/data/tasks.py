"""A task by name or from the user's own files, as four parts disjoint in text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from compressor.data import demo
from compressor.data.files import Label, Rows, read_columns, to_rows
from compressor.data.splits import Split, cut_train, hash_order, without_overlaps
from compressor.errors import UserError, nearest
from compressor.recipe.compression import DataSpec


@dataclass(frozen=True)
class TaskData:
    """The four parts of a task.

    train: fine-tuning and distillation. calibration: text for states, scores and refits, labels optional.
    selection: chooses among plans. evaluation: read once, at the end. No text stands in two parts.
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
    guard: Split | None = None
    """Rows that certify a cascade, no text twice: the calibration part, or what was set aside of it."""


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


def load_task(spec: DataSpec, *, model_labels: Sequence[str] | None, seed: int) -> TaskData:
    """Read the task and cut it into its parts.

    `model_labels` are the class names of a fine-tuned classifier in id order: labels become its ids, and names are
    matched exactly, then without case. None means the model is fine-tuned here: the classes are those of the data.
    Selection, and calibration where its split is `train`, are cut out of train by row hash (see `cut_train`);
    calibration from `test` takes the first `size` rows in hash order.
    Raises UserError naming file, column and row, or the field of the recipe, where something does not fit.
    """
    wanted = ("train", "validation", "test") if spec.calibration.split == "test" else ("train", "validation")
    if spec.task is None:
        rows = {part: _own_file(spec, part) for part in wanted}
        names = tuple(model_labels or _classes(rows["train"]))
        data_names, model_ids = names, np.arange(len(names))
    else:
        task, rows = _named_task(spec, wanted, seed)
        names = tuple(model_labels or task.label_names)
        data_names, model_ids = task.label_names, _model_ids(spec.task, task.label_names, names)
    ids_allowed = spec.task is not None or model_labels is not None
    splits = {part: _split(part, rows[part], data_names, model_ids, ids_allowed) for part in wanted}
    parts, removed = without_overlaps(_parts(splits, spec, seed))
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
    )


def _parts(splits: dict[str, Split], spec: DataSpec, seed: int) -> dict[str, Split]:
    """Return the four parts, each of which gives way to those after it where a text stands in both."""
    if spec.calibration.split == "train":
        train, calibration, selection = cut_train(splits["train"], spec.selection.size, spec.calibration.size, seed)
    else:
        train, _, selection = cut_train(splits["train"], spec.selection.size, 0, seed)
        calibration = splits["test"].take(hash_order(splits["test"], seed)[: spec.calibration.size])
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


def _split(part: str, rows: Rows, data_names: tuple[str, ...], model_ids: np.ndarray, ids_allowed: bool) -> Split:
    labels = None if rows.labels is None else model_ids[label_ids(rows, data_names, ids_allowed=ids_allowed)]
    return Split(rows.texts, labels, [f"{part}:{row}" for row in range(len(rows.texts))])


def label_ids(rows: Rows, names: Sequence[str], *, ids_allowed: bool) -> np.ndarray:
    """Return the index into `names` of each label: int64 [N].

    Labels are matched as names, exactly and then without case. Where no label of the file is a name and `ids_allowed`,
    whole numbers below the number of classes are ids. Raises UserError at the first row whose label fits neither way.
    """
    ids = {label: _id_of_name(str(label), names) for label in set(rows.labels)}
    if ids_allowed and all(found is None for found in ids.values()):
        ids = {label: label if isinstance(label, int) and 0 <= label < len(names) else None for label in ids}
    for row, label in enumerate(rows.labels, start=1):
        if ids[label] is None:
            as_ids = f" or the ids 0 to {len(names) - 1}" if ids_allowed else ""
            raise UserError(
                f"{rows.source}: row {row}, column {rows.label_column!r}: the label {str(label)!r} is none of "
                f"{_listed(names)}{as_ids}; correct the label, or name another label column."
            )
    return np.array([ids[label] for label in rows.labels], dtype=np.int64)


def _id_of_name(label: str, names: Sequence[str]) -> int | None:
    if label in names:
        return list(names).index(label)
    same = [index for index, name in enumerate(names) if name.casefold() == label.casefold()]
    return same[0] if len(same) == 1 else None


def _classes(rows: Rows) -> list[str]:
    """Return the names of the classes that the training file holds: numbers in order, then names in order."""
    if rows.labels is None:
        raise UserError("data.label is missing: fine-tuning needs the label column; set it, or leave out finetune.")
    found: set[Label] = set(rows.labels)
    if len(found) < 2:
        raise UserError(
            f"{rows.source}: all rows have the label {str(rows.labels[0])!r} in column {rows.label_column!r}; "
            "fine-tuning needs rows of at least two classes."
        )
    return [str(label) for label in sorted(found, key=lambda label: (isinstance(label, str), label))]


def _own_file(spec: DataSpec, part: str) -> Rows:
    path = Path(getattr(spec, part)).expanduser()
    columns = read_columns(path, f"data.{part}")
    return to_rows(columns, str(path), spec.text_columns, spec.label, labels_needed=part != "test")


def _named_task(spec: DataSpec, wanted: Sequence[str], seed: int) -> tuple[NamedTask, dict[str, Rows]]:
    """Return the task's row of the table and the rows of the `wanted` parts."""
    if spec.task == "demo":
        files = demo.generate_files(seed)
        return DEMO, {
            part: Rows(
                f"demo {part}", [(text,) for text, _ in files[part]], [label for _, label in files[part]], "label"
            )
            for part in wanted
        }
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
    folder = Path(spec.source).expanduser()
    is_local = folder.exists() or folder.is_absolute() or spec.source.startswith((".", "~"))
    reader = partial(_read_folder, folder, spec.task) if is_local else _hub_reader(spec.source, spec.task)
    rows = {}
    for part in wanted:
        columns, source = reader(part, split_of[part])
        # A few questions of qqp are empty on the hub itself; the model reads them as such.
        rows[part] = to_rows(
            columns, source, task.text_columns, "label", labels_needed=part != "test", empty_texts=True
        )
    return task, rows


Reader = Callable[[str, str], tuple[dict[str, list], str]]
"""Takes a part and the name of its split; returns columns and the source as messages name it."""


def _read_folder(folder: Path, task: str, part: str, split: str) -> tuple[dict[str, list], str]:
    path, plain = folder / task / f"{split}.parquet", folder / task / f"{part}.parquet"
    path = plain if plain.is_file() and not path.is_file() else path
    if not path.is_file():
        raise UserError(f"{path}: no such file; data.source must be a folder that holds {task}/{split}.parquet.")
    return read_columns(path, "data.source"), str(path)


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

    def read(part: str, split: str) -> tuple[dict[str, list], str]:  # noqa: ARG001
        if split not in loaded:
            raise UserError(
                f"data.source: {source!r} ({task}) has no split {split!r}, only {', '.join(loaded)}; {remedy}."
            )
        return loaded[split].to_dict(), f"{source} {task} {split}"

    return read


def _model_ids(task: str, task_names: tuple[str, ...], model_names: tuple[str, ...]) -> np.ndarray:
    """Return the model's id of each of the task's classes: int64 [C].

    Models trained with the same names in another order (often so for mnli) are followed; generic names such as
    LABEL_0 mean the task's own order.
    """
    if len(model_names) != len(task_names):
        raise UserError(
            f"data.task: {task} has the {len(task_names)} classes {_listed(task_names)}, but the model has "
            f"{len(model_names)}: {_listed(model_names)}; choose the model or the task that fits."
        )
    ours, theirs = ([_letters(name) for name in names] for names in (task_names, model_names))
    if sorted(ours) == sorted(theirs):
        return np.array([theirs.index(name) for name in ours], dtype=np.int64)
    if any(name in ours and ours.index(name) != index for index, name in enumerate(theirs)):
        raise UserError(
            f"data.task: {task} has the classes {_listed(task_names)}, and the model's {_listed(model_names)} do not fit "
            "them; correct id2label in the model's config.json."
        )
    return np.arange(len(task_names))


def _letters(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _listed(names: Sequence[str]) -> str:
    return (
        ", ".join(map(repr, names)) if len(names) <= 12 else f"{', '.join(map(repr, names[:12]))}, ... ({len(names)})"
    )
