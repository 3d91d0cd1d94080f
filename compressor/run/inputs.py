"""What a recipe names, looked at as far as that costs nothing: paths, columns, the configuration of the model."""

from pathlib import Path

from compressor.data.files import expanded, read_table
from compressor.data.tasks import GLUE
from compressor.errors import UserError
from compressor.model.load import local_model, read_config
from compressor.recipe.compression import Recipe
from compressor.recipe.data import DataSpec

SMALL = 50_000_000
"""Bytes up to which a data file is read for its columns; of larger ones only the place is looked at."""


def check_inputs(recipe: Recipe) -> None:
    """Raise UserError where a model or a file that the recipe names is not there, or lacks a column; hubs are not asked."""
    directory = local_model(recipe.model.path)
    if directory is not None:
        read_config(directory)
    check_data(recipe.data)


def check_data(spec: DataSpec) -> None:
    """Raise UserError where the files of a task are not there, or lack a column that it names."""
    if spec.task is not None:
        folder = expanded(Path(spec.source))
        if spec.task in GLUE and (folder.exists() or spec.source.startswith((".", "/", "~"))):
            names = {part: (folder / spec.task / f"{part}.parquet", folder / spec.task / f"{split}.parquet")
                     for part, split in (("train", "train"), ("validation", GLUE[spec.task].validation))}  # fmt: skip
            for first, second in names.values():
                if not (first.is_file() or second.is_file()):
                    raise UserError(f"{second}: no such file; data.source must be a folder that holds it.")
        return
    for part in ("train", "validation", "test"):
        if (named := getattr(spec, part)) is None:
            continue
        path = expanded(Path(named))
        if path.is_file() and path.stat().st_size > SMALL:
            continue
        table = read_table(path, f"data.{part}", spec.encoding)
        label = [spec.label] if spec.label is not None and part != "test" else []
        for column in (*spec.text_columns, *label):
            table.column(column)
