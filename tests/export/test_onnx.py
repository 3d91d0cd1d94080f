"""Exported files against the PyTorch model they were made from; tiny random models, nothing from the network."""

import json
import logging
import typing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from tiny import TEXTS, save_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    TextClassificationPipeline,
)

from compressor.data.batches import encode, pad, padded_batches
from compressor.errors import UserError
from compressor.export import onnx as export
from compressor.export.optimize import check_fused
from compressor.export.parity import Parity, check_parity, parity
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import grid_batches
from compressor.measurement.timing.subjects import onnx_subject, torch_subject
from compressor.model.families import FAMILIES
from compressor.recipe.compression import ExportSpec


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def exported(request, tmp_path_factory):
    """Return (model directory, {variant: VariantFile}) of a model of two layers in all variants."""
    folder = tmp_path_factory.mktemp(request.param)
    model_dir = save_model(folder / "model", request.param)
    return model_dir, export.export_variants(model_dir, folder / "onnx", list(export.VARIANTS))


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


def test_no_variants_no_rows(tmp_path, exported):
    model_dir, files = exported
    assert export.export_variants(model_dir, tmp_path / "onnx", []) == {}
    empty = encode([], AutoTokenizer.from_pretrained(model_dir), 8)
    assert predict_onnx(session(files["fp32"].path), empty).shape == (0, 3)


def test_wrong_input_is_explained(tmp_path, exported):
    model_dir, _ = exported
    with pytest.raises(UserError, match=r"'fp23'; did you mean 'fp32'\?; choose from fp32, alltokens, optimized, "):
        export.export_variants(model_dir, tmp_path, ["fp23"])
    with pytest.raises(UserError, match=r"no config\.json"):
        export.export_variants(tmp_path, tmp_path / "onnx", ["fp32"])
    with pytest.raises(UserError, match="no such ONNX file"):
        session(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    node = onnx.helper.make_node("Relu", ["x"], ["y"])
    value = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    old = {"ir_version": 8, "opset_imports": [onnx.helper.make_opsetid("", 13)]}  # so that every ONNX Runtime reads it
    made = onnx.helper.make_model(onnx.helper.make_graph([node], "g", value[:1], value[1:]), **old)
    graph = made.SerializeToString()
    # ONNX Runtime's message about the last holds bytes that are no text
    for content in (b"not a graph", b"", graph[:40], graph.replace(b"Relu", b"Re\xebu")):
        broken.write_bytes(content)
        with pytest.raises(UserError, match="not a usable ONNX file"):
            session(broken)


def test_an_unwritable_place_is_the_disk_s_error(tmp_path, exported):
    model_dir, _ = exported
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="file"):
        export.export_variants(model_dir, tmp_path / "file" / "onnx", ["fp32"])


def test_a_disk_that_would_fill_up_is_refused(tmp_path, monkeypatch, exported):
    model_dir, _ = exported
    weights = (model_dir / "model.safetensors").stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda folder: SimpleNamespace(free=2 * weights))
    with pytest.raises(UserError, match="free disk space"):
        export.export_variants(model_dir, tmp_path / "onnx", ["fp32", "int8"])
    assert not list((tmp_path / "onnx").iterdir())
    assert set(export.SPACE) == set(export.VARIANTS)
    assert set(export.export_variants(model_dir, tmp_path / "onnx", ["fp32"])) == {"fp32"}


def test_a_silent_fallback_is_an_error(monkeypatch, exported):
    _, files = exported

    fallback = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *args, **kwargs: fallback)
    with pytest.raises(UserError, match="asked for CUDAExecutionProvider, but ONNX Runtime would run on CPUExecution"):
        session(files["fp32"].path, provider="CUDAExecutionProvider")


@pytest.mark.gpu
def test_cuda_answers_like_pytorch_on_the_cpu(exported):
    model_dir, files = exported
    inputs = pad(tiny_encodings(model_dir), np.arange(6))
    expected = torch_subject(torch_model(model_dir))(inputs).numpy()
    on_gpu = torch_subject(torch_model(model_dir).to("cuda"))(inputs)
    np.testing.assert_allclose(on_gpu.cpu().numpy(), expected, atol=1e-3)
    bound = onnx_subject(session(files["optimized"].path, provider="CUDAExecutionProvider"))(inputs)
    np.testing.assert_allclose(bound.copy_outputs_to_cpu()[0], expected, atol=1e-3)


