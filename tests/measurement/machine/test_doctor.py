"""What stands in the way of the GPU, and its cure."""

import json
from dataclasses import asdict
from types import SimpleNamespace

import onnx
import onnxruntime
import pytest
import torch

from compressor.measurement.machine import doctor as doc
from compressor.measurement.machine import libraries as libs
from compressor.measurement.machine import providers as prov
from compressor.measurement.machine.libraries import CUDA, TENSORRT
from compressor.measurement.machine.providers import CPU, Finding

TORCH, ORT = doc.Toolkit("2.13.0", "13.0", "9.12"), doc.Toolkit("1.31.1", "13.0", "9")
HEALTHY = {
    "driver": "13.0",
    "installed": ["onnxruntime-gpu"],
    "seen": {TENSORRT: None, CUDA: None, CPU: None},
    "missing": {},
    "toolkits": {"PyTorch": TORCH, "ONNX Runtime": ORT},
    "trouble": None,
}
FELL_BACK = {TENSORRT: "fell back", CUDA: "fell back", CPU: None}
CPU_TORCH = {"PyTorch": doc.Toolkit("2.13.0+cpu", None, None), "ONNX Runtime": ORT}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"driver": None, "seen": FELL_BACK, "toolkits": CPU_TORCH, "trouble": "no GPU"}, []),
        ({"toolkits": CPU_TORCH, "trouble": "no GPU"}, [("PyTorch is a CPU build", "pip install torch", True)]),
        ({"driver": "12.4", "trouble": "no GPU"}, [("built for CUDA 13.0, the driver knows CUDA 12.4", "update", True)]),
        ({"trouble": "no kernel image"}, [("cannot use the GPU (no kernel image)", "nvidia-smi", True)]),
        (
            {"installed": ["onnxruntime", "onnxruntime-gpu"]},
            [("onnxruntime and onnxruntime-gpu are both installed", "pip install 'onnxruntime-gpu[cuda,cudnn]'", False)],
        ),
        (
            {"installed": ["onnxruntime", "onnxruntime-gpu"], "driver": None, "seen": FELL_BACK},
            [("both installed", "pip install 'onnxruntime'", False)],
        ),
        (
            {"installed": ["onnxruntime", "onnxruntime-gpu"], "seen": {CPU: None}},
            [("both installed", "pip uninstall -y onnxruntime onnxruntime-gpu && pip install", True)],
        ),
        (
            {"installed": ["onnxruntime"], "seen": {CPU: None}},
            [("built without CUDAExecutionProvider", "pip uninstall -y onnxruntime && pip install", True)],
        ),
        (
            {"seen": FELL_BACK, "missing": {CUDA: ["libcublasLt.so.13", "libcurand.so.10"]}},
            [("libcublasLt.so.13, libcurand.so.10 cannot", "'nvidia-cublas==13.*' 'nvidia-curand==10.*'", True)],
        ),
        ({"seen": FELL_BACK, "driver": "12.9"}, [("for CUDA 13, the driver knows CUDA 12.9", "update the driver", True)]),
        ({"seen": FELL_BACK}, [("a session does not start", "logging", True)]),
        (
            {"seen": {TENSORRT: "fell back", CUDA: None, CPU: None}, "missing": {TENSORRT: ["libnvinfer.so.10"]}},
            [("TensorRT is skipped (libnvinfer.so.10 cannot", "pip install 'tensorrt-cu13==10.*'", False)],
        ),
        ({"seen": {CUDA: None, CPU: "wrong sum"}}, [("even on the CPU (wrong sum)", "pip install --force-rein", True)]),
        (
            {"toolkits": {"PyTorch": doc.Toolkit("2.8.0", "12.8", "8"), "ONNX Runtime": ORT}},
            [("for CUDA 12 and ONNX Runtime for CUDA 13", "/cu130", False),
             ("for cuDNN 8 and ONNX Runtime for cuDNN 9", "nvidia-cudnn-cu13==9.*", False)],
        ),
    ],
)  # fmt: skip
def test_findings(changes, expected):
    found = doc.find(**{**HEALTHY, **changes})
    assert len(found) == len(expected)
    for finding, (problem, remedy, serious) in zip(found, expected, strict=True):
        assert problem in finding.problem
        assert remedy in finding.remedy
        assert finding.serious == serious


