"""Exported files against the PyTorch model they were made from; tiny random models, nothing from the network."""

import logging
import typing

import numpy as np
import onnx
import pytest
from tiny import TEXTS, save_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, TextClassificationPipeline

from compressor.data.batches import encode, pad, padded_batches
from compressor.export import onnx as export
from compressor.export.parity import check_parity, parity
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import grid_batches
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.model.families import FAMILIES
from compressor.recipe.compression import ExportSpec


def torch_model(model_dir):
    return AutoModelForSequenceClassification.from_pretrained(model_dir).eval()


def torch_logits(model_dir, encodings, batch_size=5):
    run, logits = torch_subject(torch_model(model_dir)), np.empty((len(encodings), 3), dtype=np.float32)
    for rows, batch in padded_batches(encodings, batch_size):
        logits[rows] = run(batch).numpy()
    return logits


def tiny_encodings(model_dir):
    return encode(TEXTS, AutoTokenizer.from_pretrained(model_dir), 32)


def test_the_table_has_the_recipe_s_variants():
    annotation = ExportSpec.model_fields["variants"].annotation
    named, auto = typing.get_args(annotation)
    assert list(export.VARIANTS) == list(typing.get_args(typing.get_args(named)[0]))
    assert typing.get_args(auto) == ("auto",)
    assert set(export.STOCK) < set(export.VARIANTS)


def test_answers_like_pytorch_in_padded_batches(exported):
    model_dir, files = exported
    encodings = tiny_encodings(model_dir)
    assert len(set(encodings.lengths)) > 10
    reference = torch_logits(model_dir, encodings)
    assert np.ptp(reference[:, 0]) > 0.05  # texts differ, so agreement means something
    for name in ("fp32", "alltokens", "optimized"):
        logits = predict_onnx(session(files[name].path), encodings, batch_size=7)
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, reference, atol=1e-5)
        found = parity(reference, logits)
        assert (found.agreement, found.rows) == (1.0, len(TEXTS))
        check_parity(name, found)


def test_any_batch_and_any_length(exported):
    model_dir, files = exported
    model = torch_subject(torch_model(model_dir))
    names = "fp32", "alltokens", "optimized"
    subjects = [onnx_subject(session(files[name].path, threads=1)) for name in names]
    for batch, length in [(1, 1), (1, 57), (3, 2), (9, 31)]:
        inputs = grid_batches(batch, length, 64, ["input_ids", "attention_mask", "token_type_ids"])[0]
        for subject in subjects:
            np.testing.assert_allclose(subject(inputs)[0], model(inputs).numpy(), atol=1e-5)


def test_fused_graph_respects_padding_on_the_left(exported):
    model_dir, files = exported
    inputs = pad(tiny_encodings(model_dir), np.arange(4))
    mirrored = {name: values[:, ::-1].copy() for name, values in inputs.items()}
    expected = torch_subject(torch_model(model_dir))(mirrored).numpy()
    np.testing.assert_allclose(onnx_subject(session(files["optimized"].path))(mirrored)[0], expected, atol=1e-5)


def test_int8_is_small_finite_and_mostly_right(exported):
    model_dir, files = exported
    encodings = tiny_encodings(model_dir)
    found = parity(torch_logits(model_dir, encodings), predict_onnx(session(files["int8"].path), encodings))
    check_parity("int8", found)
    assert 1e-6 < found.max_abs < 0.5
    assert found.agreement > 0.8
    assert files["int8"].bytes < 0.75 * files["fp32"].bytes  # graph and biases weigh much in a model this small
    assert files["int8"].fused == {"MultiHeadAttention": 1, "BiasGelu": 2}


def test_fp16_is_half_as_large_and_near(exported):
    model_dir, files = exported
    encodings = tiny_encodings(model_dir)
    # without a GPU the runtime computes in float32 between float16 states, which rounds and overflows alike
    found = parity(torch_logits(model_dir, encodings), predict_onnx(session(files["fp16"].path), encodings))
    assert 1e-5 < found.max_abs < 0.05
    weights = [onnx.load(files[name].path).graph.initializer for name in ("optimized", "fp16")]
    before, after = ({tensor.data_type for tensor in tensors} for tensors in weights)
    assert (onnx.TensorProto.FLOAT16 in before, onnx.TensorProto.FLOAT16 in after) == (False, True)
    assert files["fp16"].bytes < 0.75 * files["optimized"].bytes


