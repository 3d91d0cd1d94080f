"""A diagnosis of the machine: what really works of PyTorch and ONNX Runtime, what does not, and the cure."""

import platform
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from compressor.errors import UserError, first_line
from compressor.measurement.machine.environment import INT8_INSTRUCTIONS, free_memory, int8_is_fast, processor, versions
from compressor.measurement.machine.libraries import (
    CUDA,
    NVIDIA,
    TENSORRT,
    driver_cuda,
    installed_wheels,
    major,
    missing_libraries,
    ort_toolkit,
)
from compressor.measurement.machine.providers import CPU, NO_DRIVER, Finding, both_wheels, obstacle, provider_problem

TORCH_INDEX = "https://download.pytorch.org/whl/cu"


@dataclass(frozen=True)
class Provider:
    """An execution provider in the ONNX Runtime that is imported. `reason` says why it is not usable."""

    name: str
    usable: bool
    reason: str | None


@dataclass(frozen=True)
class Toolkit:
    """A library that may use the GPU, with the CUDA and cuDNN it is built for; None where it is not, or hides it."""

    version: str
    cuda: str | None
    cudnn: str | None


@dataclass(frozen=True)
class Diagnosis:
    """What `doctor` found.

    `best` is the fastest provider that works. `ok` means that the best device of this machine works for PyTorch and
    for ONNX Runtime: the GPU where there is a driver, else the CPU. `driver` is the CUDA version that the driver knows,
    `int8_fast` is None where the processor's instructions are not known, memory is in bytes.
    """

    ok: bool
    summary: str
    best: str
    gpu: str | None
    driver: str | None
    providers: tuple[Provider, ...]
    toolkits: dict[str, Toolkit]
    findings: tuple[Finding, ...]
    versions: dict[str, str | None]
    cpu: dict
    int8_fast: bool | None
    int8: str
    threads: int
    free_memory_bytes: int | None


def doctor() -> Diagnosis:
    """Try every execution provider and PyTorch's GPU; say what does not work, why, and what to install."""
    import onnxruntime
    import torch

    driver, installed, compiled = driver_cuda(), installed_wheels(), tuple(onnxruntime.get_available_providers())
    toolkits = {"PyTorch": torch_toolkit(), "ONNX Runtime": Toolkit(**ort_toolkit())}
    seen = {provider: provider_problem(provider) for provider in compiled}
    missing = {name: missing_libraries(name) for name in NVIDIA if seen.get(name) and driver}
    trouble = torch_trouble() if driver else None
    findings = find(driver, installed, seen, missing, toolkits, trouble)
    cpu = processor()
    return Diagnosis(
        ok=not any(finding.serious for finding in findings),
        summary=_summary(driver, findings),
        best=next((name for name in (TENSORRT, CUDA) if name in seen and seen[name] is None), CPU),
        gpu=torch.cuda.get_device_name() if driver and trouble is None else None,
        driver=driver,
        providers=tuple(
            Provider(name, problem is None, problem and _reason(name, problem, driver, missing.get(name, ())))
            for name, problem in seen.items()
        ),
        toolkits=toolkits,
        findings=tuple(findings),
        versions={"python": platform.python_version(), **versions()},
        cpu=cpu,
        int8_fast=int8_is_fast(cpu["instructions"]),
        int8=int8_words(cpu["instructions"]),
        threads=torch.get_num_threads(),
        free_memory_bytes=free_memory(),
    )


def find(
    driver: str | None,
    installed: Collection[str],
    seen: Mapping[str, str | None],
    missing: Mapping[str, Collection[str]],
    toolkits: Mapping[str, Toolkit],
    trouble: str | None,
) -> list[Finding]:
    """Return what is wrong on a machine, and what is merely worth knowing, from what was found out about it.

    `driver` is the CUDA version of NVIDIA's driver, `installed` the onnxruntime distributions, `seen` the problem of
    every provider compiled in (None: it works), `missing` the libraries that a provider lacks, `toolkits` what PyTorch
    and ONNX Runtime are built for, `trouble` what PyTorch said when it was to use the GPU.
    """
    torch, ort = toolkits["PyTorch"], toolkits["ONNX Runtime"]
    cuda = major(ort.cuda)
    found = []
    if driver and trouble is not None:
        found.append(torch_obstacle(driver, torch.cuda, trouble))
    if driver and seen.get(CUDA, "not compiled in"):
        found.append(obstacle(CUDA, driver, installed, seen, missing.get(CUDA, ()), cuda))
    elif driver and seen.get(TENSORRT):
        skipped = obstacle(TENSORRT, driver, installed, seen, missing.get(TENSORRT, ()), cuda)
        found.append(Finding(f"TensorRT is skipped ({skipped.problem})", skipped.remedy, serious=False))
    if seen.get(CPU, "not compiled in"):
        reinstall = f"pip install --force-reinstall {' '.join(installed) or 'onnxruntime'}"
        found.append(Finding(f"ONNX Runtime cannot run a graph even on the CPU ({seen.get(CPU)})", reinstall))
    if len(installed) > 1 and not any("both installed" in finding.problem for finding in found):
        keep = "onnxruntime-gpu[cuda,cudnn]" if driver else "onnxruntime"
        found.append(replace(both_wheels(installed, keep), serious=False))
    return found + mismatches(torch, ort)


