"""DeBERTa-v2 with a convolution behind layer 1: it acts as part of that layer, which stays."""

import copy
import json
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny import TEXTS, save_model, sets
from transformers import AutoModelForSequenceClassification

from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import apply_layer, capture_calls
from compressor.model.families import FAMILIES, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.surgery import drop_layers, is_convolved
from compressor.model.surgery import save_model as save
from compressor.recipe.file import load_recipe
from compressor.run.structure import fit_structure
from compressor.selection.trie import walk_sets

FAMILY = FAMILIES["deberta-v2"]


@pytest.fixture(scope="module")
def convolved(tmp_path_factory):
    """Return the folder of a model with a convolution of three tokens, the model, its tokenizer and texts."""
    folder = save_model(
        tmp_path_factory.mktemp("conv") / "full", "deberta-v2", layers=4, num_labels=2, conv_kernel_size=3
    )
    source = find_model(str(folder))
    tokenizer = load_tokenizer(source)
    return folder, load_classifier(source), tokenizer, encode(TEXTS, tokenizer, 40)


def stock_logits(folder, encodings):
    stock, info = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return stock.deberta.encoder, predict(stock.eval(), encodings)


def test_the_model_is_the_stock_one_and_its_layers_lead_to_its_states(convolved):
    folder, model, _, encodings = convolved
    encoder, wanted = stock_logits(folder, encodings)
    assert encoder.conv is not None
    np.testing.assert_allclose(predict(model, encodings), wanted, atol=1e-6)
    layers = list(layer_list(model, FAMILY))
    assert [is_convolved(layer) for layer in layers] == [True, False, False, False]
    calls, _ = capture_calls(model, FAMILY, encodings)
    hidden, before = [call.hidden for call in calls], []
    for layer in layers:
        hidden = apply_layer(layer, calls, hidden)
        before.append(hidden)
    rows, inputs = calls[0].rows.numpy(), {}
    texts = encodings.take(rows)
    with torch.inference_mode():
        inputs = {"attention_mask": calls[0].mask, "input_ids": torch.zeros_like(calls[0].mask)}
        for row, ids in enumerate(texts.input_ids):
            inputs["input_ids"][row, : len(ids)] = torch.tensor(ids)
        states = (
            AutoModelForSequenceClassification.from_pretrained(folder)
            .eval()
            .deberta(**inputs, output_hidden_states=True)
        )
    for number, found in enumerate(before, start=1):
        at = calls[0].mask.bool()
        torch.testing.assert_close(found[0][at], states.hidden_states[number][at], atol=1e-5, rtol=1e-5)


def test_a_copy_has_the_copied_convolution(convolved):
    _, model, _, encodings = convolved
    before, made = predict(model, encodings), copy.deepcopy(model)
    with torch.no_grad():
        made.deberta.encoder.conv.conv.weight.mul_(-3)
    assert np.abs(predict(made, encodings) - before).max() > 1e-3
    np.testing.assert_array_equal(predict(model, encodings), before)


def test_every_set_without_layer_1_is_the_stock_class_with_fewer_layers(convolved, tmp_path):
    _, model, tokenizer, encodings = convolved
    calls, _ = capture_calls(model, FAMILY, encodings)
    chosen = [skip for size in (1, 2, 3) for skip in combinations((2, 3, 4), size)]
    walked = {
        skip: [state.clone() for state in states]
        for skip, states in walk_sets(list(layer_list(model, FAMILY)), calls, chosen)
    }
    for skip in chosen:
        made = drop_layers(model, FAMILY, skip)
        save(made, tokenizer, tmp_path / "cut", "card")
        _, wanted = stock_logits(tmp_path / "cut", encodings)
        np.testing.assert_allclose(predict(made, encodings), wanted, atol=1e-6)
        with torch.inference_mode():
            head = made.classifier(made.pooler(torch.cat(walked[skip])))
        order = torch.cat([call.rows for call in calls]).argsort()
        np.testing.assert_allclose(head[order].numpy(), wanted, atol=1e-5)
    with pytest.raises(UserError, match="without layer 1: a convolution behind layer 1"):
        drop_layers(model, FAMILY, [1, 3])


@pytest.mark.slow
def test_a_run_keeps_layer_1_and_ends_in_a_stock_model(convolved, tmp_path, finished):
    folder, *_ = convolved
    values = (
        f"model.path={folder}", "selection={search: exhaustive, layers: 1, audit: true}",
        "compensation={refit: {layers: later, blocks: both}, head: {nodes: 4, epochs: 3}}", "analysis=[ffn, roles, errors]",
        "export.variants=[optimized]", "benchmark.workload=false",
    )  # fmt: skip
    result = finished(*values)
    assert result["recipe"]["selection"]["protect"] == [1]
    assert result["plan"]["sets_total"] == 3
    assert 1 not in result["plan"]["skip"]
    assert 1 not in {entry["layer"] for entry in result["refit"]}
    assert result["parity"]["optimized"]["agreement"] == 1.0
    encoder, _ = stock_logits(tmp_path / "run" / "model", convolved[3])
    assert (len(encoder.layer), encoder.conv is None) == (3, False)


@pytest.mark.slow
def test_parts_of_the_other_layers_go(convolved, tiny_task, tmp_path, command):
    folder, *_ = convolved
    values = (
        f"model.path={folder}",
        "selection={units: [heads, width], widths: [0.5], budget: {keep: 0.75}, beam_width: 2}",
    )
    code, _, stderr = command("plan", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    units = json.loads((tmp_path / "run" / "plan.json").read_text())["units"]
    assert units
    assert not any(str(unit).startswith("1.") for unit in units)


def test_layer_1_is_refused_where_it_is_named(convolved, tiny_task, tmp_path, command):
    values = f"model.path={convolved[0]}", "selection={search: fixed, skip: [1]}"
    code, _, stderr = command("run", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run")
    assert (code, "selection.skip: layer 1 cannot be skipped: a convolution" in stderr) == (2, True), stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kernel", [2, -1, "3", True, 2.5])
def test_a_kernel_that_moves_the_tokens_is_refused(tmp_path, kernel):
    folder = save_model(tmp_path / "full", "deberta-v2", layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"conv_kernel_size": kernel}))
    with pytest.raises(UserError, match="conv_kernel_size is .* must be 0 or an odd number"):
        find_model(str(folder))


def test_the_field_says_nothing_in_a_family_without_one(tmp_path):
    folder = save_model(tmp_path / "full", "bert", layers=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"conv_kernel_size": 2}))
    recipe = load_recipe({"name": "stray", "model": {"path": str(folder)}, "data": {"task": "demo"}})
    assert fit_structure(recipe, find_model(str(folder))).selection.protect == []
