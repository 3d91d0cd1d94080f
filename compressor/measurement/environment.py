"""The machine a number was taken on, and a diagnosis of which devices are really usable."""

import contextlib
import ctypes
import io
import os
import platform
import warnings
from collections.abc import Collection
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort

PACKAGES = "torch", "transformers", "optimum", "optimum-onnx", "onnx", "datasets", "tokenizers", "numpy"
ONNXRUNTIMES = "onnxruntime", "onnxruntime-gpu"
"""Distributions that install the same module `onnxruntime`: with both, the last one installed wins."""
INSTRUCTIONS = "avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd", "asimddp", "i8mm"
"""Instruction sets that decide how fast float32 and int8 products run."""
FATAL = 4
"""ONNX Runtime's logging level that shows fatal errors only."""
CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"
DRIVERS = {"Linux": "libcuda.so.1", "Windows": "nvcuda.dll"}


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found. `remedies[i]` is the command that cures `problems[i]`; `ok` means nothing needs a cure."""

    ok: bool
    summary: str
    compiled: tuple[str, ...]
    usable: tuple[str, ...]
    problems: tuple[str, ...]
    remedies: tuple[str, ...]
    versions: dict[str, str | None]
    threads: int
    free_memory_bytes: int | None

    def to_dict(self) -> dict:
        """Return plain values for JSON."""
        return asdict(self)


def environment(device: str) -> dict:
    """Return what a measurement on `device` (cpu or cuda) depends on: versions, processor, threads, CUDA."""
    import torch

    cpu = processor()
    on_gpu = device.startswith("cuda")
    return {
        **versions(),
        "python": platform.python_version(),
        "platform": " ".join((platform.system(), platform.machine(), *platform.libc_ver())).strip(),
        "device": {"kind": device.split(":")[0], "name": torch.cuda.get_device_name(device) if on_gpu else cpu["name"]},
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "cpu": cpu,
    }


def doctor() -> Diagnosis:
    """Try every execution provider of this ONNX Runtime, and say why CUDA is not used and what to install."""
    import onnxruntime
    import torch

    compiled = tuple(onnxruntime.get_available_providers())
    usable = tuple(provider for provider in compiled if provider_works(provider))
    installed = [name for name in ONNXRUNTIMES if _version(name)]
    missing = missing_library() if CUDA in compiled and CUDA not in usable else None
    found = cuda_problems(
        driver_found(), installed, compiled, usable, missing, torch.version.cuda, torch.cuda.is_available()
    )
    if CPU not in usable:
        found.append(("ONNX Runtime cannot run a graph even on the CPU", "pip install --force-reinstall onnxruntime"))
    return Diagnosis(
        ok=not found,
        summary=_summary(driver_found(), usable, [problem for problem, _ in found]),
        compiled=compiled,
        usable=usable,
        problems=tuple(problem for problem, _ in found),
        remedies=tuple(remedy for _, remedy in found),
        versions={"python": platform.python_version(), **versions()},
        threads=torch.get_num_threads(),
        free_memory_bytes=free_memory(),
    )


def cuda_problems(
    driver: bool,
    installed: Collection[str],
    compiled: Collection[str],
    usable: Collection[str],
    missing: str | None,
    torch_cuda: str | None,
    torch_sees_gpu: bool,
) -> list[tuple[str, str]]:
    """Return (problem, pip line or other remedy) for everything that keeps CUDA from being used; none without a driver.

    `installed` are the onnxruntime distributions, `missing` is the loader's message about a library that CUDA lacks,
    `torch_cuda` the CUDA version of the torch build.
    """
    if not driver:
        return []
    found = []
    if torch_cuda is None:
        found.append(
            (
                "torch is a CPU build",
                "pip uninstall -y torch && pip install torch, from an index with the CUDA build (PyPI has it for Linux)",
            )
        )
    elif not torch_sees_gpu:
        found.append(
            (f"torch (CUDA {torch_cuda}) sees no GPU", "compare the driver's CUDA version in `nvidia-smi` with it")
        )
    if len(installed) > 1:
        both = " ".join(installed)
        found.append(
            (
                f"{both.replace(' ', ' and ')} are both installed and overwrite each other",
                f"pip uninstall -y {both} && pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        )
    elif CUDA not in compiled:
        found.append(
            (
                "this ONNX Runtime is built without CUDA",
                "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
            )
        )
    elif CUDA not in usable:
        reason = missing or "the reason is in ONNX Runtime's own log"
        found.append((f"ONNX Runtime cannot start CUDA ({reason})", "pip install 'onnxruntime-gpu[cuda,cudnn]'"))
    return found


def open_session(model: str | bytes, provider: str, threads: int | None = None) -> "ort.InferenceSession":
    """Open a model (path or serialised) on `provider` without a word on stdout or stderr, fallback included."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    options.intra_op_num_threads = threads or 0
    # waiting threads would otherwise spin on after a run and steal the cores of whatever is timed next
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # a provider that cannot be loaded complains through the process's logger, not the session's
    ort.set_default_logger_severity(FATAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            if provider != "CPUExecutionProvider":
                ort.preload_dlls()
            return ort.InferenceSession(model, options, providers=[provider])
    finally:
        ort.set_default_logger_severity(2)  # warnings, which is where the library starts


def provider_works(provider: str) -> bool:
    """Return whether a session of one node runs on `provider`; ONNX Runtime falls back to the CPU without an error."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    # old versions of the format, so that every ONNX Runtime reads it
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return open_session(model.SerializeToString(), provider).get_providers()[0] == provider


def missing_library() -> str | None:
    """Return the loader's message about the library that ONNX Runtime's CUDA provider lacks, or None if it loads."""
    import onnxruntime

    folder = Path(onnxruntime.__file__).parent / "capi"
    for stem in "shared", "cuda":
        for library in folder.glob(f"*onnxruntime_providers_{stem}.*"):
            try:
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                return str(error)
    return None


def driver_found() -> bool:
    """Return whether the NVIDIA driver's library is there; it comes with the driver, not with the CUDA toolkit."""
    name = DRIVERS.get(platform.system())
    if name is None:
        return False
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def versions() -> dict[str, str | None]:
    """Return the installed version of every package that a result depends on, None for one that is not installed."""
    return {
        "compressor": _version("compressor") or "not installed",
        **{name.replace("-", "_"): _version(name) for name in PACKAGES},
        "onnxruntime": next((_version(name) for name in reversed(ONNXRUNTIMES) if _version(name)), None),
    }


def processor(cpuinfo: str | None = None) -> dict:
    """Return {name, architecture, logical, physical, usable, instructions} of the CPU; cores as counts.

    `usable` are the cores that this process may run on. `cpuinfo` stands in for /proc/cpuinfo, which only Linux has:
    elsewhere `physical` is None and `instructions` is empty.
    """
    file = Path("/proc/cpuinfo")
    text = cpuinfo if cpuinfo is not None else (file.read_text(encoding="utf-8") if file.is_file() else "")
    entries = [dict(_pair(line) for line in block.splitlines() if ":" in line) for block in text.split("\n\n")]
    cores = {(entry.get("physical id"), entry["core id"]) for entry in entries if "core id" in entry}
    flags = {flag for entry in entries for flag in entry.get("flags", entry.get("Features", "")).split()}
    name = next((entry["model name"] for entry in entries if "model name" in entry), None)
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "name": name or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "logical": os.cpu_count(),
        "physical": len(cores) or None,
        "usable": len(affinity(0)) if affinity else os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
    }


def free_memory() -> int | None:
    """Return the bytes of memory that a new process could have, or None where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    values = dict(_pair(line) for line in file.read_text(encoding="utf-8").splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def _summary(driver: bool, usable: Collection[str], problems: Collection[str]) -> str:
    if problems:
        return f"{'GPU present but not used' if driver else 'CPU'}: {'; '.join(problems)}"
    return "GPU: CUDA is used by torch and ONNX Runtime" if driver and CUDA in usable else "CPU: no NVIDIA driver found"


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
