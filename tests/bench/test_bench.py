"""`compressor bench`: who is compared with whom, PyTorch's modes, what is refused, JSON."""

import json

import pytest
import torch
from tiny import save_model

import compressor.bench.bench
from compressor.bench.targets import (
    Target,
    against,
    find_targets,
    in_modes,
    shipped_names,
    with_opponent,
    with_tensorrt,
)
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.files import write_files

FEW = "--min-seconds", 0, "--min-runs", 5, "--max-seconds", 5, "--device", "cpu"
QUICK = (*FEW, "--no-footprint")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Return a folder with two PyTorch models, full/ and small/, and the ONNX files of small/ in onnx/."""
    folder = tmp_path_factory.mktemp("bench")
    save_model(folder / "full", layers=3)
    save_model(folder / "small", layers=1)
    export_variants(folder / "small", folder / "onnx", ["fp32", "optimized"])
    return folder


@pytest.fixture(scope="module")
def run_dir(models, tmp_path_factory):
    """Return a folder laid out like a run: teacher/, model/, onnx/ and full-onnx/."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "recipe.yaml").write_text("name: tiny\n", encoding="utf-8")
    for name, source in (("teacher", "full"), ("model", "small"), ("onnx", "onnx"), ("full-onnx", "onnx")):
        (folder / name).symlink_to(models / source)
    return folder


def names(targets, folder):
    return [target.name.replace(f"{folder}/", "") for target in targets]


def test_modes_multiply_pytorch_and_graphs_onnx_and_keep_like_with_like(run_dir):
    found = find_targets([run_dir])
    targets = in_modes(found, ["eager", "padded", "eager"], 40, cuda_graph=True)
    assert names(targets, run_dir) == [
        "teacher",
        "teacher (PyTorch padded to 40)",
        "model",
        "model (PyTorch padded to 40)",
        "full-onnx/fp32",
        "full-onnx/fp32 (CUDA graph)",
        "full-onnx/optimized",
        "full-onnx/optimized (CUDA graph)",
        "onnx/fp32",
        "onnx/fp32 (CUDA graph)",
        "onnx/optimized",
        "onnx/optimized (CUDA graph)",
    ]
    rivals = against(targets)
    for suffix in "", " (PyTorch padded to 40)":
        assert rivals[f"{run_dir}/model{suffix}"] == f"{run_dir}/teacher{suffix}"
    assert rivals[f"{run_dir}/onnx/fp32 (CUDA graph)"] == f"{run_dir}/full-onnx/fp32 (CUDA graph)"
    assert rivals[f"{run_dir}/onnx/fp32"] == f"{run_dir}/full-onnx/fp32"
    assert [target.runs_on("cuda") for target in targets[3:6:2]] == ["PyTorch CUDA", "CUDAExecutionProvider"]


def test_tensorrt_takes_the_plain_files_on_a_gpu(run_dir):
    targets = with_tensorrt(find_targets([run_dir]))
    added = [target for target in targets if target.tensorrt]
    assert names(added, run_dir) == ["full-onnx/fp32 (TensorRT)", "onnx/fp32 (TensorRT)"]
    assert {target.runs_on("cuda") for target in added} == {"TensorrtExecutionProvider"}
    assert against(targets)[f"{run_dir}/onnx/fp32 (TensorRT)"] == f"{run_dir}/full-onnx/fp32 (TensorRT)"


def test_the_opponent_of_everything_is_added_once(models, run_dir):
    full = models / "full"
    onnx = find_targets([models / "onnx"])
    found, path = with_opponent(onnx, full)
    assert (names(found, models), path) == (["full", "onnx/fp32", "onnx/optimized"], full)
    targets = in_modes(found, ["padded", "eager"], 40, cuda_graph=False)
    assert set(against(targets, path).values()) == {f"{full} (PyTorch padded to 40)"}
    # named in another way, and already there: the run's own teacher
    found, path = with_opponent(find_targets([run_dir]), full)
    assert (len(found), path) == (6, run_dir / "teacher")
    with pytest.raises(UserError, match=r"--against .*: holds 2 models .*onnx/fp32\."):
        with_opponent(onnx, models / "onnx")