def test_missing_fusions_are_counted():
    config = BertConfig(num_hidden_layers=2).to_dict()
    whole = {"Attention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}
    check_fused(whole, config)
    with pytest.raises(RuntimeError, match="0 Attention nodes for 2 layers of bert, expected 2"):
        check_fused({}, config)
    with pytest.raises(RuntimeError, match=r"3 SkipLayerNormalization .* expected 4"):
        check_fused({**whole, "SkipLayerNormalization": 3}, config)
    with pytest.raises(RuntimeError, match="1 BiasGelu"):
        check_fused({**whole, "BiasGelu": 1}, config)
    # another activation is fused otherwise or not at all
    check_fused({**whole, "BiasGelu": 0}, DistilBertConfig(n_layers=2, activation="relu").to_dict())
    with_tail = {**whole, "Attention": 1}
    check_fused(with_tail, config, tail=True)
    with pytest.raises(RuntimeError, match="1 Attention nodes for 2 layers of bert, expected 2"):
        check_fused(with_tail, config)


def test_an_export_leaves_what_it_did_not_write(tmp_path, command):
    model, out = save_model(tmp_path / "model"), tmp_path / "onnx"
    (out / "fp32").mkdir(parents=True)
    (out / "fp32" / "notes.txt").write_text("mine")
    for _ in range(2):
        assert command("export", model, "--out", out, "--variant", "fp32")[0] == 0
        assert (out / "fp32" / "notes.txt").read_text() == "mine"
    written = json.loads((out / "fp32" / ".written.json").read_text())
    assert {"model.onnx", "config.json", ".written.json"} <= set(written)
    assert {path.name for path in (out / "fp32").iterdir()} == {*written, "notes.txt"}
    stale = out / "fp32" / "model.onnx_data"  # of an export that says so
    stale.write_text("old")
    (out / "fp32" / ".written.json").write_text(json.dumps([*written, stale.name]))
    assert command("export", model, "--out", out, "--variant", "fp32")[0] == 0
    assert not stale.exists()
    (out / "int8").symlink_to(tmp_path / "model")
    code, _, stderr = command("export", model, "--out", out, "--variant", "int8")
    assert (code, "int8: this is a link" in stderr) == (2, True), stderr
    assert (tmp_path / "model" / "config.json").is_file()


def test_parity_by_hand():
    reference = np.array([[1.0, 0.0], [0.0, 2.0], [0.5, 0.50005]], dtype=np.float32)
    other = np.array([[1.25, 0.0], [0.0, 2.0], [0.5, 0.4999]], dtype=np.float32)
    found = parity(reference, other)
    assert (found.max_abs, found.rows, found.decided) == (0.25, 3, 1.0)  # the flip of row 2 is a tie
    assert found.agreement == pytest.approx(2 / 3)
    assert parity(reference, reference) == Parity(0.0, 1.0, 3, 1.0, 1.0)
    assert parity(reference, reference[:, ::-1]).decided == 0.0
    with pytest.raises(ValueError, match="equal non-empty"):
        parity(reference, other[:2])
    with pytest.raises(ValueError, match="equal non-empty"):
        parity(reference[:0], other[:0])


def test_fp16_that_overflows_is_the_model_s_not_ours():
    with pytest.raises(UserError, match="fp16 overflows with this model, .* 9 real texts; leave fp16 out"):
        check_parity("fp16", Parity(np.nan, 0.5, 9))
    check_parity("fp16", Parity(0.5, 0.9, 9))  # judged by its changed predictions


@pytest.mark.parametrize("variant", ["fp32", "optimized", "int8"])
def test_numbers_that_are_not_finite_fail_everywhere(variant):
    reference = np.array([[1.0, 0.0]])
    for broken in (np.nan, np.inf):
        with pytest.raises(RuntimeError, match=r"parity failure: .* not finite"):
            check_parity(variant, parity(reference, np.array([[1.0, broken]])))


@pytest.mark.parametrize(
    ("variant", "found", "words"),
    [
        ("fp32", Parity(2e-3, 1.0, 9), "differ by up to 0.002 .* 9 rows, allowed is 0.001"),
        ("optimized", Parity(6e-3, 1.0, 9), "allowed is 0.005"),
        ("fp32", Parity(1e-6, 0.9, 10, decided=0.9), "90.00% of 10 labels"),
    ],
)
def test_parity_limits(variant, found, words):
    with pytest.raises(RuntimeError, match=f"parity failure: .*{words}"):
        check_parity(variant, found)
    check_parity("int8", found)  # judged by its changed predictions, not here


def test_limits_grow_with_the_logits():
    # logits that deviate by 50 round by more: 0.0036 is nothing there, and a tie is one within 0.005
    reference = np.array([[50.0, -50.0], [-50.0, 50.0], [50.0, 49.997]])
    found = parity(reference, reference + np.array([[0.0036, 0], [0, 0.0036], [0, 0.0036]]))
    assert found.scale == pytest.approx(reference.std())
    assert (found.max_abs, found.decided) == (pytest.approx(0.0036), 1.0)
    check_parity("fp32", found)
    with pytest.raises(RuntimeError, match="differ by up to 0.0036 .* allowed is 0.001"):
        check_parity("fp32", parity(reference / 50, reference / 50 + 0.0036))


def test_parity_within_limits():
    check_parity("optimized", Parity(2e-3, 1.0, 9))
    check_parity("fp32", Parity(1e-6, 0.9, 10, decided=1.0))


def test_paths_may_be_relative(tmp_path, monkeypatch, exported):
    model_dir, _ = exported
    monkeypatch.chdir(tmp_path)
    files = export.export_variants(model_dir, Path("onnx"), ["fp32"])
    assert files["fp32"].path.is_file()
