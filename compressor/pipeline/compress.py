"""A model and texts in, a finished run out: what `compressor quick` does, for what a program holds in memory."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from compressor.data.answers.config import need_single_label
from compressor.data.answers.kinds import TOKENS
from compressor.data.memory import given_tables
from compressor.data.own.label_column import NONE
from compressor.errors import UserError, first_line, nearest
from compressor.model.checks import stock_shape
from compressor.model.families import family_of
from compressor.model.sublayers import shape_of
from compressor.pipeline.finished import RunResult
from compressor.pipeline.quick import COLUMNS, Options, default_name, quick_recipe, run_quick
from compressor.progress import shown
from compressor.recipe.compression import Recipe

OWN = "model train validation goal out tokenizer text label labels seen name device progress".split()  # noqa: SIM905
"""Arguments of `compress`; every other is a part of the recipe."""
KINDS = {
    **{"goal": str, "device": str, "out": str | Path | None, "name": str | None, "label": str | None},
    **{"text": str | list | tuple | None, "labels": Mapping | None, "seen": bool | None, "progress": bool | None},
}
"""What the arguments are that no other check looks at."""
OPTIONS = "text|labels|label|out|goal|device|name"
SAID = (
    (
        re.compile(r"--labels ([\w.-]+=[\w.-]+(?:,[\w.-]+=[\w.-]+)*)(?:,\.\.\.)?(?=[,:])"),
        lambda found: f"labels={_as_dict(found[1])}",
    ),
    (re.compile(r"--text COL --text COL2"), "text=['COL', 'COL2']"),
    (re.compile(rf"--(text|label) (COL|{NONE})\b"), r"\1='\2'"),
    (re.compile(r"--(goal|device) (\w+)"), r"\1='\2'"),
    (re.compile(r"--unseen"), "seen=False"),
    (re.compile(r"--set "), ""),
    (re.compile(rf"--({OPTIONS}):"), r"\1:"),
    (re.compile(rf"--({OPTIONS})\b ?(?=[^ ])"), r"\1="),
    (re.compile(r"^MODEL\b"), "model"),
    (re.compile(r"^DATA\b"), "data"),
)
"""Words of the command line in messages, and the same in Python."""


def compress(
    model: str | Path | PreTrainedModel,
    train: Any = None,  # noqa: ANN401
    validation: Any = None,  # noqa: ANN401
    goal: str = "lossless",
    out: str | Path | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    text: str | Sequence[str] | None = None,
    label: str | None = None,
    labels: Mapping[Any, str] | None = None,
    seen: bool | None = None,
    name: str | None = None,
    device: str = "auto",
    progress: bool | None = None,
    **overrides: Any,  # noqa: ANN401
) -> RunResult:
    """Compress a fine-tuned classifier on your own texts and return the finished run; a second call loads what is done.

    Args:
        model: directory, hub id, or a transformers model in memory, which needs its `tokenizer`.
        train: texts that choose what goes. A file or folder, texts, (text, label) or ((text, pair), label) tuples, a dict of
            columns, a pandas DataFrame, a Dataset, or a DatasetDict.
        validation: texts that judge the result, in the same forms. With one of the two, it is cut into both.
        goal: what may change: exact, lossless (at most 1 % of predictions) or near.
        out: the run directory; runs/NAME by default.
        tokenizer: the tokenizer of a model in memory.
        text: the text column, or two for pairs; found by default.
        label: the label column; "none" goes without labels.
        labels: what values of the label column mean: value -> class of the model.
        seen: whether the model was trained on these texts. Early exits need text that it has not seen, and are left out where
            that is not known.
        name: the name of the run.
        device: auto, cpu or cuda.
        progress: whether to show progress; by default in notebooks and terminals. On stderr, never on stdout.
        **overrides: parts of the recipe, such as seed=1 or benchmark={"min_seconds": 1}.

    Raises:
        UserError: where the input is wrong, in one sentence, before anything is written.
    """
    given = {"goal": goal, "device": device, "out": out, "name": name, "label": label}
    _check({**given, "text": text, "labels": labels, "seen": seen, "progress": progress}, overrides)
    wanted = (text,) if isinstance(text, str) else tuple(text or ())
    mapping = None if labels is None else {str(value): str(name) for value, name in labels.items()}
    file = next((data for data in (train, validation) if isinstance(data, str | Path)), None)
    with _directory(model, tokenizer) as directory:
        called = name or default_name(directory if _is_path(model) else model.config.model_type, file)
        options = Options(goal, wanted, label, mapping, seen, called, overrides)
        try:
            tables = given_tables(train, validation)
            quick = quick_recipe(directory, tables, out, options, passing=not _is_path(model))
            with shown(progress) as (track, say):
                for finding in quick.findings:
                    say(in_python(f"{finding.what}: {finding.found} ({finding.why})"))
                return run_quick(quick, device=device, track=track, say=say)
        except UserError as error:
            message = str(error) if _is_path(model) else str(error).replace(directory, "in memory")
            raise UserError(in_python(message)) from error


def in_python(sentence: str) -> str:
    """Return a sentence with options of the command line as arguments of `compress`."""
    for words, instead in SAID:
        sentence = words.sub(instead, sentence)
    return sentence


def _as_dict(pairs: str) -> str:
    """Return `bad=negative,good=positive` as a dict in Python."""
    return repr(dict(pair.rsplit("=", 1) for pair in pairs.split(",")))


def _is_path(model: Any) -> bool:  # noqa: ANN401
    return isinstance(model, str | Path)


def _check(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> None:
    """Raise UserError for an argument of the wrong kind, or one that is neither of `compress` nor a part of a recipe."""
    for name, value in given.items():
        if not isinstance(value, KINDS[name]):
            kind = KINDS[name].__name__ if isinstance(KINDS[name], type) else re.sub(r"[\w.]+\.", "", str(KINDS[name]))
            raise UserError(f"{name}: give {kind}, not a {type(value).__name__}.")
    parts = Recipe.model_fields
    for name in overrides:
        if name.partition(".")[0] not in parts:
            hint = nearest(name, [*OWN, *parts]) or ";"
            raise UserError(f"{name}: compress has no such argument{hint} parts of the recipe are {', '.join(parts)}.")


@contextmanager
def _directory(model: Any, tokenizer: PreTrainedTokenizerBase | None) -> Iterator[str]:  # noqa: ANN401
    """Yield the directory (or hub id) of a model, for one in memory a temporary one.

    Raises UserError where that is no classifier of transformers as it stands there, or its tokenizer is missing.
    """
    if _is_path(model):
        if tokenizer is not None:
            raise UserError("tokenizer: the one beside the model is taken; leave it out where model is a path.")
        yield str(model)
        return
    if not isinstance(model, PreTrainedModel):
        raise UserError(
            f"model: a {type(model).__name__} is no path and no transformers model; of a PEFT model give merge_and_unload()."
        )
    family = family_of(model.config.model_type)
    if type(model) is MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING.get(type(model.config), None):
        need_single_label(TOKENS, "model", COLUMNS)
    stock = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(model.config), None)
    if type(model) is not stock:
        want = stock.__name__ if stock else "a stock sequence classifier"
        raise UserError(
            f"model: a {type(model).__name__} is not {want}, which its files are read as, and may compute something else; give "
            "the stock class."
        )
    config = model.config.to_dict()
    if shape_of(model, family) != stock_shape(config):
        raise UserError(
            "model: layers of it have lost parts, which a stock directory cannot say; give the directory it is from."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise UserError(
            "tokenizer: a model in memory needs its tokenizer; give tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    with TemporaryDirectory() as folder:
        try:
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        except Exception as error:  # transformers raises whatever a part that is not its own leads it to
            raise UserError(
                f"model: it cannot be saved ({first_line(error)}); save it, and give its directory."
            ) from error
        yield str(Path(folder).resolve())