@pytest.mark.parametrize("text", ["[" * 20_000, "- a", "\x00"])
def test_a_run_with_a_damaged_recipe_is_refused(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(UserError, match=r"recipe\.yaml"):
        find_targets([tmp_path])


def test_without_a_run_the_first_is_the_opponent():
    targets = [Target(name, None, onnx=True) for name in "abc"]
    assert against(targets) == {"a": "a", "b": "a", "c": "a"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("full", "--cuda-graph"), ["--cuda-graph", "runs on the CPU", "compressor doctor"]),
        (("full", "--threads", 0), ["--threads 0"]),
        (("full", "--pytorch", "paded"), ["--pytorch 'paded'", "did you mean 'padded'?"]),
        (("onnx/fp32", "--pytorch", "padded"), ["--pytorch padded", "none of these directories holds a PyTorch model"]),
        (("full", "--pytorch", "padded", "--max-length", 61), ["--max-length 61", "4 to 60 tokens"]),
        (("full", "--pytorch", "padded", "--max-length", 16, "--length", 32), ["--length 32", "16 tokens"]),
        (("full", "--max-length", 16), ["--max-length", "leave it out"]),
        (("full", "--against", "nothing"), ["nothing", "neither a model directory"]),
        (("full", "--against", "onnx"), ["--against", "holds 2 models"]),
        (("full", "--out", "full/config.json"), ["--out", "config.json is no folder"]),
    ],
)
def test_what_does_not_fit_is_one_sentence_before_anything_is_timed(models, command, monkeypatch, arguments, words):
    monkeypatch.chdir(models)
    monkeypatch.setattr(compressor.bench.bench, "benchmark", None)
    code, stdout, stderr = command("bench", *arguments, *QUICK, "--length", 8)
    assert (code, stdout) == (2, ""), stderr
    assert all(word in stderr for word in words), stderr
    assert len(stderr.strip().splitlines()) == 1


def test_everything_against_one_model_as_json_and_figure(models, tmp_path, command, monkeypatch):
    monkeypatch.chdir(models)
    before = torch.get_num_threads()
    options = "--against", "full", "--pytorch", "padded", "--pytorch", "eager", "--max-length", 24, "--threads", 1
    out = tmp_path / "new" / "folder"
    where = "--batch", 2, "--length", 8, "--length", 24, "--out", out
    code, stdout, stderr = command("bench", "onnx", "small", *options, *where, *QUICK)
    assert code == 0, stderr
    assert torch.get_num_threads() == before
    opponent = "full (PyTorch padded to 24)"
    assert f"noise floor of {opponent}" in stdout
    assert str(out / "bench.png") in stdout
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    measured = json.loads((out / "bench.json").read_text(encoding="utf-8"))
    assert list(measured["latency"]) == [
        opponent,
        "full",
        "onnx/fp32",
        "onnx/optimized",
        "small (PyTorch padded to 24)",
        "small",
    ]
    for rows in measured["latency"].values():
        assert [(row["batch"], row["length"], row["against"]) for row in rows] == [(2, 8, opponent), (2, 24, opponent)]
        assert all(row["texts_per_s"] > 0 for row in rows)
    assert [floor["model"] for floor in measured["noise_floor"]] == [opponent] * 2
    assert (measured["threads"], measured["environment"]["threads"], measured["footprint"]) == (1, 1, None)
    assert set(measured["raw"][0]["values_ms"]) == {*measured["latency"], f"A/A twin of {opponent}"}


