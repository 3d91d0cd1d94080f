"""What export leaves out changes no logit, and the faster form of it is found by measurement."""

import copy
from itertools import count

import numpy as np
import onnx
import pytest
import torch
from tiny import ABSOLUTE, TEXTS, save_model
from transformers import AutoTokenizer

from compressor.compensation.heads.head import Head, fold_head
from compressor.data.batches import encode, pad
from compressor.export import onnx as export
from compressor.export.tail import CELLS, choose_form, with_tail, without_dead_nodes
from compressor.measurement.cost import cls_row_flops, shape_flops
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.cls_row import ATTENDED, FORMS, form_for
from compressor.model.families import family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.sublayers import shape_of
from compressor.model.surgery import leave_out
from compressor.model.surgery import save_model as save
from compressor.model.units import Shape


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model_type", ABSOLUTE)
def test_logits_stay_the_same_under_padding_on_either_side(tiny, model_type, form):
    model, family, encodings, _ = tiny(model_type)
    spared = with_tail(model, family, form)
    rows = np.array([0, 3, 5, 11])
    inputs = {name: torch.from_numpy(values) for name, values in pad(encodings, rows).items()}
    assert inputs["attention_mask"].min() == 0
    with torch.inference_mode():
        for batch in (inputs, {name: values.flip(1) for name, values in inputs.items()}, {**inputs}):
            torch.testing.assert_close(spared(**batch).logits, model(**batch).logits, rtol=0, atol=1e-5)
    assert len(layer_list(spared, family)) == len(layer_list(model, family))
    assert type(layer_list(model, family)[-1]).__name__ != "ClsTail"  # a copy: the model itself is left alone


DISTANCES = {
    "bert": {"position_embedding_type": "relative_key_query"},
    "mpnet": {},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    "modernbert": {"classifier_pooling": "cls"},
}


@pytest.mark.parametrize("units", [(), ("4.attention",), ("4.ffn",), (2, "4.ffn:8")], ids=str)
@pytest.mark.parametrize("model_type", DISTANCES)
def test_behind_attention_that_reads_distances_one_row_is_fed_forward(tmp_path, model_type, units):
    folder = save_model(tmp_path / "model", model_type, layers=4, **DISTANCES[model_type])
    source = find_model(str(folder))
    model, family, encodings = load_classifier(source), family_of(model_type), encode(TEXTS, load_tokenizer(source), 40)
    if model_type != "modernbert":  # of which no set of layers goes together with a part
        model = leave_out(model, family, units)
    elif units:
        model = leave_out(model, family, units[-1:])
    spared, rows, seen = with_tail(model, family, ATTENDED), np.array([0, 3, 5, 11]), []
    layer_list(spared, family)[-1].layer.get_submodule(family.ffn_output).register_forward_hook(
        lambda _module, given, _made: seen.append(given[0].shape)
    )
    inputs = {name: torch.from_numpy(values) for name, values in pad(encodings, rows).items()}
    with torch.inference_mode():
        found, wanted = spared(**inputs).logits, model(**inputs).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    (width,) = shape_of(model, family).each()[-1].ffn_widths
    assert seen == [(4, 1, width)]


def test_the_form_follows_from_what_the_model_reads():
    for model_type, changes in DISTANCES.items():
        assert form_for({"model_type": model_type, **changes}, "single_row") == ATTENDED
    assert form_for({"model_type": "bert"}, "single_row") == "single_row"
    assert form_for({"model_type": "modernbert", "classifier_pooling": "mean"}, "single_row") is None
    assert form_for({"model_type": "bert", "architectures": ["BertForTokenClassification"]}, "single_row") is None
    assert form_for({"model_type": "bert"}, None) is None


@pytest.fixture(params=["bert", "roberta", "distilbert", "electra"])
def folded(request, tiny):
    """Return a model whose head has 4 live nodes of 32, and its family and texts."""
    model, family, encodings, _ = tiny(request.param)
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    fold_head(model, family, Head(draw(32), draw(32).abs() + 0.5, draw(4, 32), draw(4), draw(3, 4), draw(3)))
    return model, family, encodings


def test_dead_nodes_of_a_folded_head_go(folded):
    model, family, encodings = folded
    live = without_dead_nodes(model, family)
    assert live.get_submodule(family.dense).weight.shape == (4, 32)
    assert live.get_submodule(family.output).weight.shape == (3, 4)
    np.testing.assert_allclose(predict(live, encodings), predict(model, encodings), atol=1e-5)
    assert model.get_submodule(family.dense).weight.shape == (32, 32)


