"""Execution providers of ONNX Runtime: which really work here, what stands in the way, and sessions on them.

Needs ONNX Runtime and NumPy alone, so that the cascade's runtime can refuse as clearly as a command does.
"""

import contextlib
import io
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compressor.errors import UserError, first_line, nearest
from compressor.measurement.machine.libraries import (
    CUDA,
    NVIDIA,
    WHEEL,
    driver_cuda,
    installed_wheels,
    major,
    missing_libraries,
    ort_toolkit,
    pip_line,
)

if TYPE_CHECKING:
    import onnxruntime as ort

CPU = "CPUExecutionProvider"
PROVIDERS = {"cpu": CPU, "cuda": CUDA}
"""Device -> the execution provider of models on it."""
FATAL, WARNING = 4, 2
"""ONNX Runtime's logging levels: fatal errors only, and the one that the library starts with."""
RELU = (
    b'\x08\x08:7\n\x0c\n\x01x\x12\x01y"\x04Relu\x12\x05probeZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\r"
)
"""An ONNX file: y = Relu(x), float32 [1]. Old (IR 8, opset 13), so that every ONNX Runtime reads it; as bytes, so that
it takes no `onnx` to make it."""
STRICT = {CUDA: {"use_tf32": "0"}}
"""Options that a provider gets unless told otherwise: CUDA's default multiplies float32 numbers with 10 bits of mantissa
on recent GPUs, which PyTorch's default does not, so that "fp32" would mean two things in one table."""


@dataclass(frozen=True)
class Finding:
    """What stands in the way, and the command or act that cures it. Without `serious` it is worth knowing, no more."""

    problem: str
    remedy: str
    serious: bool = True


def open_session(
    model: str | bytes, provider: str, threads: int | None = None, options: Mapping[str, str] | None = None
) -> "ort.InferenceSession":
    """Open a model (path or serialised) on `provider` without a word on stdout or stderr, fallback included.

    `options` are the provider's own, such as {"enable_cuda_graph": "1"}, beside those of `STRICT`. Whether the session
    fell back to another provider is for the caller to see: `session.get_providers()[0]`.
    """
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = FATAL
    settings.intra_op_num_threads = threads or 0
    # waiting threads would otherwise spin on after a run and steal the cores of whatever is timed next
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    # a provider that cannot be loaded complains through the process's logger, not the session's
    ort.set_default_logger_severity(FATAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            if provider != CPU and hasattr(ort, "preload_dlls"):
                ort.preload_dlls()  # libraries that pip installed lie where the loader does not look
            return ort.InferenceSession(
                model, settings, providers=[(provider, {**STRICT.get(provider, {}), **(options or {})})]
            )
    finally:
        ort.set_default_logger_severity(WARNING)


def provider_problem(provider: str) -> str | None:
    """Return None where a session of one node runs on `provider`, else what was seen instead.

    ONNX Runtime lists providers that cannot work and falls back to the CPU without an error: only a run tells.
    """
    import numpy as np
    import onnxruntime as ort
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    if provider not in ort.get_available_providers():
        return "not in this ONNX Runtime"
    failures = [kind for kind in vars(state).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    try:
        session = open_session(RELU, provider)
        used = session.get_providers()[0]
        if used != provider:
            return f"a session runs on {used} instead"
        session.disable_fallback()
        answer = session.run(None, {"x": np.array([-1], dtype=np.float32)})[0]
    except (RuntimeError, ValueError, *failures) as error:
        return first_line(error)[:200]
    return None if answer.tolist() == [0] else f"max(-1, 0) is {answer.tolist()[0]} on it"


def provider_works(provider: str) -> bool:
    """Return whether a session of one node runs on `provider` and answers right."""
    return provider_problem(provider) is None


def require_provider(provider: str, asked: str) -> None:
    """Raise UserError, with diagnosis and remedy, where ONNX Runtime would run elsewhere than on `provider`.

    `asked` opens the sentence: who asked, such as `--device cuda` or a directory.
    """
    if provider == CPU or provider_works(provider):
        return
    found = what_stands_in_the_way(provider)
    raise UserError(f"{asked}: ONNX Runtime cannot use {provider} ({found.problem}); {found.remedy}, or use the CPU.")


def what_stands_in_the_way(provider: str) -> Finding:
    """Return why `provider` does not work on this machine, and the remedy."""
    import onnxruntime as ort

    return obstacle(
        provider,
        driver_cuda(),
        installed_wheels(),
        ort.get_available_providers(),
        missing_libraries(provider),
        major(ort_toolkit()["cuda"]),
    )


def obstacle(
    provider: str,
    driver: str | None,
    installed: Collection[str],
    compiled: Collection[str],
    missing: Collection[str],
    cuda: int | None,
) -> Finding:
    """Return why `provider`, which does not work, does not, the deepest reason first.

    `driver` is the CUDA version of NVIDIA's driver (None: no driver), `installed` the onnxruntime distributions,
    `compiled` the providers in the one imported, `missing` the libraries that cannot be loaded, `cuda` the CUDA major
    that ONNX Runtime is built for.
    """
    if provider in NVIDIA and driver is None:
        return NO_DRIVER
    if len(installed) > 1:
        return both_wheels(installed)
    if provider not in compiled and provider in NVIDIA:
        wheels = " ".join(installed) or "onnxruntime"
        return Finding(f"this ONNX Runtime is built without {provider}", f"pip uninstall -y {wheels} && {WHEEL}")
    if provider not in compiled:
        built = ", ".join(compiled)
        return Finding(f"this ONNX Runtime is built without it{nearest(provider, compiled)}", f"choose from {built}")
    if missing:
        return Finding(f"{', '.join(missing)} cannot be loaded", pip_line(missing, cuda))
    if driver and cuda and (major(driver) or 0) < cuda:
        return Finding(f"ONNX Runtime is built for CUDA {cuda}, the driver knows CUDA {driver}", "update the driver")
    return Finding(
        "all its libraries load, and yet a session does not start on it",
        "open one with ONNX Runtime's logging at level 0 to see why",
    )


NO_DRIVER = Finding("no NVIDIA driver was found", "install NVIDIA's driver, so that `nvidia-smi` lists the GPU")


def both_wheels(installed: Collection[str], wheel: str = "onnxruntime-gpu[cuda,cudnn]") -> Finding:
    """Return the finding for two distributions of one module; `wheel` is the one to keep."""
    names = " ".join(installed)
    cure = f"pip uninstall -y {names} && pip install '{wheel}'"
    return Finding(f"{names.replace(' ', ' and ')} are both installed and overwrite each other", cure)
