"""Libraries that a GPU needs: the driver, which of NVIDIA's libraries cannot be loaded, and the pip line that brings them."""

import ctypes
import platform
import re
from collections.abc import Collection
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from compressor.errors import first_line

TENSORRT = "TensorrtExecutionProvider"
CUDA = "CUDAExecutionProvider"
NVIDIA = {TENSORRT: "tensorrt", CUDA: "cuda"}
"""Providers that need NVIDIA's driver -> the part of the wheel that holds them."""
ONNXRUNTIMES = "onnxruntime", "onnxruntime-gpu"
"""Distributions that install the same module `onnxruntime`: with both, the last one installed wins."""
DRIVERS = {"Linux": "libcuda.so.1", "Windows": "nvcuda.dll"}
WHEEL = "pip install 'onnxruntime-gpu[cuda,cudnn]'"
PACKAGES = {
    "cublasLt": "nvidia-cublas",
    "cublas": "nvidia-cublas",
    "cudart": "nvidia-cuda-runtime",
    "nvrtc": "nvidia-cuda-nvrtc",
    "cufft": "nvidia-cufft",
    "curand": "nvidia-curand",
    "cudnn": "nvidia-cudnn",
    "nvinfer": "tensorrt",
    "nvonnxparser": "tensorrt",
}
"""Library (lib<name>.so.N) -> the package on PyPI that brings it, its CUDA suffix apart."""
SAME_AS_CUDA = "cublasLt", "cublas", "cudart", "nvrtc"
"""Libraries whose number is CUDA's own major."""
CUFFT = {11: 12, 12: 13}
"""Number of libcufft -> CUDA's major."""


def missing_libraries(provider: str) -> list[str]:
    """Return the libraries, as the loader calls them, without which `provider` cannot be loaded; [] if it loads.

    The first is what the loader stopped at. It names one at a time, so NVIDIA's others are tried one by one: those
    that a library of its CUDA major needs.
    """
    import onnxruntime

    stems = ("shared", NVIDIA[provider]) if provider in NVIDIA else ()
    folder = Path(onnxruntime.__file__).parent / "capi"
    libraries = (file for stem in stems for file in folder.glob(f"*onnxruntime_providers_{stem}.*"))
    message = next(filter(None, (_load_error(str(file), ctypes.RTLD_GLOBAL) for file in libraries)), None)
    if message is None:
        return []
    first = library_name(message)
    if first is None:
        return [first_line(message)[:200]]
    cuda = major(ort_toolkit()["cuda"])
    others = [f"lib{name}.so.{cuda}" for name in SAME_AS_CUDA[:3]] if cuda else []
    return list(dict.fromkeys([first, *(name for name in others if _load_error(name))]))


def library_name(message: str) -> str | None:
    """Return the file that a loader's message is about, such as libcublasLt.so.13; None where it names none."""
    found = re.search(r"(lib[\w+-]+\.so\.\d+)[\d.]*:", message)
    return found and found.group(1)


def pip_line(missing: Collection[str], cuda: int | None) -> str:
    """Return the command that brings the libraries `missing`; `cuda` is the CUDA major for those that do not tell it.

    The packages of CUDA up to 12, and those of cuDNN and TensorRT, end in -cuNN; the others lost that with CUDA 13.
    """
    wanted = []
    for library in missing:
        found = re.fullmatch(r"lib(\w+)\.so\.(\d+)", library)
        if not found or found[1] not in PACKAGES:
            return WHEEL
        name, number = found[1], int(found[2])
        package = PACKAGES[name]
        of_cuda = number if name in SAME_AS_CUDA else CUFFT.get(number, cuda) if name == "cufft" else cuda
        if of_cuda is None:
            return WHEEL
        suffixed = of_cuda < 13 or package in {"nvidia-cudnn", "tensorrt"}
        wanted.append(f"'{package}{f'-cu{of_cuda}' if suffixed else ''}=={number}.*'")
    return f"pip install {' '.join(dict.fromkeys(wanted))}" if wanted else WHEEL


def driver_cuda() -> str | None:
    """Return the newest CUDA version that NVIDIA's driver knows, such as "13.0"; None without a driver.

    The library asked comes with the driver, not with the CUDA toolkit.
    """
    name, number = DRIVERS.get(platform.system()), ctypes.c_int(0)
    if name is None:
        return None
    try:
        ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(number))
    except (OSError, AttributeError):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def installed_wheels() -> list[str]:
    """Return the onnxruntime distributions that are installed."""
    return [name for name in ONNXRUNTIMES if installed_version(name)]


def ort_toolkit() -> dict[str, str | None]:
    """Return {version, cuda, cudnn} that the imported ONNX Runtime is built for; None where it is not, or hides it."""
    import onnxruntime as ort

    wheel = next(iter(reversed(installed_wheels())), None)
    extras = [line for line in (requires(wheel) or () if wheel else ()) if line.startswith("nvidia-cudnn")]
    cudnn = re.search(r"[=~>]=\s*(\d+)", extras[0]) if extras else None
    return {
        "version": ort.__version__,
        "cuda": getattr(ort, "cuda_version", None) or None,
        "cudnn": cudnn[1] if cudnn else None,
    }


def installed_version(distribution: str) -> str | None:
    """Return the installed version of a distribution, None where there is none."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def major(text: str | None) -> int | None:
    """Return the number before the first dot of a version, None for None."""
    return int(text.split(".")[0]) if text else None


def _load_error(library: str, mode: int = ctypes.DEFAULT_MODE) -> str | None:
    """Return the loader's message about a shared library; None where it loads."""
    try:
        ctypes.CDLL(library, mode=mode)
    except OSError as error:
        return str(error)
    return None
