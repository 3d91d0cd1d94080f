"""What a recipe says of its data: a task by name or files, how they are read, and how they are cut."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from compressor.recipe.base import Float, PositiveInt, Spec
from compressor.recipe.engine import EngineSpec


class CalibrationSpec(Spec):
    """Text for states, scores, readouts and the head; labels are optional."""

    split: Literal["train", "test"] = "train"
    """`train` cuts the rows out of the training file; `test` takes the (often unlabelled) test file."""
    size: PositiveInt | None = 2000
    """Largest number of rows; null takes all of `test`."""
    seen_in_training: bool | None = None
    """Whether a model that comes fine-tuned was trained on these rows. Where they are cut out of `train`, a cascade needs a
    `false` here: what a model learned from cannot certify it."""


class ArchiveSpec(Spec):
    """A large amount of unlabelled text, read as a stream: layers are scored, and heads and neurons fitted, on all of it."""

    files: str | list[str] | None = None
    """One or several files, `*` and `?` allowed: parquet, jsonl, csv or txt (a text a line)."""
    hub: str | None = None
    """Hub id of a data set, in place of files."""
    config: str | None = None
    """Configuration of the hub's data set."""
    split: str = "train"
    """Split of the hub's data set."""
    text: str | list[str] | None = None
    """Name of the text column, or of two columns for pairs; null: as in the rest of the data."""
    size: PositiveInt | None = None
    """Rows to read, from the first on; null: all."""
    engine: EngineSpec = EngineSpec()
    """What reads it: parts are read side by side, and what each adds up is merged."""

    @property
    def paths(self) -> list[str]:
        """The files as a list, whichever way they were written."""
        return [self.files] if isinstance(self.files, str) else list(self.files or [])

    @model_validator(mode="after")
    def _files_or_hub(self) -> "ArchiveSpec":
        if bool(self.paths) == bool(self.hub):
            raise ValueError("an archive is given by either files or hub, and by one of them")
        return self


class SelectionSplitSpec(Spec):
    """Rows cut from train that choose among plans and hyper-parameters."""

    size: PositiveInt = 2000
    """Largest number of rows."""