@pytest.mark.parametrize(
    ("missing", "cuda", "line"),
    [
        (["libcublasLt.so.12", "libcublas.so.12"], 13, "pip install 'nvidia-cublas-cu12==12.*'"),
        (["libcublas.so.13"], None, "pip install 'nvidia-cublas==13.*'"),
        (["libcudart.so.12"], None, "pip install 'nvidia-cuda-runtime-cu12==12.*'"),
        (["libnvrtc.so.13"], None, "pip install 'nvidia-cuda-nvrtc==13.*'"),
        (["libcufft.so.11"], None, "pip install 'nvidia-cufft-cu12==11.*'"),
        (["libcufft.so.12"], None, "pip install 'nvidia-cufft==12.*'"),
        (["libcudnn.so.9"], 12, "pip install 'nvidia-cudnn-cu12==9.*'"),
        (["libcudnn.so.9"], 13, "pip install 'nvidia-cudnn-cu13==9.*'"),
        (["libcurand.so.10"], 12, "pip install 'nvidia-curand-cu12==10.*'"),
        (["libnvinfer.so.10", "libnvonnxparser.so.10"], 13, "pip install 'tensorrt-cu13==10.*'"),
        (["libcudnn.so.9"], None, libs.WHEEL),
        (["libsomething.so.1"], 13, libs.WHEEL),
        (["a sentence"], 13, libs.WHEEL),
        ([], 13, libs.WHEEL),
    ],
)
def test_the_pip_line_that_brings_a_library(missing, cuda, line):
    assert libs.pip_line(missing, cuda) == line


def test_the_library_that_the_loader_stopped_at():
    message = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    assert libs.library_name(message) == "libcublasLt.so.13"
    assert libs.library_name("libcudart.so.12.4.1: cannot open") == "libcudart.so.12"
    assert libs.library_name("/x/libonnxruntime_providers_cuda.so: undefined symbol: foo") is None


def test_missing_libraries_are_found_one_by_one(monkeypatch, tmp_path):
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_text("")

    def load(name, mode=None):
        if "providers_cuda" in name:
            raise OSError("libcurand.so.10: cannot open shared object file")
        if "cublas" in name:
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.setattr(libs.ctypes, "CDLL", load)
    monkeypatch.setattr(libs, "ort_toolkit", lambda: {"cuda": "13.0"})
    assert libs.missing_libraries(CUDA) == ["libcurand.so.10", "libcublasLt.so.13", "libcublas.so.13"]
    assert libs.missing_libraries(CPU) == []
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").unlink()
    assert libs.missing_libraries(CUDA) == []


@pytest.mark.parametrize(("number", "version"), [(13000, "13.0"), (12040, "12.4"), (11080, "11.8")])
def test_the_driver_says_which_cuda_it_knows(monkeypatch, number, version):
    def ask(pointer):
        pointer._obj.value = number

    monkeypatch.setattr(libs.platform, "system", lambda: "Linux")
    monkeypatch.setattr(libs.ctypes, "CDLL", lambda name: SimpleNamespace(cuDriverGetVersion=ask))
    assert libs.driver_cuda() == version
    monkeypatch.setattr(libs.platform, "system", lambda: "Darwin")
    assert libs.driver_cuda() is None


def test_the_probe_is_one_relu_and_the_cpu_runs_it(capfd):
    model = onnx.load_from_string(prov.RELU)
    onnx.checker.check_model(model)
    assert [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node] == [
        ("Relu", ["x"], ["y"])
    ]
    assert prov.provider_problem(CPU) is None
    assert prov.provider_problem("NoSuchExecutionProvider") == "not in this ONNX Runtime"
    assert capfd.readouterr() == ("", "")


def test_a_provider_that_answers_wrong_or_fails_does_not_work(monkeypatch):
    import numpy as np

    failure = onnxruntime.capi.onnxruntime_pybind11_state.Fail("no kernel image\nmore")

    def session(answer):
        def run(_outputs, _inputs):
            if isinstance(answer, Exception):
                raise answer
            return [np.array([answer])]

        return SimpleNamespace(get_providers=lambda: [CPU], disable_fallback=lambda: None, run=run)

    for answer, problem in ((0, None), (3, "max(-1, 0) is 3 on it"), (failure, "no kernel image")):
        monkeypatch.setattr(prov, "open_session", lambda *_args, answer=answer: session(answer))
        assert prov.provider_problem(CPU) == problem


