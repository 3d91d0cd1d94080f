"""Layers with narrower feed-forward blocks or without one of their blocks: forward, save and load, files."""

import copy
import json

import numpy as np
import pytest
import torch
from tiny import CONFIGS
from transformers import AutoModelForSequenceClassification, BertConfig, BertForMaskedLM

from compressor import load_model
from compressor.errors import UserError
from compressor.export.onnx import STOCK, export_variants
from compressor.export.optimize import count_operators, expected_nodes
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.checks import check_widths, shape_in
from compressor.model.families import family_of, layer_list
from compressor.model.load import find_model, load_tokenizer, read_config
from compressor.model.sublayers import cut_attention, cut_ffn, shape_of, shaped_model
from compressor.model.surgery import drop_layers, save_model
from compressor.model.units import Shape

FAMILIES_TRIED = "bert", "distilbert", "roberta", "electra"
CUT = Shape((40, 64, 0, 64), (4, 0, 4, 4), 4)
"""Layer 1 is narrower, layer 2 does not attend, layer 3 has no feed-forward block."""


def cut(model, family, *, last=False):
    """Return a copy of a model of four layers cut to `CUT`; `last`: the last layer loses its attention as well."""
    made = copy.deepcopy(model)
    layers = layer_list(made, family)
    cut_ffn(layers[0], family, range(5, 45))
    cut_attention(layers[1], family)
    cut_ffn(layers[2], family, [])
    if last:
        cut_attention(layers[3], family)
    return made


def by_hand(model, family, hidden, mask):
    """Return the states behind the layers of `model` cut to `CUT`, written out with the whole model's weights."""
    for index, layer in enumerate(layer_list(model, family)):
        get = layer.get_submodule
        if index == 1:
            attended = get(family.attention_norm)(get(family.attention_output).bias + hidden)
        else:
            heads = model.config.num_attention_heads
            query, key, value = (
                get(name)(hidden).unflatten(-1, (heads, -1)).transpose(1, 2)
                for name in (family.query, family.key, family.value)
            )
            scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5 + (1 - mask[:, None, None].float()) * -1e9
            context = (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)
            attended = get(family.attention_norm)(get(family.attention_output)(context) + hidden)
        chosen = {0: range(5, 45), 2: []}.get(index, range(64))
        inner = get(family.ffn_activation)(get(family.ffn_input)(attended))[..., list(chosen)]
        output = get(family.ffn_output)
        hidden = get(family.ffn_norm)(inner @ output.weight[:, list(chosen)].T + output.bias + attended)
    return hidden


@torch.inference_mode()
def test_cut_layers_compute_what_is_left(tiny):
    model, family, _, _ = tiny("bert")
    made = cut(model, family)
    ids = torch.randint(5, 31, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, 6:] = 0
    states = model(ids, attention_mask=mask, output_hidden_states=True).hidden_states
    wanted = by_hand(model, family, states[0], mask)
    found = made(ids, attention_mask=mask, output_hidden_states=True).hidden_states[-1]
    kept = mask.bool()
    assert (found[kept] - wanted[kept]).abs().max() < 1e-4
    assert shape_of(made, family) == CUT
    assert shape_of(model, family).uniform()


@pytest.mark.parametrize("kind", FAMILIES_TRIED)
def test_stock_class_opens_the_directory_with_equal_results(tiny, tmp_path, kind):
    model, family, encodings, folder = tiny(kind)
    made = cut(model, family)
    save_model(made, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "card")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
    ours = load_model(tmp_path / "cut")
    assert type(stock) is type(ours) is type(model)
    assert shape_of(ours, family) == CUT
    assert shape_of(stock, family) == Shape.even(4, 64, 4)
    wanted = predict(made, encodings)
    assert np.abs(predict(stock, encodings) - wanted).max() < 1e-4
    assert np.array_equal(predict(ours, encodings), wanted)
    removed = layer_list(stock, family)[2].get_submodule(family.ffn_output)
    assert not removed.weight.any()
    assert torch.equal(removed.bias, layer_list(model, family)[2].get_submodule(family.ffn_output).bias)
    assert sum(parameter.numel() for parameter in ours.parameters()) < sum(p.numel() for p in stock.parameters())