class DataSpec(Spec):
    """A GLUE task by name, the generated demo task, or your own files."""

    task: str | None = None
    """A GLUE task (`sst2`, `cola`, ...) or `demo`. Leave out for your own files."""
    source: str = "nyu-mll/glue"
    """Hub id of the GLUE data set, or a folder that holds TASK/{train,validation,test}.parquet."""
    train: str | None = None
    """Your own training file: csv, tsv, jsonl or parquet; for `kind: tokens` CoNLL (conll, bio, iob, txt), json, jsonl or
    parquet."""
    validation: str | None = None
    """Your own evaluation file; it is read once, at the end."""
    test: str | None = None
    """Your own unlabelled text for calibration (`calibration.split: test`)."""
    text: str | list[str] | None = None
    """Name of the text column, or of two columns for pairs. For `kind: tokens` that of the lists of words; in CoNLL files
    `tokens` is the first column, and each is called by its number from 1."""
    label: str | list[str] | None = None
    """Name of the label column; leave out for unlabelled text (agreement is then all that can be measured). A score is a
    number there; many labels are a list of names, or a column of 0 and 1 for each label, all of them named here. For
    `kind: tokens` that of the lists of labels; in CoNLL files `tags` is the last column."""
    kind: Literal["single_label", "score", "many_labels", "ranking", "tokens"] | None = None
    """What the answer to a text is: one of several classes, a number, any number of labels, or a label for each word (`tokens`);
    with `ranking` the score of a document by which those of a query are ordered. null: what the model says, and one class where
    it is fine-tuned here."""
    group: str | None = None
    """The column that says which query a row of a ranking belongs to; null: the first text column. The label is then how relevant
    the document is, 0 for not at all."""
    tolerance: Annotated[Float, Field(ge=0)] | None = None
    """How far a score may move and still count as the same answer; null: 1 % of the range of the training labels, or of the
    full model's scores on the calibration text where there are none."""
    threshold: Annotated[Float, Field(gt=0, lt=1)] | list[Annotated[Float, Field(gt=0, lt=1)]] | None = None
    """Probability from which on one of many labels is given: one number, or one for each label; null: 0.5."""
    encoding: str | None = None
    """How csv, tsv and jsonl files are encoded: the name of a Python codec, such as cp1252; null: UTF-8."""
    labels: dict[str, str] | None = None
    """What the values of the label column mean, value: name of a class; `{bad: negative, 1: positive}`."""
    on_bad_row: Literal["error", "skip"] = "error"
    """`skip` leaves out rows without text or usable label, and says how many; `error` ends there."""
    calibration: CalibrationSpec = CalibrationSpec()
    selection: SelectionSplitSpec = SelectionSplitSpec()
    archive: ArchiveSpec | None = None
    max_length: Annotated[int, Field(ge=4)] = 128
    """Longest input in tokens; longer texts are cut."""

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, encoding: str | None) -> str | None:
        try:
            "a".encode(encoding or "utf-8")
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"{encoding!r} is no text encoding; name a Python codec such as cp1252 or utf-16"
            ) from error
        return encoding

    @field_validator("labels", mode="before")
    @classmethod
    def _labels_as_text(cls, labels: Any) -> Any:  # noqa: ANN401
        """YAML reads 1 and true as what they are; the values of files are text, and so are these."""
        if not isinstance(labels, dict):
            return labels
        pairs = [(str(value), str(name) if isinstance(name, int | float) else name) for value, name in labels.items()]
        twice = next((value for place, (value, _) in enumerate(pairs) if value in dict(pairs[:place])), None)
        if twice is not None or not pairs:
            raise ValueError(
                f"labels names the value {twice!r} twice" if pairs else "labels names no value; leave it out"
            )
        return dict(pairs)

    @model_validator(mode="after")
    def _fits_the_kind(self) -> "DataSpec":
        for key, kind in (("tolerance", "score"), ("threshold", "many_labels"), ("group", "ranking")):
            if getattr(self, key) is not None and self.kind not in {kind, None if key != "group" else kind}:
                raise ValueError(f"{key} is for kind: {kind}, not {self.kind}")
        if isinstance(self.label, list) and (self.kind != "many_labels" or not self.label):
            raise ValueError("label names several columns: that is for kind: many_labels, each a column of 0 and 1")
        if self.labels is not None and self.kind in {"score", "many_labels", "ranking"}:
            raise ValueError(f"labels says what values of one class are called; leave it out with kind: {self.kind}")
        if self.kind == "tokens" and len(self.text_columns) > 1:
            raise ValueError("text names two columns: words with a label each come from one")
        return self

    @property
    def label_columns(self) -> list[str]:
        """The label columns as a list, whichever way they were written; empty for unlabelled text."""
        return [self.label] if isinstance(self.label, str) else list(self.label or [])

    @property
    def text_columns(self) -> list[str]:
        """The text columns as a list, whichever way they were written."""
        return [self.text] if isinstance(self.text, str) else list(self.text or [])

    @model_validator(mode="after")
    def _task_or_files(self) -> "DataSpec":
        own = {key: getattr(self, key) for key in ("train", "validation", "test", "text", "label", "group", "encoding")}
        given = [key for key, value in own.items() if value is not None]
        if self.task is not None and given:
            raise ValueError(f"give either task or your own files, not both (task and {', '.join(given)} are set)")
        if self.task is None:
            missing = [key for key in ("train", "validation", "text") if own[key] is None]
            if missing:
                raise ValueError(f"own files need {', '.join(missing)}; or name a GLUE task with data.task")
            if not 1 <= len(self.text_columns) <= 2:
                raise ValueError(f"text takes one or two columns, not {len(self.text_columns)}")
            if self.labels is not None and self.label is None:
                raise ValueError("labels says what the values of the label column mean: set label as well")
            if self.calibration.split == "test" and self.test is None:
                raise ValueError(
                    "calibration.split is 'test' but no test file is given: set data.test, or split: train"
                )
        return self
