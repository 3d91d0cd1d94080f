"""Models of six layers of the families whose layers are not all alike, and runs of the tiny task on others."""

import json

import pytest
from tiny import TEXTS, save_model, sets

from compressor.data.batches import encode
from compressor.model.load import find_model, load_classifier, load_tokenizer


@pytest.fixture(scope="package")
def six_albert(tmp_path_factory):
    """Return a model of six layers that are one, its texts and its directory."""
    folder = save_model(tmp_path_factory.mktemp("albert") / "full", "albert", layers=6)
    source = find_model(str(folder))
    return load_classifier(source), encode(TEXTS, load_tokenizer(source), 40), folder


@pytest.fixture(scope="package", params=["cls", "mean"])
def six_modernbert(request, tmp_path_factory):
    """Return a model of six layers, its texts (tiled, so that fits have rows) and its directory, for each pooling."""
    folder = save_model(
        tmp_path_factory.mktemp("mb") / request.param, "modernbert", layers=6, classifier_pooling=request.param
    )
    source = find_model(str(folder))
    return load_classifier(source), encode(TEXTS, load_tokenizer(source), 40), folder


@pytest.fixture
def finished(tiny_task, tmp_path, command):
    """Return a function: settings -> the result of a run of the tiny task with them, in the folder `run`."""

    def run(*values):
        code, stdout, stderr = command(
            "run", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run", "--json"
        )
        assert code == 0, stderr
        return json.loads(stdout)

    return run
