"""The account of the machine, and the reasons why CUDA is not used."""

import json

import pytest

from compressor.measurement import environment as env

CUDA, CPU = env.CUDA, env.CPU
HEALTHY = {
    "driver": True,
    "installed": ["onnxruntime-gpu"],
    "compiled": [CUDA, CPU],
    "usable": [CUDA, CPU],
    "missing": None,
    "torch_cuda": "13.0",
    "torch_sees_gpu": True,
}


def test_environment_of_the_cpu():
    found = env.environment("cpu")
    assert found["device"]["kind"] == "cpu"
    assert found["device"]["name"]
    assert found["threads"] >= 1
    assert {"compressor", "python", "torch", "transformers", "optimum", "optimum_onnx", "onnxruntime"} <= found.keys()
    assert all(found[name] for name in ("compressor", "python", "torch", "transformers", "onnxruntime", "onnx"))
    json.dumps(found)


def test_processor_of_an_x86_machine():
    cores = [(0, 0), (0, 0), (0, 1), (0, 1)]
    cpuinfo = "\n\n".join(
        f"processor\t: {index}\nmodel name\t: Big CPU @ 2: fast\nphysical id\t: {chip}\ncore id\t\t: {core}\n"
        "flags\t\t: fpu avx2 avx512f avx512_vnni"
        for index, (chip, core) in enumerate(cores)
    )
    found = env.processor(cpuinfo)
    assert (found["name"], found["physical"]) == ("Big CPU @ 2: fast", 2)
    assert found["instructions"] == ["avx2", "avx512f", "avx512_vnni"]


def test_processor_of_an_arm_machine_and_of_an_unknown_one():
    assert env.processor("processor : 0\nFeatures : fp asimd asimddp")["instructions"] == ["asimd", "asimddp"]
    unknown = env.processor("")
    assert (unknown["physical"], unknown["instructions"]) == (None, [])
    assert unknown["logical"] >= unknown["usable"] >= 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"driver": False, "usable": [CPU], "torch_cuda": None, "torch_sees_gpu": False}, []),
        ({"torch_cuda": None, "torch_sees_gpu": False}, ["torch is a CPU build"]),
        ({"torch_sees_gpu": False}, ["sees no GPU"]),
        ({"installed": ["onnxruntime", "onnxruntime-gpu"]}, ["onnxruntime and onnxruntime-gpu are both installed"]),
        ({"installed": ["onnxruntime"], "compiled": [CPU], "usable": [CPU]}, ["built without CUDA"]),
        ({"usable": [CPU], "missing": "libcublasLt.so.13: cannot open"}, ["libcublasLt.so.13"]),
        ({"usable": [CPU], "torch_cuda": None}, ["CPU build", "cannot start CUDA"]),
    ],
)
def test_why_cuda_is_not_used(changes, expected):
    found = env.cuda_problems(**{**HEALTHY, **changes})
    assert len(found) == len(expected)
    for (problem, remedy), words in zip(found, expected, strict=True):
        assert words in problem
        assert "pip" in remedy or "nvidia-smi" in remedy


def test_doctor_tries_the_providers_instead_of_believing_the_list(monkeypatch, capfd):
    monkeypatch.setattr(env, "driver_found", lambda: False)
    found = env.doctor()
    assert CPU in found.usable
    assert set(found.usable) <= set(found.compiled)
    assert (found.ok, found.problems, found.remedies) == (True, (), ())
    assert found.summary == "CPU: no NVIDIA driver found"
    assert found.free_memory_bytes is None or found.free_memory_bytes > 0
    json.dumps(found.to_dict())
    assert capfd.readouterr() == ("", "")


def test_doctor_names_the_missing_library(monkeypatch):
    monkeypatch.setattr(env, "driver_found", lambda: True)
    monkeypatch.setattr(env, "provider_works", lambda provider: provider == CPU)
    monkeypatch.setattr(env, "missing_library", lambda: "libcudnn.so.9: no such file")
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(env, "_version", lambda name: None if name == "onnxruntime" else "1")
    found = env.doctor()
    assert not found.ok
    assert any("libcudnn.so.9" in problem for problem in found.problems)
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in found.remedies
    assert found.summary.startswith("GPU present but not used: ")
