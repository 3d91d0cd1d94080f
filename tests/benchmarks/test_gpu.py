"""The GPU benchmark: it refuses without a GPU, runs every line on the CPU, labels that as such, and tables what it found."""

import json

import numpy as np
import pytest
import torch

from benchmarks.common import markdown
from benchmarks.gpu import models as gpu_models
from benchmarks.gpu import results as gpu_results
from benchmarks.gpu import run as gpu
from benchmarks.gpu import subjects as gpu_subjects
from benchmarks.gpu import tables as gpu_tables
from compressor.errors import UserError
from compressor.measurement.machine.libraries import CUDA

QUICK = "--quick", "--device", "cpu", "--no-compile", "--jobs", "1"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Return the results file of one quick run, and the folder of its models."""
    folder = tmp_path_factory.mktemp("gpu")
    out = folder / "cpu_here.json"
    for part in "latency", "workload", "search", "pipeline":  # one by one: each keeps what the others found
        assert gpu.main([*QUICK, "--part", part, "--out", str(out), "--work", str(folder / "work")]) == 0
    return out, folder / "work"


def rows(cell):
    return {row["name"]: row for row in cell["rows"]}


def test_every_part_is_there_and_labelled(measured):
    results = json.loads(measured[0].read_text())
    assert {"tail", "files", "latency", "workload", "search", "pipeline"} <= results.keys()
    assert (results["label"], results["device"], results["size"]) == ("random weights", "cpu", gpu_models.QUICK.name)
    assert all(results[part]["environment"]["device"]["kind"] == "cpu" for part in gpu.PARTS)
    assert "CUDA" not in json.dumps([results["latency"]["cells"], results["workload"]["cells"]])
    assert results["tail"]["form"] in {"single_row", "reassociated"}
    assert results["tail"]["provider"] == "CPUExecutionProvider"


def test_the_grid_compares_like_with_like(measured):
    cells = json.loads(measured[0].read_text())["latency"]["cells"]
    assert set(cells) == {
        f"{p}, minus {skip}, {batch} x 8" for p in ("fp32", "fp16") for skip in (0, 1) for batch in (1, 2)
    }
    found = rows(cells["fp32, minus 1, 2 x 8"])
    assert set(found) == {
        "2 layers, fp32, PyTorch eager",
        "2 layers, fp32, ORT CPU",
        "1 layer, fp32, ORT CPU",
        "1 layer, fp32, ORT CPU, CLS tail",
        "1 layer, fp32, PyTorch eager",
    }
    assert found["1 layer, fp32, ORT CPU, CLS tail"]["against"] == "2 layers, fp32, ORT CPU"
    assert found["2 layers, fp32, ORT CPU"]["against"] == "2 layers, fp32, PyTorch eager"
    assert found["1 layer, fp32, ORT CPU, CLS tail"]["tail"] is True
    assert "2 layers, bf16 autocast, PyTorch eager" in rows(cells["fp16, minus 0, 1 x 8"])
    for cell in cells.values():
        assert cell["left_out"] == {}
        assert {entry["model"] for entry in cell["noise_floor"]} == {row["against"] for row in cell["rows"]}
        assert all(row["p50_ms"] > 0 and row["device"] == "cpu" for row in cell["rows"])
        assert set(cell["logit_difference"]) == set(rows(cell))
        assert max(cell["logit_difference"].values()) < 0.2


def test_the_workload_is_held_against_padded_float32(measured):
    workload = json.loads(measured[0].read_text())["workload"]
    assert list(workload["cells"]) == ["2 texts, as they come", "2 texts, by length"]
    rival = "2 layers, fp32, PyTorch eager, padded to 72"
    for cell in workload["cells"].values():
        assert {row["against"] for row in cell["rows"]} == {rival}
        assert rows(cell)["1 layer, fp16, ORT CPU, CLS tail"]["speedup_ci95"] is not None
        assert rows(cell)[rival]["speedup_ci95"] is None
    assert workload["lengths"]["source"].startswith("synthetic")


def test_the_search_tries_every_set_and_shares_prefixes(measured):
    results = json.loads(measured[0].read_text())
    found = results["search"]["by_precision"]["fp32"]
    assert (found["sets"], found["layer_applications"], found["without_sharing"], found["texts"]) == (4, 3, 4, 24)
    assert found["seconds"] > 0
    assert set(results["pipeline"]["seconds"]) == {"score", "search", "refit", "export"}
    assert results["pipeline"]["total_seconds"] == pytest.approx(sum(results["pipeline"]["seconds"].values()))


def test_what_is_measured_is_kept_and_what_is_late_is_named(measured, tmp_path, capsys):
    out = tmp_path / "cpu_copy.json"
    out.write_text(measured[0].read_text())
    before = json.loads(out.read_text())
    again = [*QUICK, "--part", "latency", "--out", str(out), "--work", str(measured[1])]
    assert gpu.main(again) == 0
    assert json.loads(out.read_text())["latency"]["cells"] == before["latency"]["cells"]
    capsys.readouterr()
    assert gpu.main([*again, "--fresh", "--minutes", "0", "--precision", "fp32"]) == 0
    assert "4 cells are left (the same command measures them): fp32, minus 0, 1 x 8" in capsys.readouterr().out
    out.write_text(json.dumps({**before, "device_name": "Another"}))
    assert gpu.main(again) == 2
    assert "holds figures of 'Another'" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch has CUDA here")
def test_without_a_gpu_it_refuses_and_writes_nothing(tmp_path, capsys):
    assert gpu.main(["--quick", "--out", str(tmp_path / "gpu_x.json"), "--work", str(tmp_path / "work")]) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: this benchmark needs a GPU and PyTorch finds none (")
    assert stderr.strip().endswith("or set --device cpu, which labels every figure CPU.")
    assert stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_cpu_never_fills_a_file_named_after_a_gpu(tmp_path, capsys):
    assert gpu_results.results_file("cpu", "My box").name == "cpu_my_box.json"
    assert gpu_results.results_file("cuda", "NVIDIA H200 (SXM)").name == "gpu_nvidia_h200_sxm.json"
    assert gpu.main([*QUICK, "--out", str(tmp_path / "gpu_x.json"), "--work", str(tmp_path)]) == 2
    assert "named after a GPU" in capsys.readouterr().err


def test_lengths_are_those_of_the_source(tmp_path):
    lengths = gpu_models.synthetic_lengths(20_000)
    assert (lengths.min() >= 4, lengths.max() <= 66) == (True, True)
    assert lengths.mean() == pytest.approx(25.5, abs=0.3)
    assert lengths.std() == pytest.approx(10.7, abs=0.3)
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c\n\nd\n")
    gpu_models.tiny_tokenizer(tmp_path).save_pretrained(tmp_path)
    counted, source = gpu_models.workload_lengths(gpu_models.QUICK, texts, tmp_path)
    assert (counted.tolist(), source) == ([5, 3], "texts.txt: 2 texts")
    for file, tokenizer, words in (
        (texts, None, "name a tokenizer"),
        (tmp_path / "none.txt", tmp_path, "no such file"),
        (texts, tmp_path / "nowhere", "no tokenizer can be loaded"),
    ):
        with pytest.raises(UserError, match=words):
            gpu_models.workload_lengths(gpu_models.QUICK, file, tokenizer)


def test_base_is_bert_base():
    base = gpu_models.BASE
    assert (base.layers, base.skips, base.batches, base.lengths) == (
        12,
        (0, 1, 2, 4, 6),
        (1, 8, 32, 128),
        (32, 128, 384),
    )
    assert gpu_models.removed(base, 2) == (10, 11)
    assert gpu_models.kept(base, 6) == [1, 2, 3, 4, 5, 12]
    assert gpu_models.removed(base, 0) == ()


def test_a_subject_that_fails_leaves_the_others(measured):
    one, two = (gpu_subjects.Way(layers, "ORT CPU", "fp32") for layers in (1, 2))

    def broken(_batch):
        raise UserError("it cannot run\nfor reasons")

    batch = {"input_ids": np.ones((1, 4), dtype=np.int64)}
    ready, failed = gpu_subjects.settled({one: broken, two: lambda _batch: None}, {one: [batch], two: [batch]})
    assert (list(ready), failed) == ([two], {"1 layer, fp32, ORT CPU": "it cannot run"})

    def refused():
        raise UserError("no such device")

    made, failed = gpu_subjects.opened({one: refused, two: lambda: broken})
    assert (list(made), list(failed.values())) == ([two], ["no such device"])


def test_an_answer_that_is_off_stops_the_run(measured):
    model = next(measured[1].glob("*/minus-0/model"))
    files = {0: gpu_models.Files(model, {}, {})}
    way = gpu_subjects.Way(2, "ORT CPU", "fp32")
    with pytest.raises(RuntimeError, match="2 layers, fp32, ORT CPU: logits are off by"):
        gpu_subjects.check_answers({way: lambda batch: [np.full((3, 2), 9.0)]}, files, gpu_models.QUICK)


def on_a_gpu(results):
    """Return the figures of a quick run as if a GPU had given them: what the tables are written from."""
    text = json.dumps(results).replace("ORT CPU", "ORT CUDA graph")
    made = {**json.loads(text), "device": "cuda", "device_name": "A GPU"}
    made["latency"]["cells"] = {
        key.replace("1 x 8", "1 x 128"): {
            **cell, "rows": [{**row, "length": 128, "p50_ms": 0.3} for row in cell["rows"]], "left_out": {"compiled": "no"}
        }
        for key, cell in made["latency"]["cells"].items()
        if key.endswith(", 1 x 8")
    }  # fmt: skip
    return made


def test_tables_and_figure(measured, tmp_path, monkeypatch):
    page = tmp_path / "gpu.md"
    page.write_text("before\n<!-- gpu: begin -->\nold\n<!-- gpu: end -->\nafter\n")
    monkeypatch.setattr(markdown, "TABLES", tmp_path)
    monkeypatch.setattr(gpu_tables, "HERE", tmp_path)
    results = json.loads(measured[0].read_text())
    cpu, cuda = tmp_path / "gpu_wrong.json", tmp_path / "gpu_a.json"
    cpu.write_text(json.dumps(results))
    gpu_tables.write([cpu])  # the CPU's figures are never a GPU's
    assert "**The figures are missing**" in page.read_text()
    cuda.write_text(json.dumps(on_a_gpu(results)))
    gpu_tables.write([cpu, cuda])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "### A GPU: two narrow layers, random weights" in text
    assert "| 1 layer, fp16, ORT CUDA graph, CLS tail | 0.300 (" in text
    assert "Could not run: compiled (no)." in text
    assert "| 2 layers, fp16, CUDA graph, 1 x 128: at most 0.40 ms | 0.3 ms | yes |" in text
    assert "| 1 layers, fp16, the same" not in text
    assert "4 sets of layers, 24 texts" in text
    assert (tmp_path / "figures" / "gpu_a.png").read_bytes()[:4] == b"\x89PNG"
    assert gpu_tables.goal_row("x", None, 1.0, "s") == ["x", "not measured", ""]
    assert gpu_tables.goal_row("x", 9.0, -10.0, "x")[2] == "no"
    assert gpu_tables.goal_row("x", 10.5, -10.0, "x")[2] == "yes"
    assert gpu_tables.goal_row("x", 0.41, 0.4, " ms") == ["x", "0.41 ms", "no"]


@pytest.mark.gpu
def test_on_a_gpu(tmp_path):
    out = tmp_path / "gpu_here.json"
    assert (
        gpu.main(
            ["--quick", "--no-compile", "--jobs", "1", "--part", "latency", "--out", str(out), "--work", str(tmp_path)]
        )
        == 0
    )
    cell = json.loads(out.read_text())["latency"]["cells"]["fp16, minus 1, 1 x 8"]
    assert cell["left_out"] == {}
    assert "1 layer, fp16, ORT CUDA graph, CLS tail" in rows(cell)
    assert gpu_subjects.engines("cuda") == ["ORT CUDA", "ORT CUDA graph"]
    assert CUDA in json.loads(out.read_text())["tail"]["provider"]
