"""ONNX files of models whose layers have fewer heads: every variant, both forms of the tail, all nodes fused."""

import copy

import numpy as np
import onnx
import pytest
from heads import cut
from onnx import numpy_helper
from tiny import MOVABLE, TEXTS
from tiny import save_model as write_model

from compressor.data.batches import encode
from compressor.export.onnx import STOCK, export_variants
from compressor.export.optimize import count_operators, expected_nodes
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.cls_row import FORMS
from compressor.model.families import FAMILIES, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer, read_config
from compressor.model.sublayers import cut_heads
from compressor.model.surgery import save_model

TOLERANCE = {"fp16": 0.05, "int8": 2.0}
"""Of logits up to 6 of tiny random models; those of float32 agree to 1e-4."""


@pytest.fixture(scope="module", params=MOVABLE)
def saved(request, tiny, tmp_path_factory):
    """Return a cut model with its family, texts and directory."""
    model, family, encodings, folder = tiny(request.param)
    made = cut(model, family)
    path = tmp_path_factory.mktemp(request.param)
    save_model(made, load_tokenizer(find_model(str(folder))), path / "model", "card")
    return made, family, encodings, path


def check(path, form, variants, model, encodings):
    wanted, config = predict(model, encodings), read_config(path / "model")
    for name, file in export_variants(path / "model", path / (form or "none"), variants, form=form).items():
        logits = predict_onnx(session(file.path), encodings)
        np.testing.assert_allclose(logits, wanted, atol=TOLERANCE.get(name, 1e-4), err_msg=name)
        assert (logits.argmax(1) == wanted.argmax(1)).mean() >= (0.9 if name == "int8" else 1.0), name
        if name in {"alltokens", "optimized", "fp16"}:
            expected = {kind: count for kind, count in expected_nodes(config, tail=name not in STOCK).items() if count}
            assert file.fused == expected, name


def test_every_variant_answers_like_the_model(saved):
    model, _, encodings, path = saved
    check(path, "reassociated", ["fp32", "alltokens", "optimized", "fp16", "int8"], model, encodings)
    nodes = onnx.load(str(path / "reassociated" / "alltokens" / "model.onnx")).graph.node
    found = [
        attribute.i
        for node in nodes
        if node.op_type == "Attention"
        for attribute in node.attribute
        if attribute.name == "num_heads"
    ]
    if saved[1].relative:  # attention by distance is no node of its own
        assert found == []
        return
    assert found == [2, 1, 3]
    # in 8 bits the products stand apart from the attention, which reads as much as its heads are wide
    graph = onnx.load(str(path / "reassociated" / "int8" / "model.onnx")).graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    biases = [held[node.input[3]].shape for node in graph.node if node.op_type == "MultiHeadAttention"]
    assert biases == [(3 * 16,), (3 * 8,)]
    assert count_operators(path / "reassociated" / "int8" / "model.onnx")["MultiHeadAttention"] == 2


@pytest.mark.parametrize("kind", ["bert", "distilbert"])
@pytest.mark.parametrize("heads", [[2], [0, 3], []])
@pytest.mark.parametrize("form", FORMS)
def test_the_tail_reads_the_heads_that_are_left(tiny, tmp_path, kind, heads, form):
    model, family, encodings, folder = tiny(kind)
    made = copy.deepcopy(model)
    cut_heads(layer_list(made, family)[3], family, heads)
    save_model(made, load_tokenizer(find_model(str(folder))), tmp_path / "model", "card")
    check(tmp_path, form, ["optimized"], made, encodings)


@pytest.mark.parametrize("position", ["relative_key", "relative_key_query"])
def test_scores_by_distance_are_exported_with_the_heads_that_are_left(tmp_path, position):
    folder = write_model(tmp_path / "whole", "bert", layers=4, position_embedding_type=position)
    source = find_model(str(folder))
    tokenizer = load_tokenizer(source)
    made = cut(load_classifier(source), FAMILIES["bert"])
    save_model(made, tokenizer, tmp_path / "model", "card")
    check(tmp_path, None, ["fp32", "alltokens", "optimized"], made, encode(TEXTS, tokenizer, 40))
