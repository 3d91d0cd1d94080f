"""Files exported from tiny models."""

import pytest
from tiny import save_model

from compressor.export import onnx as export


@pytest.fixture(scope="package", params=["bert", "roberta", "distilbert"])
def exported(request, tmp_path_factory):
    """Return (model directory, {variant: VariantFile}) of a model of two layers in all variants."""
    folder = tmp_path_factory.mktemp(request.param)
    model_dir = save_model(folder / "model", request.param)
    return model_dir, export.export_variants(model_dir, folder / "onnx", list(export.VARIANTS))
