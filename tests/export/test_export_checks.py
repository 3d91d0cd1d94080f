"""What an export refuses, what it leaves alone, and the fusions that it counts."""

import json
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from tiny import save_model
from transformers import AutoTokenizer, BertConfig, DistilBertConfig

from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.export import onnx as export
from compressor.export.optimize import check_fused
from compressor.measurement.runtime import predict_onnx, session


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


def test_paths_may_be_relative(tmp_path, monkeypatch, exported):
    model_dir, _ = exported
    monkeypatch.chdir(tmp_path)
    files = export.export_variants(model_dir, Path("onnx"), ["fp32"])
    assert files["fp32"].path.is_file()
