"""A run without a recipe: what a model and some text are is found, a recipe is made of it, and run."""

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from compressor.data.answers.config import need_single_label
from compressor.data.batches import encode, same_tokens
from compressor.data.files import Table, expanded
from compressor.data.memory import named
from compressor.data.own.columns import Found, find_columns
from compressor.data.own.label_column import NONE, read_values
from compressor.data.own.parts import Parts, assign, read_own, usable
from compressor.data.splits import Split, first_rows
from compressor.errors import UserError
from compressor.files import check_target, stage_key
from compressor.measurement.machine.doctor import resolve_device
from compressor.measurement.machine.providers import PROVIDERS, require_provider
from compressor.model.load import ModelSource, find_model, load_tokenizer, longest_input
from compressor.model.places import local_model
from compressor.pipeline.dry_run import StageStatus, dry_run
from compressor.pipeline.pipeline import RunResult, Say, no_words, run_recipe
from compressor.progress import Track, silent
from compressor.recipe.compression import Recipe
from compressor.recipe.file import Overrides, recipe_of
from compressor.recipe.quick import check_goal, quick_values
from compressor.run.checks import check_classifier, prepare
from compressor.run.rundir import GIVEN, open_run_dir

FOLDER = "data"
"""Folder of a run with the parts that were cut, and name of the stage that wrote them."""
COVERED = 0.995
"""Share of the texts that the longest input holds whole."""
SELECTED = 2000
"""Largest number of texts that choose what goes."""
MEASURED = 2000
"""Texts whose tokens are counted."""


COLUMNS = "columns are found by the classes in them (for other answers `compressor run` takes a recipe with data.kind)"


@dataclass(frozen=True)
class Finding:
    """One thing that was found, and why it is thought to be so."""

    what: str
    found: str
    why: str


@dataclass(frozen=True)
class Options:
    """What a user says beside model and data; what is left out is found."""

    goal: str = "lossless"
    text: tuple[str, ...] = ()
    label: str | None = None
    """The label column; `none` for no labels."""
    labels: Mapping[str, str] | None = None
    """What the values of the label column mean: value -> class."""
    seen: bool | None = None
    """Whether the model was trained on these texts; None where that is not known."""
    name: str | None = None
    overrides: Overrides = ()


@dataclass(frozen=True)
class Quick:
    """A recipe that was made, the parts of the data that it names (not written yet), and what was found."""

    recipe: Recipe
    path: Path
    """The run directory."""
    parts: Parts
    sources: Mapping[str, str]
    """The user's file that each part is from, as messages name it."""
    columns: Found
    """The text and label columns that the parts are written with."""
    classes: tuple[str, ...]
    findings: tuple[Finding, ...]
    given: ModelSource | None = None
    """A model that is to be copied into the run directory; None for one that stays where it is."""