def test_a_head_whose_nodes_are_all_heard_is_left_alone(tiny):
    model, family, _, _ = tiny("bert")
    assert without_dead_nodes(model, family) is model


def test_exported_files_have_the_small_head_and_no_last_attention(tmp_path, folded):
    model, family, encodings = folded
    source = save_model(tmp_path / "stock", model.config.model_type, layers=2)
    save(model, load_tokenizer(find_model(str(source))), tmp_path / "model", "# card\n")
    made = {
        form: export.export_variants(tmp_path / "model", tmp_path / str(form), ["optimized"], form=form)["optimized"]
        for form in (None, *FORMS)
    }
    layers = len(layer_list(model, family))
    for form, file in made.items():
        assert file.fused["Attention"] == layers - (form is not None)
        shapes = [tuple(tensor.dims) for tensor in onnx.load(file.path).graph.initializer]
        assert {(4, 32), (32, 4)} & set(shapes)
        assert sum(file.exported.values()) > sum(file.operators.values())
        np.testing.assert_allclose(
            predict_onnx(session(file.path), encodings, batch_size=5), predict(model, encodings), atol=1e-4
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_tail_in_8_bits_answers_nearly_alike(tmp_path, form):
    model_dir = save_model(tmp_path / "model", "bert", layers=3)
    files = export.export_variants(model_dir, tmp_path / "onnx", ["optimized", "int8"], form=form)
    encodings = encode(TEXTS, AutoTokenizer.from_pretrained(model_dir), 32)
    exact, rounded = (predict_onnx(session(files[name].path), encodings) for name in ("optimized", "int8"))
    assert 1e-6 < np.abs(exact - rounded).max() < 0.5


@pytest.mark.parametrize("opset", [14, 17, 18])
def test_the_version_of_the_operators_can_be_chosen(tmp_path, opset):
    model_dir = save_model(tmp_path / "model", "bert")
    files = export.export_variants(model_dir, tmp_path / "onnx", ["fp32", "optimized"], opset=opset)
    graph = onnx.load(files["fp32"].path)
    assert next(entry.version for entry in graph.opset_import if entry.domain == "") == opset
    assert files["optimized"].fused["SkipLayerNormalization"] == 4


class Clock:
    """Nanoseconds that stand still but while the slow form runs."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1000
        return self.now


@pytest.mark.parametrize("slow", ["reassociated", "single_row", None])
def test_the_faster_form_is_taken_and_the_cheaper_one_in_doubt(tiny, monkeypatch, slow):
    model, family, _, _ = tiny("bert")
    clock = Clock()
    real = __import__("compressor.export.tail", fromlist=["_row_subject"])._row_subject

    def subject(model, family, form, provider, threads):
        run, calls = real(model, family, form, provider, threads), count()

        def timed(batch):
            result = run(batch) if next(calls) < 2 else None
            clock.now += 2_000_000 if form == slow else 1_000_000
            return result

        return timed

    monkeypatch.setattr("compressor.export.tail._row_subject", subject)
    choice = choose_form(model, family, seconds=1e9, clock=clock)
    assert choice.form == ("single_row" if slow == "reassociated" else "reassociated")
    assert [(cell["batch"], cell["length"]) for cell in choice.cells] == list(CELLS)
    expected = {"reassociated": 2.0, "single_row": 0.5, None: 1.0}[slow]
    assert all(cell["ratio"] == pytest.approx(expected, rel=0.01) for cell in choice.cells)
    assert all(cell["claimed"] == (slow is not None) for cell in choice.cells)


def test_both_forms_give_the_same_row_on_the_runtime(tmp_path):
    source = find_model(str(save_model(tmp_path / "model", "bert")))
    model, family = load_classifier(source), family_of("bert")
    choice = choose_form(model, family, seconds=0.02)
    assert choice.form in FORMS
    assert all(min(cell["p50_ms"].values()) > 0 for cell in choice.cells)


def test_saving_by_hand():
    # one multiply-add is two operations; BERT-base at 128 tokens
    own = Shape.even(1, 3072, 12)
    layer = shape_flops(own, 768)
    saved = (layer - cls_row_flops(own, 768)) / (12 * layer)
    assert saved == pytest.approx(0.0825, abs=0.0001)
    saved = (layer - cls_row_flops(own, 768, form="single_row")) / (12 * layer)
    assert saved == pytest.approx(0.069, abs=0.0005)
    # width 2, FFN 4, 3 tokens: keys and values 2 * 3 * 4, query and output 2 * 4, FFN 2 * 8, scores and sum 2 * 3 * 2
    assert cls_row_flops(Shape.even(1, 4, 1), 2, 3, form="single_row") == 2 * (24 + 8 + 16 + 12)
