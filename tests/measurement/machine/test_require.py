"""A request for CUDA that cannot be met is refused in one sentence, by every command."""

import pytest
import torch

from compressor.errors import UserError
from compressor.measurement.machine import providers as prov
from compressor.measurement.machine.libraries import CUDA
from compressor.measurement.machine.providers import CPU

CUDA_HERE = prov.provider_works(CUDA)
without_cuda = pytest.mark.skipif(CUDA_HERE, reason="CUDA works here")


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch has CUDA here")
@pytest.mark.parametrize(
    "words", [["run"], ["plan"], ["score"], ["audit"], ["finetune", "--set", "finetune={epochs: 1}"]]
)
def test_every_command_refuses_cuda_where_there_is_none(words, tiny_task, tmp_path, command):
    arguments = words[0], tiny_task / "recipe.yaml", *words[1:], "--out", tmp_path / "run", "--device", "cuda"
    code, stdout, stderr = command(*arguments)
    assert (code, stdout, (tmp_path / "run").exists()) == (2, "", False)
    assert stderr.startswith("error: --device cuda: PyTorch finds no CUDA device here (")
    assert stderr.strip().endswith(", or set --device cpu.")
    assert stderr.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch has CUDA here")
def test_bench_refuses_cuda_where_there_is_none(tiny_task, command, monkeypatch):
    monkeypatch.setattr(
        "compressor.bench.bench.bench_directories", lambda *_args, **_kwargs: pytest.fail("it was measured")
    )
    code, stdout, stderr = command("bench", tiny_task / "model", "--device", "cuda")
    assert (code, stdout) == (2, "")
    assert "finds no CUDA device" in stderr


@without_cuda
def test_a_run_whose_onnx_runtime_has_no_cuda_is_refused_before_anything_is_made(
    tiny_task, tmp_path, command, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    out = tmp_path / "run"
    for device in "cuda", "auto":
        code, stdout, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--device", device)
        assert (code, stdout, out.exists()) == (2, "", False)
        assert stderr.startswith(f"error: --device cuda: ONNX Runtime cannot use {CUDA} (")
        assert stderr.strip().endswith(", or use the CPU.")


@without_cuda
def test_export_for_a_gpu_that_onnx_runtime_cannot_use_is_refused_before_it_starts(
    tiny_task, tmp_path, command, monkeypatch
):
    asked = "export", tiny_task / "model", "--out", tmp_path / "onnx", "--device", "cuda"
    if not torch.cuda.is_available():
        assert (command(*asked)[0], (tmp_path / "onnx").exists()) == (2, False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    code, stdout, stderr = command(*asked)
    assert (code, stdout, (tmp_path / "onnx").exists()) == (2, "", False)
    assert stderr.startswith(f"error: {tiny_task / 'model'}: ONNX Runtime cannot use {CUDA} (")


@without_cuda
def test_a_session_says_why_it_would_fall_back(tmp_path, capfd):
    file = tmp_path / "model.onnx"
    file.write_bytes(prov.RELU)
    from compressor.measurement.runtime import session

    with pytest.raises(
        UserError, match=f"asked for {CUDA}, but ONNX Runtime would run on {CPU} .*; .*, or use the CPU"
    ):
        session(file, provider=CUDA)
    assert session(file)._enable_fallback is False
    assert capfd.readouterr() == ("", "")


def test_require_provider(monkeypatch):
    monkeypatch.setattr(prov, "provider_works", lambda name: name == CPU)
    monkeypatch.setattr(prov, "driver_cuda", lambda: "13.0")
    monkeypatch.setattr(prov, "installed_wheels", lambda: ["onnxruntime"])
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CPU])
    prov.require_provider(CPU, "--device cpu")
    with pytest.raises(
        UserError, match=f"^--device cuda: ONNX Runtime cannot use {CUDA} .this ONNX Runtime is built without"
    ):
        prov.require_provider(CUDA, "--device cuda")
    with pytest.raises(
        UserError, match="did you mean 'CPUExecutionProvider'.*; choose from CPUExecutionProvider, or use"
    ):
        prov.require_provider("CPUExecutionProvidr", "x")