def test_texts_are_padded_to_the_maximum_where_pytorch_pads(models, tmp_path, command, monkeypatch):
    shapes = {}

    def watched(model, *, compiled):
        shapes.setdefault(model.config.num_hidden_layers, set())
        return lambda batch: shapes[model.config.num_hidden_layers].add(batch["input_ids"].shape)

    monkeypatch.setattr(compressor.bench.bench, "torch_subject", watched)
    (tmp_path / "texts.txt").write_text("a b c\na b\na b c d e f g h i j k l m n o p q r s t\n", encoding="utf-8")
    options = "--texts", tmp_path / "texts.txt", "--batch", 1, "--pytorch", "padded", "--max-length", 16
    code, _, stderr = command("bench", models / "full", *options, *QUICK)
    assert code == 0, stderr
    assert shapes == {3: {(1, 16)}}
    shapes.clear()
    code, _, _ = command("bench", models / "full", *options[:-4], "--batch", 2, *QUICK)
    assert code == 0
    # cut by the model's 60 positions alone: [CLS], letters, [SEP]; a batch that is not full is left out
    assert shapes == {3: {(1, 5), (1, 4), (1, 22), (2, 5)}}


def test_cold_start_of_every_target(models, tmp_path, command, monkeypatch):
    asked = {}

    def fake(starts, **_options):
        asked.update(starts)
        measured = {"load_s": 0.25, "first_call_s": 0.5, "peak_bytes": 2e8, "imported_bytes": None, "gpu_bytes": None}
        return {name: {**measured, "batch": 1, "length": 8, "children": 3} for name in starts}

    monkeypatch.setattr(compressor.bench.bench, "footprints", fake)
    monkeypatch.chdir(models)
    options = "--pytorch", "padded", "--max-length", 16, "--threads", 1, "--batch", 1, "--length", 8
    code, stdout, stderr = command("bench", "small", "onnx/fp32", *options, *FEW)
    assert code == 0, stderr
    assert all(text in stdout for text in ("cold start and memory", "0.25 s", "500.0 ms", "200 MB"))
    torch_start, onnx_start = asked["small (PyTorch padded to 16)"], asked["onnx/fp32"]
    assert (torch_start.kind, torch_start.path, torch_start.length) == ("pytorch", "small", 16)
    assert (onnx_start.kind, onnx_start.path, onnx_start.length) == ("onnx", "onnx/fp32/model.onnx", 8)
    assert (onnx_start.threads, onnx_start.batch, onnx_start.compiled) == (1, 1, False)


def test_one_model_alone_has_no_figure(models, tmp_path, command):
    write_files(tmp_path, {"bench.png": b"of an earlier benchmark"})
    where = "--batch", 1, "--length", 8, "--out", tmp_path
    code, stdout, stderr = command("bench", models / "small", *where, *QUICK, "--json")
    assert code == 0, stderr
    assert json.loads(stdout) == json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert not (tmp_path / "bench.png").exists()
    (tmp_path / "bench.png").write_bytes(b"mine")
    assert command("bench", models / "small", *where, *QUICK)[0] == 0
    assert (tmp_path / "bench.png").read_bytes() == b"mine"


def test_what_a_run_ships_is_found_and_a_result_that_cannot_be_read_names_nothing(tmp_path):
    result = {
        key: {}
        for key in ("name", "recipe", "environment", "data", "layers", "plan", "variants", "stages", "benchmark")
    }
    result |= {"schema": 1, "variants": {"full": {}, "compressed": {}}}
    for name, answer in {
        "file": {"path": "onnx/int8", "engine": "onnx", "precision": "int8"},
        "half": {"path": "model", "engine": "pytorch", "precision": "bfloat16"},  # not what the directory holds
        "kept": {"path": None, "engine": "pytorch", "precision": "float32"},
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "result.json").write_text(json.dumps({**result, "answer": answer}))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "result.json").write_text("{")
    folders = [tmp_path / name for name in ("file", "half", "kept", "bad", "none")]
    assert shipped_names(folders) == {str(tmp_path / "file" / "onnx" / "int8")}


@pytest.mark.gpu
def test_cuda_graphs_through_the_command(models, command):
    options = "--cuda-graph", "--device", "cuda", "--length", 8, "--batch", 1, "--no-footprint", "--json"
    code, stdout, stderr = command("bench", models / "onnx" / "optimized", *options, *FEW[:6])
    assert code == 0, stderr
    assert len(json.loads(stdout)["latency"]) == 2
