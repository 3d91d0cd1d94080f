"""What a recipe names, looked at as far as that costs nothing: paths, columns, the configuration of the model."""

from collections.abc import Sequence
from pathlib import Path

from compressor.data.files import expanded, read_lines, read_table
from compressor.data.named import GLUE
from compressor.errors import UserError
from compressor.model.load import check_files, read_config
from compressor.model.places import local_model
from compressor.recipe.compression import Recipe
from compressor.recipe.data import DataSpec
from compressor.recipe.placement import PlacementRecipe

SMALL = 50_000_000
"""Bytes up to which a data file is read for its columns; of larger ones only the place is looked at."""


def check_inputs(recipe: Recipe | PlacementRecipe) -> None:
    """Raise UserError where a model or a file that the recipe names is not there, or lacks a column; hubs are not asked."""
    if isinstance(recipe, PlacementRecipe):
        for named in recipe.text.paths:
            _check_columns(named, "text.files", recipe.text.columns, None)
        given = recipe.encoder.tokenizer
        if given is not None and not expanded(Path(given)).is_dir():
            raise UserError(f"encoder.tokenizer: {given}: no such directory; name the folder of a tokenizer.")
        for number, task in enumerate(recipe.tasks):
            check_data(task, f"tasks.{number}")
        return
    directory = local_model(recipe.model.path)
    if directory is not None:
        check_files(directory, read_config(directory), f"model.path {recipe.model.path!r}")
    check_data(recipe.data, "data")


def check_data(spec: DataSpec, field: str) -> None:
    """Raise UserError where the files of a task are not there, or lack a column; `field` is what messages call `spec`."""
    if spec.task is not None:
        folder = expanded(Path(spec.source))
        if spec.task in GLUE and (folder.exists() or spec.source.startswith((".", "/", "~"))):
            names = {part: (folder / spec.task / f"{part}.parquet", folder / spec.task / f"{split}.parquet")
                     for part, split in (("train", "train"), ("validation", GLUE[spec.task].validation))}  # fmt: skip
            for first, second in names.values():
                if not (first.is_file() or second.is_file()):
                    raise UserError(f"{second}: no such file; {field}.source must be a folder that holds it.")
        return
    for part in ("train", "validation", "test"):
        if (named := getattr(spec, part)) is not None:
            label = spec.label_columns if part != "test" else []
            _check_columns(named, f"{field}.{part}", [*spec.text_columns, *label], spec.encoding)


def _check_columns(named: str, field: str, columns: Sequence[str], encoding: str | None) -> None:
    path = expanded(Path(named))
    if path.is_file() and path.stat().st_size > SMALL:
        return
    if field == "text.files" and path.suffix.lower() == ".txt":
        read_lines(path, field)
        return
    table = read_table(path, field, encoding)
    for column in columns:
        table.column(column)
