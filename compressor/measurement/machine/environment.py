"""The machine a number was taken on."""

import contextlib
import os
import platform
from collections.abc import Collection, Iterator
from pathlib import Path

from compressor.measurement.machine.libraries import installed_version, installed_wheels

PACKAGES = "torch", "transformers", "optimum", "optimum-onnx", "onnx", "datasets", "tokenizers", "numpy"
BFLOAT16_INSTRUCTIONS = "avx512_bf16", "amx_bf16", "bf16"
"""Those of `INSTRUCTIONS` that multiply bfloat16 numbers."""
INSTRUCTIONS = (
    *("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "neon", "asimd", "asimddp", "i8mm"),
    *BFLOAT16_INSTRUCTIONS,
)
"""Instruction sets that decide how fast float32, bfloat16 and int8 products run."""
INT8_INSTRUCTIONS = "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"
"""Those of them that multiply 8-bit numbers and add up in one step."""


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


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[int]:
    """Have PyTorch use `count` threads for a while."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield count
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def granted_threads() -> Iterator[None]:
    """Have PyTorch use no more threads for a while than there are cores to use; it does not know of a container's limit."""
    import torch

    with torch_threads(min(torch.get_num_threads(), len(usable_cores()))):
        yield


def usable_cores() -> list[int]:
    """Return the numbers of cores that this process may run on, no more of them than a container's limit grants, rounded up."""
    from joblib import cpu_count  # which reads the limits of cgroups, versions 1 and 2

    return _pinned_cores()[: cpu_count()]


def _pinned_cores() -> list[int]:
    affinity = getattr(os, "sched_getaffinity", None)
    return sorted(affinity(0)) if affinity else list(range(os.cpu_count() or 1))


def granted_fewer() -> int | None:
    """Return how many cores a container's limit grants, where these are fewer than the process may run on, else None.

    None as well where joblib is not installed, which an exported folder does not need to answer.
    """
    try:
        usable = len(usable_cores())
    except ImportError:
        return None
    return usable if usable < len(_pinned_cores()) else None


def versions() -> dict[str, str | None]:
    """Return the installed version of every package that a result depends on, None for one that is not installed."""
    return {
        "compressor": installed_version("compressor") or "not installed",
        **{name.replace("-", "_"): installed_version(name) for name in PACKAGES},
        "onnxruntime": next(map(installed_version, reversed(installed_wheels())), None),
    }


def processor(cpuinfo: str | None = None) -> dict:
    """Return {name, architecture, logical, physical, usable, instructions} of the CPU; cores as counts.

    `usable` are those that this process may use (`usable_cores`). `cpuinfo` stands in for /proc/cpuinfo, which only Linux has:
    elsewhere `physical` is None and `instructions` is empty.
    """
    file = Path("/proc/cpuinfo")
    text = cpuinfo if cpuinfo is not None else (file.read_text(encoding="utf-8") if file.is_file() else "")
    entries = [dict(_pair(line) for line in block.splitlines() if ":" in line) for block in text.split("\n\n")]
    cores = {(entry.get("physical id"), entry["core id"]) for entry in entries if "core id" in entry}
    flags = {flag for entry in entries for flag in entry.get("flags", entry.get("Features", "")).split()}
    name = next((entry["model name"] for entry in entries if "model name" in entry), None)
    return {
        "name": name or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "logical": os.cpu_count(),
        "physical": len(cores) or None,
        "usable": len(usable_cores()),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
    }


def int8_is_fast(instructions: Collection[str]) -> bool | None:
    """Return whether 8-bit products are likely faster than float32 here; None where the instructions are not known.

    `instructions` are those of `processor()`. Without VNNI or the like an 8-bit product takes more steps than it saves.
    """
    return bool(set(INT8_INSTRUCTIONS) & set(instructions)) if instructions else None


def multiplies_bfloat16(instructions: Collection[str]) -> bool:
    """Return whether the processor multiplies bfloat16 numbers; `instructions` are those of `processor()`."""
    return bool(set(BFLOAT16_INSTRUCTIONS) & set(instructions))


def free_memory() -> int | None:
    """Return the bytes of memory that a new process could have, or None where the system does not say."""
    file = Path("/proc/meminfo")
    if not file.is_file():
        return None
    values = dict(_pair(line) for line in file.read_text(encoding="utf-8").splitlines())
    return int(values["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in values else None


def _pair(line: str) -> tuple[str, str]:
    key, _, value = line.partition(":")
    return key.strip(), value.strip()