def torch_obstacle(driver: str | None, cuda: str | None, trouble: str) -> Finding:
    """Return why PyTorch does not use the GPU, the deepest reason first, and the remedy.

    `driver` is the CUDA version of NVIDIA's driver (None: no driver), `cuda` that of the torch build (None: a CPU
    build), `trouble` what was seen.
    """
    if driver is None:
        return NO_DRIVER
    if cuda is None:
        index = f"an index with a build for CUDA {driver} or older (PyPI has one for Linux)"
        return Finding("PyTorch is a CPU build", f"pip uninstall -y torch && pip install torch, from {index}")
    if (major(driver) or 0) < (major(cuda) or 0):
        problem = f"PyTorch is built for CUDA {cuda}, the driver knows CUDA {driver}"
        return Finding(problem, "update the driver, or install a torch for its CUDA version")
    return Finding(
        f"PyTorch cannot use the GPU ({trouble})",
        "check that `nvidia-smi` lists it and CUDA_VISIBLE_DEVICES hides none",
    )


def mismatches(torch: Toolkit, ort: Toolkit) -> list[Finding]:
    """Return where PyTorch and ONNX Runtime are built for different majors of CUDA or cuDNN: each loads its own then.

    Not serious by itself: both work where both sets of libraries are installed.
    """
    found = []
    for name, one, other in (("CUDA", torch.cuda, ort.cuda), ("cuDNN", torch.cudnn, ort.cudnn)):
        if one and other and major(one) != major(other):
            problem = f"PyTorch is built for {name} {major(one)} and ONNX Runtime for {name} {major(other)}"
            cure = (
                f"pip install --force-reinstall torch --index-url {TORCH_INDEX}{other.replace('.', '')}"
                if name == "CUDA"
                else f"pip install 'nvidia-cudnn-cu{major(ort.cuda)}=={major(other)}.*'"
            )
            found.append(Finding(problem, f"{cure}, so that they share one set of libraries", serious=False))
    return found


def resolve_device(device: str) -> str:
    """Return `cpu` or `cuda`, `auto` being cuda where PyTorch has it.

    Raises UserError for another name and, with diagnosis and remedy, for cuda where there is none.
    """
    import torch

    if device not in {"auto", "cpu", "cuda"}:
        raise UserError(f"--device {device!r} is not one of auto, cpu, cuda.")
    if device == "cuda" and not torch.cuda.is_available():
        found = torch_obstacle(driver_cuda(), torch.version.cuda, "it sees no GPU")
        raise UserError(
            f"--device cuda: PyTorch finds no CUDA device here ({found.problem}); {found.remedy}, or set --device cpu."
        )
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device


def torch_toolkit() -> Toolkit:
    """Return what the installed PyTorch is built for."""
    import torch

    number = torch.backends.cudnn.version() if torch.version.cuda else None
    # 8902 is 8.9.2, and from 9 on 91200 is 9.12.0
    cudnn = number and (f"{number // 10000}.{number % 10000 // 100}" if number >= 90000 else f"{number // 1000}")
    return Toolkit(torch.__version__, torch.version.cuda, cudnn)


def torch_trouble() -> str | None:
    """Return None where PyTorch adds two numbers on the GPU, else what it said."""
    import torch

    if not torch.cuda.is_available():
        return "it sees no GPU"
    try:
        total = (torch.ones(1, device="cuda") + 1).item()
    except RuntimeError as error:
        return first_line(error)[:200]
    return None if total == 2 else f"1 + 1 is {total} on it"


def int8_words(instructions: Collection[str]) -> str:
    """Return what the processor's instruction sets mean for 8-bit models."""
    if not instructions:
        return "unknown: this system does not list its instruction sets; measure with `compressor bench`"
    found = [name for name in INT8_INSTRUCTIONS if name in instructions]
    if found:
        return f"likely fast here ({', '.join(found)})"
    return f"likely slow here (no {INT8_INSTRUCTIONS[0]} or the like); smaller files all the same"


def _reason(provider: str, problem: str, driver: str | None, missing: Collection[str]) -> str:
    optional = "skipped, optional: " if provider == TENSORRT else ""
    if provider in NVIDIA and driver is None:
        return optional + NO_DRIVER.problem
    return optional + (f"{', '.join(missing)} cannot be loaded" if missing else problem)


def _summary(driver: str | None, findings: Collection[Finding]) -> str:
    serious = [finding.problem for finding in findings if finding.serious]
    if serious:
        return f"{'GPU present but not used' if driver else 'CPU does not work'}: {'; '.join(serious)}"
    return "GPU: CUDA works in PyTorch and ONNX Runtime" if driver else "CPU: no NVIDIA driver was found"
