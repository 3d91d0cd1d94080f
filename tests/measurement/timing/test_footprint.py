"""Cold start and memory in child processes: medians, turns, failures, and one real child."""

import json
import re

import pytest

import compressor.bench.cold_start
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.measurement.timing.footprint import ChildError, ColdStart, footprints, run_child
from compressor.recipe.compression import BenchmarkSpec


def start(kind="onnx", path="model.onnx", **changes):
    return ColdStart(kind, str(path), "CPUExecutionProvider", "cpu", 1, 2, 8, **changes)


def answer(load, peak, gpu=None):
    return {"load_s": load, "first_call_s": load / 10, "peak_bytes": peak, "imported_bytes": 50, "gpu_bytes": gpu}


def test_medians_of_children_that_take_turns():
    answers = {"a": iter([answer(3, 100), answer(1, 300), answer(2, 200)]), "b": iter([answer(9, 1, gpu=5)] * 3)}
    turns = []

    def child(asked):
        turns.append(asked.path)
        return next(answers[asked.path])

    found = footprints({"first": start(path="a"), "second": start(path="b")}, child=child)
    assert found["first"] == {
        "load_s": 2,
        "first_call_s": 0.2,
        "peak_bytes": 200,
        "imported_bytes": 50,
        "gpu_bytes": None,
        "batch": 2,
        "length": 8,
        "children": 3,
    }
    assert (found["second"]["load_s"], found["second"]["gpu_bytes"]) == (9, 5)
    assert all(sorted(turns[place : place + 2]) == ["a", "b"] for place in (0, 2, 4))


def test_a_child_that_fails_is_one_sentence():
    def child(_asked):
        raise ChildError("NoSuchFile: model.onnx")

    with pytest.raises(UserError) as caught:
        footprints({"runs/a/onnx/int8": start()}, child=child)
    assert re.fullmatch(r"runs/a/onnx/int8: .*\(NoSuchFile: model\.onnx\); --no-footprint .*", str(caught.value))


def test_a_real_child_starts_an_onnx_file(tiny, tmp_path):
    path = export_variants(tiny("bert")[3], tmp_path, ["fp32"])["fp32"].path
    found = run_child(start(path=path))
    assert found["load_s"] > 0
    assert found["first_call_s"] > 0
    assert found["gpu_bytes"] is None
    if found["peak_bytes"] is not None:
        # nothing but ONNX Runtime and NumPy is there: torch alone would take more
        assert 10e6 < found["imported_bytes"] < found["peak_bytes"] < 250e6


def test_what_a_real_child_says_last_is_told(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(ChildError, match="broken.onnx"):
        run_child(start(path=tmp_path / "broken.onnx"))


@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_pytorch_is_loaded_and_run(tiny, family, capsys, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # the tests' own process
    compressor.bench.cold_start.main(json.dumps(vars(start("pytorch", tiny(family)[3]))))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["load_s"] > 0
    assert found["first_call_s"] > 0


def test_every_kind_is_known_to_the_parent():
    assert set(compressor.bench.cold_start.KINDS) == {"onnx", "cuda-graph", "cascade", "pytorch"}
    assert BenchmarkSpec().footprint


def test_memory_is_that_of_this_process():
    now, peak = (compressor.bench.cold_start.resident(field) for field in ("VmRSS", "VmHWM"))
    assert (now is None) == (peak is None)
    assert now is None or 10e6 < now <= peak


def test_inputs_have_one_id_no_padding_and_token_types_0():
    made = compressor.bench.cold_start.inputs(("input_ids", "attention_mask", "token_type_ids"), 2, 3)
    assert {name: values.tolist() for name, values in made.items()} == {
        "input_ids": [[5] * 3] * 2,
        "attention_mask": [[1] * 3] * 2,
        "token_type_ids": [[0] * 3] * 2,
    }


@pytest.mark.gpu
def test_a_child_on_the_gpu_says_what_it_takes_there(tiny, tmp_path):
    # the fused file: a plain export keeps its shape arithmetic on the CPU, which no CUDA graph captures
    path = export_variants(tiny("bert")[3], tmp_path, ["optimized"])["optimized"].path
    for kind, where in (("onnx", path), ("cuda-graph", path), ("pytorch", tiny("bert")[3])):
        found = run_child(ColdStart(kind, str(where), "CUDAExecutionProvider", "cuda", 1, 2, 8))
        assert found["gpu_bytes"] > 0