def test_the_best_provider(monkeypatch):
    monkeypatch.setattr(doc, "driver_cuda", lambda: None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    for broken, best in (((), TENSORRT), ((TENSORRT,), CUDA), ((TENSORRT, CUDA, CPU), CPU)):
        problems = dict.fromkeys(broken, "a session runs on the CPU instead")
        monkeypatch.setattr(doc, "provider_problem", problems.get)
        assert doc.doctor().best == best


def test_doctor_tries_the_providers_instead_of_believing_the_list(monkeypatch, capfd):
    monkeypatch.setattr(doc, "driver_cuda", lambda: None)
    found = doc.doctor()
    assert [provider.name for provider in found.providers] == list(onnxruntime.get_available_providers())
    assert {provider.name: provider.usable for provider in found.providers}[CPU]
    assert all(provider.usable or provider.reason for provider in found.providers)
    assert (found.ok, found.summary) == (True, "CPU: no NVIDIA driver was found")
    assert (found.threads, found.free_memory_bytes is None or found.free_memory_bytes > 0) == (
        torch.get_num_threads(),
        True,
    )
    json.dumps(asdict(found))
    assert capfd.readouterr() == ("", "")


def test_doctor_on_a_machine_with_a_gpu_that_is_not_used(monkeypatch):
    monkeypatch.setattr(doc, "driver_cuda", lambda: "13.0")
    monkeypatch.setattr(doc, "torch_trouble", lambda: None)
    monkeypatch.setattr(doc, "torch_toolkit", lambda: TORCH)
    monkeypatch.setattr(doc, "ort_toolkit", lambda: {"version": "1.31.1", "cuda": "13.0", "cudnn": "9"})
    monkeypatch.setattr(doc, "installed_wheels", lambda: ["onnxruntime-gpu"])
    monkeypatch.setattr(
        doc, "provider_problem", lambda name: None if name == CPU else "a session runs on the CPU instead"
    )
    monkeypatch.setattr(
        doc, "missing_libraries", lambda name: ["libcudnn.so.9"] if name == CUDA else ["libnvinfer.so.10"]
    )
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A GPU")
    found = doc.doctor()
    assert (found.ok, found.best, found.gpu) == (False, CPU, "A GPU")
    assert found.summary == "GPU present but not used: libcudnn.so.9 cannot be loaded"
    assert found.findings == (Finding("libcudnn.so.9 cannot be loaded", "pip install 'nvidia-cudnn-cu13==9.*'"),)
    assert found.providers == (
        doc.Provider(TENSORRT, False, "skipped, optional: libnvinfer.so.10 cannot be loaded"),
        doc.Provider(CUDA, False, "libcudnn.so.9 cannot be loaded"),
        doc.Provider(CPU, True, None),
    )
    monkeypatch.setattr(doc, "provider_problem", lambda _name: None)
    healthy = doc.doctor()
    assert (healthy.ok, healthy.best, healthy.findings) == (True, TENSORRT, ())
    assert healthy.summary == "GPU: CUDA works in PyTorch and ONNX Runtime"


def test_doctor_in_the_terminal(command, monkeypatch):
    code, stdout, stderr = command("doctor", "--json")
    found = json.loads(stdout)
    assert (code, stderr) == (0 if found["ok"] else 1, "")
    assert {"best", "providers", "toolkits", "findings", "cpu", "int8_fast"} <= found.keys()
    code, stdout, _ = command("doctor")
    assert all(word in stdout for word in ("CPUExecutionProvider", "physical", "int8", "cuDNN", found["summary"]))
    problem = Finding("libcudnn.so.9 cannot be loaded", "pip install 'nvidia-cudnn-cu13==9.*'")
    monkeypatch.setattr(doc, "find", lambda *_facts: [problem])
    code, stdout, _ = command("doctor")
    assert code == 1
    assert "problem: libcudnn.so.9 cannot be loaded. Remedy: pip install 'nvidia-cudnn-cu13==9.*'" in stdout


def test_words_on_int8():
    assert doc.int8_words(["avx2", "avx512_vnni"]) == "likely fast here (avx512_vnni)"
    assert doc.int8_words(["avx2"]).startswith("likely slow here")
    assert doc.int8_words([]).startswith("unknown")


def test_cudnn_of_torch(monkeypatch):
    monkeypatch.setattr("torch.version.cuda", "13.0")
    for number, version in ((91200, "9.12"), (8902, "8")):
        monkeypatch.setattr("torch.backends.cudnn.version", lambda number=number: number)
        assert doc.torch_toolkit().cudnn == version
    monkeypatch.setattr("torch.version.cuda", None)
    assert doc.torch_toolkit().cudnn is None
