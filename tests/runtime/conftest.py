"""Exported folders that a `Classifier` opens."""

import pytest
from folders import LENGTH, NAMES
from tiny import save_model

from compressor.export import onnx as export


@pytest.fixture(
    scope="package",
    params=["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("roberta", "distilbert"))],
)
def exported(request, tmp_path_factory):
    """Return (model directory, folder of all its variants), made for single texts of at most 24 tokens."""
    home = tmp_path_factory.mktemp(request.param)
    model_dir = save_model(home / "model", request.param, **NAMES)
    export.export_variants(model_dir, home / "onnx", list(export.VARIANTS), max_length=LENGTH, texts=1)
    return model_dir, home / "onnx"


@pytest.fixture(scope="package")
def variant(tmp_path_factory):
    """Return a function: texts a row -> folder of a BERT in `optimized`; made once."""
    home = tmp_path_factory.mktemp("variants")
    model_dir, made = save_model(home / "model", **NAMES), {}

    def get(texts):
        if texts not in made:
            export.export_variants(model_dir, home / str(texts), ["optimized"], max_length=LENGTH, texts=texts)
            made[texts] = home / str(texts) / "optimized"
        return made[texts]

    return get
