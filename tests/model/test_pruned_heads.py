"""Models whose heads transformers 4 pruned: they are read, and written with a shape, which 5 opens as well."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny import ABSOLUTE, APART, save_model
from transformers import AutoModelForSequenceClassification

from compressor.analysis.roles.weights import open_weights
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.load import find_model, load_model, load_tokenizer, read_config
from compressor.model.sublayers import any_shape, shape_of
from compressor.model.surgery import leave_out
from compressor.model.surgery import save_model as save
from compressor.model.units import Shape

PRUNED = {0: [1], 2: [0, 3]}


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("model_type", sorted({*ABSOLUTE} & {*APART}))
def test_pruned_heads_become_a_shape(tiny, tmp_path, model_type, stock):
    model, family, encodings, folder = tiny(model_type)
    model = copy.deepcopy(model)
    model.prune_heads(PRUNED)
    made = leave_out(model, family, [2, "4.ffn:24"])
    assert shape_of(made, family) == Shape((64, 64, 24), (3, 2, 4), 4)
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n", stock=stock)
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert not config.get("pruned_heads")
    assert config["compressor"]["heads"] == [3, 2, 4]
    wanted = predict(made, encodings)
    ours = load_model(tmp_path / "model")
    assert shape_of(ours, family) == shape_of(made, family)
    np.testing.assert_array_equal(predict(ours, encodings), wanted)
    if stock:
        opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
        np.testing.assert_allclose(predict(opened, encodings), wanted, atol=1e-5)
    assert sorted(model.config.pruned_heads) == [0, 2]  # the original stays as it was


@pytest.mark.parametrize("attention", [None, [True, False, True]])
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_directories_that_name_pruned_heads_are_read(tmp_path, model_type, attention):
    """As transformers 4 writes them, and as earlier versions did for a model that had lost attention as well."""
    folder = save_model(tmp_path / "model", model_type, layers=3)
    model, family = load_model(folder), FAMILIES[model_type]
    model.prune_heads(PRUNED)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["pruned_heads"].keys() == {"0", "2"}
    if attention:
        entry = {"ffn_widths": [64] * 3, "attention": attention}
        (folder / "config.json").write_text(json.dumps({**config, "compressor": entry}))
    wanted = Shape((64,) * 3, (3, 0 if attention else 4, 2), 4)
    assert shape_of(load_model(folder), family) == any_shape(read_config(folder)) == wanted
    weights = open_weights(folder)  # heads that are gone count as zeros, behind those that are left
    written = weights.matrix(weights.layers[2].attention_out)
    assert written.shape == (32, 32)
    assert written[:, :16].all() and not written[:, 16:].any()
    # no more heads than the file has
    entry = {"ffn_widths": [64] * 3, "heads": [4, 4, 2]}
    (folder / "config.json").write_text(json.dumps({**config, "compressor": entry}))
    with pytest.raises(UserError, match="compressor.heads must be 3 whole numbers"):
        load_model(folder)


@pytest.mark.parametrize(
    ("pruned", "words"),
    [
        ({"5": [1]}, "of layer 5 .*there are 2 layers"),
        ({"0": [9]}, r"\[9\] must be a list of heads from 0 to 3"),
        ({"0": [0, 1, 2, 3]}, "no head"),
        ({"a": [1]}, "config.json cannot be used"),
        ({"0": 1}, "pruned_heads"),
        ([1], "config.json: pruned_heads is .* must be an object"),
        (3, "config.json: pruned_heads is 3; it must be an object"),
    ],
)
def test_heads_that_are_not_there_are_refused(tmp_path, pruned, words):
    folder = save_model(tmp_path / "model", layers=2)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pruned_heads": pruned}))
    with pytest.raises(UserError, match=words):
        find_model(str(folder))


def test_a_run_on_a_model_with_pruned_heads(tiny_task, tmp_path, command):
    model = load_model(tiny_task / "model")
    model.prune_heads({0: [1], 2: [0, 3]})
    save(model, load_tokenizer(find_model(str(tiny_task / "model"))), tmp_path / "model", "# card\n")
    sets = [f"model.path={tmp_path}/model", "export.variants=[fp32, alltokens, optimized]", "benchmark.workload=false"]
    arguments = [part for text in sets for part in ("--set", text)]
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", *arguments, "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert all(found["agreement"] == 1.0 for found in result["parity"].values())
    assert torch.equal(
        load_model(tmp_path / "run" / "model").bert.embeddings.word_embeddings.weight,
        model.bert.embeddings.word_embeddings.weight,
    )