def test_exact_weights_are_read_by_load_model(tiny, tmp_path):
    model, family, encodings, folder = tiny("bert")
    made = cut(model, family)
    save_model(made, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "card", stock=False)
    ours = load_model(tmp_path / "cut")
    assert type(ours) is type(model)
    assert np.array_equal(predict(ours, encodings), predict(made, encodings))
    save_model(ours, load_tokenizer(find_model(str(folder))), tmp_path / "again", "card")
    assert np.array_equal(predict(load_model(tmp_path / "again"), encodings), predict(made, encodings))


def test_one_width_for_all_needs_no_word_in_the_config(tiny, tmp_path):
    model, family, encodings, folder = tiny("bert")
    made = copy.deepcopy(model)
    for layer in layer_list(made, family):
        cut_ffn(layer, family, range(0, 64, 2))
    save_model(made, load_tokenizer(find_model(str(folder))), tmp_path / "narrow", "card")
    config = json.loads((tmp_path / "narrow" / "config.json").read_text())
    assert config["intermediate_size"] == 32
    assert "compressor" not in config
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "narrow").eval()
    assert np.array_equal(predict(stock, encodings), predict(made, encodings))


def test_layers_are_dropped_from_cut_models(tiny):
    model, family, encodings, _ = tiny("bert")
    made = drop_layers(cut(model, family), family, [1])
    assert shape_of(made, family) == Shape((64, 0, 64), (0, 4, 4), 4)
    assert predict(made, encodings).shape == (24, 3)


@pytest.mark.parametrize("last", [False, True], ids=["inside", "last"])
@pytest.mark.parametrize("kind", FAMILIES_TRIED)
def test_files_agree_and_stay_fused(tiny, tmp_path, kind, last):
    model, family, encodings, folder = tiny(kind)
    made = cut(model, family, last=last)
    save_model(made, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "card")
    wanted = predict(made, encodings)
    files = export_variants(tmp_path / "cut", tmp_path / "onnx", ["fp32", "alltokens", "optimized", "int8"])
    config = read_config(tmp_path / "cut")
    for name, file in files.items():
        logits = predict_onnx(session(file.path), encodings)
        assert np.abs(logits - wanted).max() < (0.5 if name == "int8" else 1e-4), name
        if name in {"alltokens", "optimized"}:
            nodes = count_operators(file.path)
            for operator, count in expected_nodes(config, tail=name not in STOCK).items():
                assert nodes.get(operator, 0) == count, (name, operator)
    # what went is not in the file: less by the maps, and no activation in their place
    full = export_variants(folder, tmp_path / "full", ["alltokens"])["alltokens"]
    gone = (2 * 32 * 64 + 64) + (2 * 32 * 24 + 24) + (1 + last) * 4 * 32 * 32
    assert full.bytes - files["alltokens"].bytes >= 4 * gone


def test_masked_language_models_take_widths_too(tmp_path):
    config = BertConfig(**{**CONFIGS["bert"], "vocab_size": 40, "hidden_size": 16, "num_attention_heads": 2,
                           "num_hidden_layers": 3, "intermediate_size": 32, "compressor": {"ffn_widths": [0, 96, 0]}})  # fmt: skip
    torch.manual_seed(0)
    model = shaped_model(BertForMaskedLM, config).eval()
    assert shape_of(model, family_of("bert")).ffn_widths == (0, 96, 0)
    wide = layer_list(model, family_of("bert"))[1].intermediate.dense
    assert abs(float(wide.weight.detach().std()) - config.initializer_range) < 0.002
    assert not wide.bias.any()
    ids = torch.arange(5, 15)[None]
    assert model(ids).logits.shape == (1, 10, 40)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"ffn_widths": [8, 8]}, "2 widths for 3 layers"),
        ({"ffn_widths": [8, -1, 8]}, "layer 2 has width -1"),
        ({"ffn_widths": [8, 1.5, 8]}, "layer 2 has width 1.5"),
        ({"ffn_widths": 8}, "give a list"),
        ({"ffn_widths": [8, 8, 8], "attention": [True]}, "attention must be 3 times"),
        ({"ffn_widths": [8, 8, 8], "stored": "odd"}, "stored is 'odd'"),
        ({"widths": [8, 8, 8]}, "must hold ffn_widths"),
    ],
)
def test_unusable_shapes_are_refused(entry, words):
    with pytest.raises(UserError, match=words):
        shape_in({**BertConfig(num_hidden_layers=3).to_dict(), "compressor": entry})


def test_widths_are_checked():
    assert check_widths([0, 3], 2, "widths") == (0, 3)
    with pytest.raises(UserError, match="widths: 1 widths for 2 layers"):
        check_widths([1], 2, "widths")
