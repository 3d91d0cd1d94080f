"""The latency stage of a run: who is compared with whom, and what is started in a process of its own."""

import compressor.stages.latency
from compressor.files import read_json
from compressor.stages.latency import opponents


def test_every_compressed_variant_has_the_full_model_in_its_format():
    names = ["full", "compressed", "full_onnx_fp32", "onnx_fp32", "full_onnx_int8", "onnx_int8"]
    assert opponents(names) == {"compressed": "full", "onnx_fp32": "full_onnx_fp32", "onnx_int8": "full_onnx_int8"}


def test_every_variant_is_started_and_shown(tiny_task, tmp_path, command, monkeypatch):
    asked = {}

    def fake(starts, **_options):
        asked.update(starts)
        measured = {"load_s": 0.25, "first_call_s": 0.5, "peak_bytes": 2e8, "imported_bytes": None, "gpu_bytes": None}
        return {name: {**measured, "batch": 1, "length": 8, "children": 3} for name in starts}

    monkeypatch.setattr(compressor.stages.latency, "footprints", fake)
    out = tmp_path / "run"
    sets = "benchmark.footprint=true", "benchmark.workload=false", "export.variants=[fp32]", "selection.search=ranked"
    options = [part for pair in sets for part in ("--set", pair)]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--device", "cpu", *options)
    assert code == 0, stderr
    assert {name: start.kind for name, start in asked.items()} == {
        "full": "pytorch",
        "compressed": "pytorch",
        "full_onnx_fp32": "onnx",
        "onnx_fp32": "onnx",
    }
    assert asked["onnx_fp32"].path == str(out / "onnx" / "fp32" / "model.onnx")
    assert {(start.batch, start.length, start.device) for start in asked.values()} == {(1, 8, "cpu")}
    result = read_json(out / "result.json")["benchmark"]
    assert result["footprint"]["compressed"]["peak_bytes"] == 2e8
    assert [floor["model"] for floor in result["noise_floor"]] == ["full", "full_onnx_fp32"]
    assert "Cold start and memory" in (out / "report.html").read_text(encoding="utf-8")