def test_directories_are_complete(exported):
    model_dir, files = exported
    assert {file.path.parent.name for file in files.values()} == set(export.VARIANTS)
    for file in files.values():
        assert file.bytes == file.path.stat().st_size > 0
        assert file.seconds > 0
        assert (file.path.parent / "config.json").read_text() == (model_dir / "config.json").read_text()
        same = AutoTokenizer.from_pretrained(file.path.parent)
        assert same("a b c")["input_ids"] == AutoTokenizer.from_pretrained(model_dir)("a b c")["input_ids"]
        assert same.special_tokens_map == AutoTokenizer.from_pretrained(model_dir).special_tokens_map
    onnx.checker.check_model(onnx.load(files["fp32"].path))
    parent = files["fp32"].path.parents[2]
    assert sorted(path.name for path in parent.iterdir()) == ["model", "onnx"]  # nothing temporary is left


@pytest.mark.parametrize("variant", export.VARIANTS)
def test_opens_with_optimum_and_in_a_pipeline(exported, variant):
    from optimum.onnxruntime import ORTModelForSequenceClassification

    model_dir, files = exported
    folder = files[variant].path.parent
    model = ORTModelForSequenceClassification.from_pretrained(folder)
    classify = TextClassificationPipeline(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), device="cpu")
    texts = [text for (text,) in TEXTS[:4]]
    labels = [answer["label"] for answer in classify(texts)]
    # one row a batch, as the pipeline does
    logits = predict_onnx(session(files[variant].path), tiny_encodings(model_dir), batch_size=1)
    assert labels == [f"LABEL_{index}" for index in logits[:4].argmax(1)]


@pytest.mark.parametrize("model_type", sorted(set(FAMILIES) - {"bert", "roberta", "distilbert"}))
def test_every_family_fuses_every_layer(tmp_path, model_type):
    model_dir = save_model(tmp_path / "model", model_type, layers=3)
    files = export.export_variants(model_dir, tmp_path / "onnx", ["alltokens", "optimized"])
    assert list(files) == ["alltokens", "optimized"]
    # attention by distance is no node of ONNX Runtime's, and its file has no tail; MPNet's embeddings are a skip and norm too
    attention = {} if FAMILIES[model_type].relative else {"Attention": 3}
    blocks = {"SkipLayerNormalization": 6 + (model_type == "mpnet")}
    # ALBERT's own activation is the tanh GELU
    blocks |= {} if FAMILIES[model_type].gated or model_type == "albert" else {"BiasGelu": 3}
    assert files["alltokens"].fused == {**attention, **blocks}
    assert files["optimized"].fused == {**({"Attention": 2} if attention else {}), **blocks}
    encodings = tiny_encodings(model_dir)
    for file in files.values():
        logits = predict_onnx(session(file.path), encodings)
        np.testing.assert_allclose(logits, torch_logits(model_dir, encodings), atol=1e-5)


def test_int8_alone_of_one_layer_with_another_activation(tmp_path, capfd):
    model_dir = save_model(tmp_path / "model", "bert", layers=1, hidden_act="relu")
    (tmp_path / "onnx" / "int8").mkdir(parents=True)
    (tmp_path / "onnx" / "int8" / "model.onnx_data").write_text("of an earlier export")
    handlers, disabled = list(logging.root.handlers), logging.root.manager.disable
    capfd.readouterr()
    files = export.export_variants(model_dir, tmp_path / "onnx", ["int8"])
    assert capfd.readouterr().out == ""
    assert (logging.root.handlers, logging.root.manager.disable) == (handlers, disabled)
    assert files["int8"].fused == {}  # the only layer is the tail, ReLU is no fused node
    assert [path.name for path in (tmp_path / "onnx").iterdir()] == ["int8"]
    assert not (tmp_path / "onnx" / "int8" / "model.onnx_data").exists()


def test_large_models_keep_their_weights_beside_the_graph(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_ONNX_EXTERNAL_DATA", "1")
    model_dir = save_model(tmp_path / "model", "bert")
    files = export.export_variants(model_dir, tmp_path / "onnx", list(export.VARIANTS))
    encodings = tiny_encodings(model_dir)
    reference = torch_logits(model_dir, encodings)
    for name, file in files.items():
        assert file.bytes > file.path.stat().st_size, name
        atol = {"fp16": 0.05, "int8": 0.5}.get(name, 1e-5)
        np.testing.assert_allclose(predict_onnx(session(file.path), encodings), reference, atol=atol)


@pytest.mark.gpu
def test_cuda_answers_like_pytorch_on_the_cpu(exported):
    model_dir, files = exported
    inputs = pad(tiny_encodings(model_dir), np.arange(6))
    expected = torch_subject(torch_model(model_dir))(inputs).numpy()
    on_gpu = torch_subject(torch_model(model_dir).to("cuda"))(inputs)
    np.testing.assert_allclose(on_gpu.cpu().numpy(), expected, atol=1e-3)
    bound = onnx_subject(session(files["optimized"].path, provider="CUDAExecutionProvider"))(inputs)
    np.testing.assert_allclose(bound.copy_outputs_to_cpu()[0], expected, atol=1e-3)
