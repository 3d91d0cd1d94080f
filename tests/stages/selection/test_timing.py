"""The stage of timing: what is timed of a run, and that shorter files are what a plan's latency is told from."""

from types import SimpleNamespace

import pytest

from compressor.files import read_json
from compressor.pipeline.dry_run import dry_run
from compressor.recipe.file import load_recipe
from compressor.recipe.ship import ShipSpec
from compressor.stages.selection import timing
from compressor.stages.selection.timing import timed_variant


@pytest.mark.parametrize(
    ("device", "variants", "wanted"),
    [
        ("cpu", [], None),
        ("cpu", ["fp32"], "fp32"),
        ("cpu", ["fp32", "alltokens"], "alltokens"),
        ("cpu", ["int8", "alltokens", "optimized"], "optimized"),
        ("cpu", ["int8"], "optimized"),
        ("cpu", ["fp16"], "optimized"),
        ("cuda", ["optimized", "fp16"], "fp16"),
        ("cuda", ["fp32", "optimized"], "optimized"),
    ],
)
def test_the_fastest_file_of_floats_is_timed(device, variants, wanted):
    run = SimpleNamespace(device=device, variants=variants, recipe=SimpleNamespace(ship=None))
    assert timed_variant(run) == wanted
    run.recipe.ship = ShipSpec(engines=["pytorch"])
    assert timed_variant(run) is None


def test_files_are_timed_where_a_run_makes_them(tiny_task, tmp_path, command, monkeypatch):
    made, real = [], timing.export_graph

    def counted(model, variant, folder, form, opset):
        made.append((variant, form, model.config.vocab_size))
        return real(model, variant, folder, form, opset)

    monkeypatch.setattr(timing, "export_graph", counted)
    monkeypatch.setattr(timing, "VOCABULARY", 40)
    mix = "selection={units: [ffn], budget: {keep: 0.8}, beam_width: 2}"
    values = mix, "export.variants=[optimized]", "export.cls_only_tail=reassociated", "benchmark.workload=false"
    options = [part for pair in values for part in ("--set", pair)]
    stages = dry_run(load_recipe(tiny_task / "recipe.yaml", values), tmp_path / "run", device="cpu")
    (asked,) = (stage for stage in stages if stage.name == "timing")
    # four files of 1 to 8 seconds each, a cell of at most 5
    assert (asked.cost, tuple(asked.seconds)) == ("4 files, 1 cells", (4.0, 37.0))
    code, stdout, stderr = command("plan", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *options)
    assert code == 0, stderr
    assert "ONNX Runtime CPU" in stdout
    # of three layers: the full model, one of two layers, and these two with all rows, whole and without the part
    assert [form for _, form, _ in made] == ["reassociated", "reassociated", None, None]
    assert [rows for *_, rows in made][1:] == [40, 40, 40] != made[0][2]
    found = read_json(tmp_path / "run" / "timing.json")
    (cell,) = found["cells"]
    assert found["provider"] == "ONNX Runtime CPU"
    assert 0 <= cell["last_ms"] <= cell["layer_ms"] < cell["full_ms"]
    assert sorted(path.name for path in (tmp_path / "run").glob("*onnx*")) == []


def test_models_are_timed_where_a_run_makes_no_files(tiny_task, tmp_path, command):
    options = "--set", "export.variants=[]", "--set", "benchmark.workload=false"
    code, _, stderr = command("plan", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *options)
    assert code == 0, stderr
    found = read_json(tmp_path / "run" / "timing.json")
    assert found["provider"] == "PyTorch CPU"
    assert set(found["cells"][0]) == {"batch", "length", "full_ms", "layer_ms", "runs"}
