"""A task of own files, reviews and their sentiment, as the tests of data write it."""

import pandas as pd

from compressor.data.tasks import load_task
from compressor.recipe.data import DataSpec

TRAIN = [(f"train text {i}", ("neg", "pos")[i % 2]) for i in range(40)]
VALIDATION = [(f"validation text {i}", ("neg", "pos")[i % 2]) for i in range(6)]


def write(folder, name, rows, columns=("review", "sentiment")):
    path, table = folder / name, pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def own(folder, train=TRAIN, validation=VALIDATION, suffix=".csv", **more):
    files = {"train": write(folder, f"train{suffix}", train), "validation": write(folder, f"valid{suffix}", validation)}
    sizes = {"calibration": {"size": 8}, "selection": {"size": 10}}
    return DataSpec(**{**files, "text": "review", "label": "sentiment", **sizes, **more})


def load(spec, model_labels=None):
    return load_task(spec, model_labels=model_labels, seed=0)
