"""Layers with fewer attention heads, alone or with fewer neurons: forward, save and load."""

import copy
import json

import numpy as np
import pytest
import torch
from heads import CUT, cut, zeroed
from hypothesis import given
from hypothesis import strategies as st
from tiny import MOVABLE, TEXTS, save_model
from transformers import AutoModelForSequenceClassification, BertConfig

from compressor import load_model
from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.measurement.cost import cls_row_flops, shape_flops
from compressor.measurement.predictions import predict
from compressor.model.checks import shape_in
from compressor.model.families import family_of, layer_list
from compressor.model.load import find_model, load_tokenizer
from compressor.model.sublayers import apply_shape, cut_heads, cut_part, shape_of
from compressor.model.surgery import leave_out
from compressor.model.surgery import save_model as save
from compressor.model.units import (
    Shape,
    has_part,
    heads_left,
    join_pieces,
    neurons_left,
    ordered,
    pieces,
    shape_left,
    split_unit,
    unit_of,
    unit_words,
)

PART = st.builds(
    join_pieces,
    st.one_of(st.sampled_from(["", "attention"]), st.integers(1, 12).map("heads:{}".format)),
    st.one_of(st.sampled_from(["", "ffn"]), st.integers(1, 3072).map("ffn:{}".format)),
)


@pytest.mark.parametrize("kind", MOVABLE)
def test_what_is_left_computes_what_it_did(tiny, kind):
    model, family, encodings, _ = tiny(kind)
    made = cut(model, family)
    assert shape_of(made, family) == CUT
    assert shape_of(model, family) == Shape.even(4, 64, 4)
    wanted = predict(zeroed(model, family), encodings)
    assert np.abs(wanted - predict(model, encodings)).max() > 0.01
    np.testing.assert_allclose(predict(made, encodings), wanted, atol=1e-5)


@pytest.mark.parametrize("position", ["relative_key", "relative_key_query"])
def test_scores_by_distance_stay_those_of_each_head(tmp_path, position):
    folder = save_model(tmp_path / "model", "bert", layers=4, position_embedding_type=position)
    model, family, tokenizer = load_model(folder), family_of("bert"), load_tokenizer(find_model(str(folder)))
    encodings, made = encode(TEXTS, tokenizer, 40), cut(model, family_of("bert"))
    wanted = predict(zeroed(model, family), encodings)
    np.testing.assert_allclose(predict(made, encodings), wanted, atol=1e-5)
    save(made, tokenizer, tmp_path / "cut", "card")
    stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not info["missing_keys"]
    for opened in (stock.eval(), load_model(tmp_path / "cut")):
        np.testing.assert_allclose(predict(opened, encodings), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", MOVABLE)
@pytest.mark.parametrize("stock", [True, False])
def test_directories_are_opened_by_us_and_by_the_stock_class(tiny, tmp_path, kind, stock):
    model, family, encodings, folder = tiny(kind)
    made = cut(model, family)
    wanted = predict(made, encodings)
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "card", stock=stock)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert config["compressor"]["heads"] == [2, 1, 0, 3]
    ours = load_model(tmp_path / "cut")
    assert type(ours) is type(model)
    assert shape_of(ours, family) == CUT
    np.testing.assert_array_equal(predict(ours, encodings), wanted)
    save(ours, load_tokenizer(find_model(str(folder))), tmp_path / "again", "card")
    np.testing.assert_array_equal(predict(load_model(tmp_path / "again"), encodings), wanted)
    if stock:
        opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval()
        assert shape_of(opened, family) == Shape.even(4, 64, 4)
        # in float64, as sums over zeros are rounded elsewhere
        exact = predict(opened.double(), encodings), predict(made.double(), encodings)
        np.testing.assert_allclose(*exact, atol=1e-6)


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_one_count_for_all_layers_is_still_told(tiny, tmp_path, kind):
    model, family, encodings, folder = tiny(kind)
    made = copy.deepcopy(model)
    for layer in layer_list(made, family):
        cut_heads(layer, family, [1, 3])
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "card")
    ours = load_model(tmp_path / "cut")
    assert shape_of(ours, family).heads == (2,) * 4
    np.testing.assert_array_equal(predict(ours, encodings), predict(made, encodings))


def test_parts_leave_the_leading_heads_and_neurons(tiny):
    model, family, encodings, _ = tiny("bert")
    made = leave_out(model, family, ["1.heads:2+ffn:16", "2.attention+ffn:8", "3.heads:3+ffn", 4])
    left = Shape((16, 8, 0), (2, 0, 3), 4)
    assert shape_of(made, family) == left == shape_left(["1.heads:2+ffn:16", "2.attention+ffn:8", "3.heads:3+ffn", 4],
                                                        Shape.even(4, 64, 4))  # fmt: skip
    layer = copy.deepcopy(layer_list(model, family)[0])
    cut_part(layer, family, "heads:2+ffn:16")
    for name in (family.query, family.key, family.value, family.ffn_input):
        whole = layer_list(model, family)[0].get_submodule(name)
        assert torch.equal(layer.get_submodule(name).weight, whole.weight[:16])
    shaped = leave_out(model, family, [4])
    apply_shape(shaped, family, left)
    np.testing.assert_array_equal(predict(shaped, encodings), predict(made, encodings))
    assert predict(leave_out(made, family, ["1.heads:1", "3.heads:1"]), encodings).shape == (24, 3)


