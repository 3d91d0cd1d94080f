"""Models whose heads were pruned: what config.json says of a layer by its index goes where the layer goes."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny import save_model
from transformers import AutoModelForSequenceClassification

from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.load import find_model, load_model, load_tokenizer
from compressor.model.surgery import drop_layers, leave_out
from compressor.model.surgery import save_model as save

PRUNED = {0: [1], 2: [0, 3]}


@pytest.mark.parametrize("model_type", list(FAMILIES))
@pytest.mark.parametrize(("skip", "left"), [((1,), {1: [0, 3]}), ((2,), {0: [1], 1: [0, 3]}), ((3,), {0: [1]})])
def test_pruned_heads_are_renumbered_with_the_layers(tiny, tmp_path, model_type, skip, left):
    model, family, encodings, folder = tiny(model_type)
    model = copy.deepcopy(model)
    model.prune_heads(PRUNED)
    made = drop_layers(model, family, skip)
    assert {layer: sorted(heads) for layer, heads in made.config.pruned_heads.items()} == left
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    for loaded in (stock, load_model(tmp_path / "model")):
        np.testing.assert_array_equal(predict(loaded, encodings), predict(made, encodings))
    assert sorted(model.config.pruned_heads) == [0, 2]  # the original stays as it was


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_attention_that_is_gone_has_no_pruned_heads(tiny, tmp_path, model_type, stock):
    model, family, encodings, folder = tiny(model_type)
    model = copy.deepcopy(model)
    model.prune_heads(PRUNED)
    made = leave_out(model, family, ["1.attention", 2, "3.ffn"])
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n", stock=stock)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["pruned_heads"].keys() == {"1"}
    wanted = predict(made, encodings)
    np.testing.assert_allclose(predict(load_model(tmp_path / "model"), encodings), wanted, atol=1e-5)
    if stock:
        stock_model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
        np.testing.assert_allclose(predict(stock_model, encodings), wanted, atol=1e-5)
    again = drop_layers(load_model(tmp_path / "model"), family, (1,))
    assert list(again.config.pruned_heads) == [0]


@pytest.mark.parametrize(
    ("pruned", "words"),
    [
        ({"5": [1]}, "of layer 5 .*there are 2 layers"),
        ({"0": [9]}, r"\[9\] must be a list of heads from 0 to 3"),
        ({"0": [0, 1, 2, 3]}, "no head"),
        ({"a": [1]}, "config.json cannot be used"),
        ({"0": 1}, "pruned_heads"),
        ([1], "config.json cannot be used"),
        (3, "config.json cannot be used"),
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