def quick_recipe(
    model: str,
    data: str | Path | Mapping[str, Table],
    out: str | Path | None = None,
    options: Options = Options(),
    *,
    passing: bool = False,
) -> Quick:
    """Look at a classifier and texts; return the recipe of a run. Nothing is written.

    The texts are a file, a folder, or tables by part as `read_own` calls them. With `passing` the model's directory will not
    last, and is copied into the run.

    Raises UserError where the model is no classifier, no column is text, labels are not the model's classes, or the texts
    are too few.
    """
    check_goal(options.goal)
    source = find_model(model, field="MODEL")
    check_classifier(source, f"MODEL {model!r}")
    need_single_label(source.task.kind, f"MODEL {model!r}", COLUMNS)
    classes, tokenizer = tuple(source.label_names), load_tokenizer(source)
    same = cache(same_tokens(tokenizer))
    tables = read_own(Path(data)) if isinstance(data, str | Path) else data
    tables = {part: named(table, classes) for part, table in tables.items()}
    main, splits, notes = _rows(tables, classes, options)
    parts = assign(splits, same)
    name = options.name or default_name(model, data if isinstance(data, str | Path) else None)
    path = Path(out) if out is not None else Path("runs") / name
    folder = path.absolute() / FOLDER
    for file in (Path(table.source) for table in tables.values()):
        if file.is_file() and file.resolve().is_relative_to(path.resolve()):
            raise UserError(f"DATA {file}: the data lies in the run directory {path}; name another --out.")
    max_length, why_length = _lengths(parts, tokenizer, source)
    texts = len(first_rows(parts.train, same))
    # without a test part the training part gives a third each to choosing, to calibration and to the fit of exits
    select = max(2, min(SELECTED, texts // (3 if parts.test is None else 2)))
    values = quick_values(
        name,
        _lasting(model, path, passing),
        {part: str(folder / f"{part}.parquet") for part in parts.by_name()},
        text=main.text,
        label=main.label if parts.labelled else None,
        max_length=max_length,
        selection=select,
        goal=options.goal,
        seen=options.seen,
    )
    recipe = recipe_of(values, options.overrides, source="the recipe that was made")
    findings = (
        Finding("model", f"{source.config['model_type']}, {source.layers} layers", f"classes {', '.join(classes)}"),
        Finding("text" if len(main.text) == 1 else "texts", ", ".join(main.text), main.why_text),
        Finding("label", (main.label if parts.labelled else None) or NONE, main.why_label),
        *([Finding("left out", "rows", "; ".join(notes))] if notes else []),
        *_parts_found(recipe, parts, texts, options.seen),
        Finding("max length", f"{recipe.data.max_length} tokens", why_length),
        Finding("goal", recipe.ship.goal if recipe.ship else "", "--goal exact, lossless or near"),
    )
    sources = {part: tables[parts.files[part]].source for part in parts.by_name()}
    return Quick(recipe, path, parts, sources, main, classes, findings, source if passing else None)


def _lasting(model: str, run: Path, passing: bool) -> str:
    """Return what the recipe calls the model: a path that holds wherever the run is repeated, or a hub id."""
    if passing:
        return str(run.absolute() / GIVEN)
    return str(local_model(model)) if Path(model).expanduser().is_dir() else model


def run_quick(quick: Quick, *, device: str = "auto", track: Track = silent, say: Say = no_words) -> RunResult:
    """Write the parts of the data into the run directory and carry the recipe through, as `run_recipe` does.

    Raises UserError where the recipe cannot work, before anything is written.
    """
    device = resolve_device(device)
    if quick.recipe.export.variants or quick.recipe.cascade is not None:
        require_provider(PROVIDERS[device], f"--device {device}")
    with _elsewhere(quick) as recipe:
        prepare(recipe, quick.path, device, silent)
    frames = _frames(quick)
    key = stage_key(
        FOLDER, {name: [part.sha256, [*frames[name]], quick.classes] for name, part in quick.parts.by_name().items()}
    )
    with open_run_dir(quick.path) as folder:
        folder.stage(FOLDER, key, [FOLDER], lambda made: _write(frames, made / FOLDER))
        if given := quick.given:
            folder.stage(GIVEN, given.sha256, [GIVEN], lambda made: shutil.copytree(given.path, made / GIVEN))
    return run_recipe(quick.recipe, quick.path, device=device, track=track, say=say)


def plan_quick(quick: Quick, *, device: str = "auto") -> list[StageStatus]:
    """Return the stages of the run, as a dry run sees them; nothing stays written."""
    with _elsewhere(quick) as recipe:
        return dry_run(recipe, quick.path, device=device)


def default_name(model: str, data: str | Path | None) -> str:
    """Return the name of a run: that of the model and that of the data's file, if any, in signs that names may have."""
    names = [Path(model).resolve().name if Path(model).is_dir() else Path(model).name]
    names += [] if data is None else [expanded(Path(data)).resolve().stem]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(names)).strip("._-") or "quick"


def as_dicts(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """Return what was found for JSON."""
    return [asdict(finding) for finding in findings]


def _rows(
    tables: Mapping[str, Table], classes: Sequence[str], options: Options
) -> tuple[Found, dict[str, Split], list[str]]:
    """Return the columns, the usable rows of every file, and clauses on what is left out."""
    asked = {"text": options.text, "label": options.label, "mapping": options.labels}
    main, found = None, {}
    for part, table in tables.items():
        known = asked
        if main is not None:  # the columns of the first file, where this one has them
            text = main.text if {*main.text} <= {*table.columns} else options.text
            label = main.label if main.label in table.columns else (NONE if main.label else options.label)
            known = {**asked, "text": text, "label": label}
        if part == "test" and known["label"] in table.columns:
            reading = read_values(table.columns[known["label"]], classes, options.labels)
            known = known if reading.fits else {**known, "label": NONE}  # zeros throughout, to be filled in
        found[part] = find_columns(table, classes, **known)
        if main is None or (main.label is None and found[part].label is not None):
            main = found[part]
    if main is None or any(len(each.text) != len(main.text) for each in found.values()):
        raise UserError("DATA: some files have one text a row and others two; name the columns with --text.")
    splits, notes = {}, []
    for part, table in tables.items():
        splits[part], note = usable(table, found[part], part)
        notes += [note] if note else []
    return main, splits, notes


def _lengths(parts: Parts, tokenizer: PreTrainedTokenizerBase, source: ModelSource) -> tuple[int, str]:
    """Return the longest input in tokens, and why."""
    texts = [text for part in parts.by_name().values() for text in part.texts[:: max(1, 3 * len(part) // MEASURED)]]
    longest = longest_input(source.config)
    lengths = encode(texts, tokenizer, 2 * longest).lengths
    covering = int(np.quantile(lengths, COVERED, method="higher"))
    length = min(max(16, _eights(covering)), longest)
    why = f"{COVERED:.1%} of {len(texts):,} texts have at most {covering:,} tokens"
    if covering > longest:
        why = f"all positions of the model; {np.mean(lengths > longest):.1%} of the texts are longer and are cut"
    return length, why


def _eights(tokens: int) -> int:
    return -(-tokens // 8) * 8


def _parts_found(recipe: Recipe, parts: Parts, texts: int, seen: bool | None) -> list[Finding]:
    """Return what each part is, and where from; `texts` is the number of different texts of the training part."""
    spec, notes = recipe.data, parts.notes
    select = min(spec.selection.size, texts // 2)
    half = (texts - select) // 2 if parts.test is None else len(parts.test)
    told = {True: "seen in training, as you say", False: "not seen in training, as you say"}
    known = "say --unseen if the model was not trained on them: early exits need such text"
    known = notes.get("test", "a file of its own") if parts.test is not None else known
    rest = f"of {texts:,} different texts; they choose what goes"
    return [
        Finding("evaluation", f"{len(parts.validation):,} rows", notes.get("validation", "the validation file")),
        Finding("selection", f"{select:,} rows", "; ".join(filter(None, [notes.get("train"), rest]))),
        Finding("calibration", f"{min(spec.calibration.size or half, half):,} rows", told.get(seen, known)),
    ]


@contextmanager
def _elsewhere(quick: Quick) -> Iterator[Recipe]:
    """Yield the recipe with its data in a temporary folder, so that it can be looked at before anything is written."""
    with TemporaryDirectory() as folder:
        _write(_frames(quick), Path(folder))
        target = quick.path.absolute() / FOLDER
        named = {name: Path(getattr(quick.recipe.data, name) or "") for name in quick.parts.by_name()}
        moved = {name: str(Path(folder) / path.name) for name, path in named.items() if path.parent == target}
        try:
            update = {"data": quick.recipe.data.model_copy(update=moved)}
            if quick.given:
                update["model"] = quick.recipe.model.model_copy(update={"path": str(quick.given.path)})
            yield quick.recipe.model_copy(update=update)
        except UserError as error:
            message = str(error)
            for name, source in quick.sources.items():
                message = message.replace(str(Path(folder) / f"{name}.parquet"), source)
            raise UserError(message) from error


def _frames(quick: Quick) -> dict[str, pd.DataFrame]:
    """Return the parts as tables: the text columns and the label as the name of its class."""
    names = quick.classes if len({*quick.classes}) == len(quick.classes) else [*map(str, range(len(quick.classes)))]
    frames = {}
    for name, part in quick.parts.by_name().items():
        frame = pd.DataFrame(part.texts, columns=list(quick.columns.text))
        if part.labels is not None:
            frame[quick.columns.label] = [names[label] for label in part.labels]
        frames[name] = frame
    return frames


def _write(frames: Mapping[str, pd.DataFrame], folder: Path) -> None:
    check_target(folder, folder=True)
    folder.mkdir(exist_ok=True)
    for name, frame in frames.items():
        check_target(folder / f"{name}.parquet")
        frame.to_parquet(folder / f"{name}.parquet", index=False)
