"""Tasks known by name: GLUE, from a folder or the hub, and the generated demo; what their classes are called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data import demo
from compressor.data.files import Table, expanded, read_table
from compressor.data.hub import reading_hub
from compressor.data.labels import listed
from compressor.data.rows import Rows, to_rows
from compressor.errors import UserError, nearest
from compressor.recipe.data import DataSpec


@dataclass(frozen=True)
class NamedTask:
    """Columns and class names of a task known by name, and the splits that hold its labelled and unlabelled rows."""

    text_columns: tuple[str, ...]
    label_names: tuple[str, ...]
    validation: str = "validation"
    test: str = "test"
    kind: str = "single_label"


_PAIR = ("sentence1", "sentence2")
GLUE = {
    "cola": NamedTask(("sentence",), ("unacceptable", "acceptable")),
    "sst2": NamedTask(("sentence",), ("negative", "positive")),
    "mrpc": NamedTask(_PAIR, ("not_equivalent", "equivalent")),
    "qqp": NamedTask(("question1", "question2"), ("not_duplicate", "duplicate")),
    "qnli": NamedTask(("question", "sentence"), ("entailment", "not_entailment")),
    "stsb": NamedTask(_PAIR, ("score",), kind="score"),
    "rte": NamedTask(_PAIR, ("entailment", "not_entailment")),
    "wnli": NamedTask(_PAIR, ("not_entailment", "entailment")),
    "mnli": NamedTask(
        ("premise", "hypothesis"), ("entailment", "neutral", "contradiction"), "validation_matched", "test_matched"
    ),
}
DEMO = NamedTask(("sentence",), demo.LABELS)
SCORE_NAME = "score"
"""What the one output of a model that is fine-tuned here to give a score is called."""


def kind_of(spec: DataSpec) -> str:
    """Return the kind of task of a model that is fine-tuned here: what the recipe says, or what a task by name is."""
    return spec.kind or (GLUE[spec.task].kind if spec.task in GLUE else "single_label")


def reading(spec: DataSpec) -> dict[str, Any]:
    """Return what a recipe says of how labels and bad rows are read."""
    return {"mapping": spec.labels, "skip": spec.on_bad_row == "skip"}


def named_task(spec: DataSpec, wanted: Sequence[str], seed: int, kind: str) -> tuple[NamedTask, dict[str, Rows]]:
    """Return the task's row of the table and the rows of the `wanted` parts, their labels read as those of a `kind`.

    The ids of classes may be read as a score: 0 and 1 of `mrpc` say how alike two sentences are. Raises UserError for other
    kinds than the task's.
    """
    own = GLUE[spec.task].kind if spec.task in GLUE else "single_label"
    if kind not in {own, "score"}:
        raise UserError(
            f"data.task: {spec.task} has labels of the kind {own}, and the model gives {kind}; choose the model or the task that "
            "fits."
        )
    if spec.task == "demo":
        files = demo.generate_files(seed)
        columns = {
            part: dict(zip(("sentence", "label"), map(list, zip(*files[part], strict=True)), strict=True))
            for part in wanted
        }
        tables = {part: Table(f"demo {part}", columns[part]) for part in wanted}
        return DEMO, {
            part: to_rows(tables[part], DEMO.text_columns, "label", kind=kind, **reading(spec)) for part in wanted
        }
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
            table,
            task.text_columns,
            "label",
            kind=kind,
            labels_needed=part != "test",
            empty_texts=True,
            **reading(spec),
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
    with reading_hub(f"data.source: {source!r} ({task})", remedy):
        loaded = datasets.load_dataset(source, task)

    def read(part: str, split: str) -> Table:  # noqa: ARG001
        if split not in loaded:
            raise UserError(
                f"data.source: {source!r} ({task}) has no split {split!r}, only {', '.join(loaded)}; {remedy}."
            )
        return Table(f"{source} {task} {split}", loaded[split].to_dict())

    return read


def ids_in_model(task: str, task_names: tuple[str, ...], model_names: tuple[str, ...]) -> np.ndarray:
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
