"""Shared fixtures: one tiny random classifier of each family, and one whole run of the pipeline."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read once, by torch: workers of pytest-xdist would fight for the cores
import compressor  # noqa: F401  # isort: skip  # before other packages, since it turns off what reports home

import pytest
from tiny import letter_rows, save_model, save_rows

from compressor.cli.app import main
from compressor.data.batches import encode
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer

os.environ.pop("COLUMNS", None)  # a width that the caller's shell exports would wrap what tests look for


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Return a function: family -> (model, family row, encodings of 24 texts, directory); loaded once, never changed."""
    from tiny import TEXTS

    made = {}

    def get(model_type: str, layers: int = 4):
        if (model_type, layers) not in made:
            folder = save_model(tmp_path_factory.mktemp("tiny") / model_type, model_type, layers)
            source = find_model(str(folder))
            encodings = encode(TEXTS, load_tokenizer(source), 40)
            made[model_type, layers] = load_classifier(source), family_of(model_type), encodings, folder
        return made[model_type, layers]

    return get


@pytest.fixture(scope="session")
def tiny_task(tmp_path_factory):
    """Return a folder with model/, train.csv, validation.csv and recipe.yaml of a run that takes seconds."""
    folder = tmp_path_factory.mktemp("task")
    save_model(folder / "model", "bert", layers=3, num_labels=2)
    rows = letter_rows(260)
    save_rows(folder, rows, 200)
    (folder / "recipe.yaml").write_text(
        f"""name: tiny
model: {{path: {folder}/model}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: text
  label: label
  calibration: {{split: train, size: 60}}
  selection: {{size: 60}}
  max_length: 32
selection: {{search: exhaustive, layers: 1}}
compensation: {{head: {{nodes: 4, epochs: 10}}}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: true, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture
def command(capsys):
    """Return a function: arguments -> (exit code, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call