@given(PART.filter(bool), st.integers(1, 24))
def test_parts_are_put_together_and_taken_apart(part, layer):
    attention, ffn = pieces(part)
    assert join_pieces(attention, ffn) == part
    assert split_unit(unit_of(layer, part)) == (layer, part)
    assert neurons_left(part, 4000) == {"": 4000, "ffn": 0}.get(ffn) or int(ffn.partition(":")[2] or 0) or ffn == "ffn"
    assert heads_left(part, 12) <= 12
    assert has_part(part, 4000, 13)
    assert not has_part(part, 0, 0)
    assert has_part(part, 0, 13) == (not ffn)
    assert str(layer) in unit_words([unit_of(layer, part)])


@given(st.lists(st.tuples(st.integers(0, 64), st.integers(0, 4)), min_size=1, max_size=12))
def test_shapes_go_into_a_configuration_and_back(rows):
    widths, heads = zip(*rows, strict=True)
    shape = Shape(widths, heads, 4)
    config = BertConfig(
        num_hidden_layers=len(rows), intermediate_size=64, hidden_size=32, num_attention_heads=4
    ).to_dict()
    assert shape_in({**config, "compressor": json.loads(json.dumps(shape.as_config()))}) == shape
    assert shape.attention == tuple(count > 0 for count in heads)
    assert sum(shape_flops(layer, 32) for layer in shape.each()) == shape_flops(shape, 32)


@pytest.mark.parametrize("part", ["head:2", "heads:0", "heads", "ffn:", "ffn+attention", "attentionffn", "+ffn", "heads:2+", "ffn:8\n"])  # fmt: skip
def test_what_names_no_part_is_refused(part):
    with pytest.raises(UserError, match="is no part of a layer; name attention or heads:K"):
        pieces(part)


def test_units_in_words():
    assert unit_words(["3.heads:4+ffn:384", "1.heads:4", 2, "5.attention+ffn:8"]) == (
        "all but 4 heads of layers 1 and 3, layer 2, all but 384 FFN neurons of layer 3, the attention of layer 5 and all "
        "but 8 FFN neurons of layer 5"
    )
    assert unit_words(["4.heads:1"]) == "all but 1 head of layer 4"
    assert ordered(["3.heads:4+ffn:384", 2]) == (2, "3.heads:4+ffn:384")


@pytest.mark.parametrize(
    "heads", [[2, 4], [4, 4, 5], [4, -1, 4], [4, 1.0, 4], [4, True, 4], 3, ["4", 4, 4]]
)  # fmt: skip
def test_heads_that_are_not_there_are_refused(heads):
    config = BertConfig(num_hidden_layers=3, hidden_size=32, num_attention_heads=4).to_dict()
    with pytest.raises(UserError, match=r"config.json: compressor.heads must be 3 whole numbers, .* its 4 heads"):
        shape_in({**config, "compressor": {"ffn_widths": [8] * 3, "heads": heads}})


def test_earlier_directories_say_whether_a_layer_attends():
    config = BertConfig(num_hidden_layers=3, hidden_size=32, num_attention_heads=4).to_dict()
    entry = {"ffn_widths": [8, 0, 8], "attention": [True, True, False]}
    assert shape_in({**config, "compressor": entry}) == Shape((8, 0, 8), (4, 4, 0), 4)


def test_heads_cost_their_share():
    """Two heads of four, 2 numbers each: by hand at 3 tokens, width 8."""
    maps, scores = 4 * (2 * 3 * 8 * 4), 2 * (2 * 3 * 3 * 4)  # four maps 8 -> 4; scores and weighted sums
    assert shape_flops(Shape((0,), (2,), 4), 8, 3) == maps + scores
    whole = shape_flops(Shape.even(1, 32, 4), 8, 3)
    ffn = shape_flops(Shape((32,), (0,), 4), 8, 3)
    assert maps + scores == (whole - ffn) / 2
    row = Shape((16,), (2,), 4)
    block = 2 * 2 * 8 * 16
    # keys and values of three tokens, query and output of one; scores and sum over 4 numbers
    assert cls_row_flops(row, 8, 3, "single_row") == 2 * (2 * 3 * 8 * 4) + 2 * (2 * 8 * 4) + 2 * (2 * 3 * 4) + block
    # query, directions, values and output of one row; in both heads scores and sum over 8 numbers
    assert cls_row_flops(row, 8, 3) == 4 * (2 * 8 * 4) + 2 * 2 * (2 * 3 * 8) + block
    assert cls_row_flops(Shape((16,), (0,), 4), 8, 3) == block
    assert cls_row_flops(row, 8, 3, "attended") == 3 * 4 * (2 * 8 * 4) + 2 * (2 * 3 * 3 * 4) + block
