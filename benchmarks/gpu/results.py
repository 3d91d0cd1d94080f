"""The results file of the GPU benchmark: one a machine, filled part by part, every part with its environment."""

import json
import platform
import re
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.models import Size
from compressor.errors import UserError
from compressor.measurement.machine.doctor import torch_toolkit
from compressor.measurement.machine.environment import environment
from compressor.measurement.machine.libraries import driver_cuda, ort_toolkit

RESULTS = Path(__file__).parents[1] / "results"
LABEL = "random weights"
NOTE = "Weights are random: the figures say how long models of these shapes take, and nothing about accuracy."


def results_file(device: str, name: str | None) -> Path:
    """Return results/gpu_NAME.json, or cpu_NAME.json: a figure of the CPU never stands in a file named after a GPU."""
    kind = "gpu" if device == "cuda" else "cpu"
    return RESULTS / f"{kind}_{slug(name or environment(device)['device']['name'])}.json"


def opened_results(out: Path, size: Size, device: str) -> dict[str, Any]:
    """Return what an earlier command of this benchmark left in `out`.

    Raises UserError for the file of another device or another size: their figures would stand side by side unlabelled.
    """
    name = environment(device)["device"]["name"]
    fresh = {
        "label": LABEL,
        "note": NOTE,
        "size": size.name,
        "layers": size.layers,
        "device": device,
        "device_name": name,
    }
    if device == "cpu" and out.name.startswith("gpu"):
        raise UserError(
            f"{out}: the file is named after a GPU and the figures would be the CPU's; name another with --out."
        )
    if not out.exists():
        return fresh
    try:
        results = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{out}: not a results file ({error}); name another with --out.") from error
    for key in ("device", "device_name", "size"):
        if results.get(key) != fresh[key]:
            raise UserError(
                f"{out}: holds figures of {results.get(key)!r}, this run's {key.replace('_', ' ')} is {fresh[key]!r}; name "
                "another file with --out or --name."
            )
    return results


def machine(device: str) -> dict[str, Any]:
    """Return the environment of a part: versions, processor, and of the GPU what its speed depends on."""
    found = {**environment(device), "measured": time.strftime("%Y-%m-%d"), "host_system": platform.system()}
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found["gpu"] = {
            "name": properties.name,
            "capability": f"{properties.major}.{properties.minor}",
            "memory_bytes": properties.total_memory,
            "driver_cuda": driver_cuda(),
            "torch_cudnn": torch_toolkit().cudnn,
            "onnxruntime_cuda": ort_toolkit()["cuda"],
        }
    return found


def write(out: Path, results: dict[str, Any]) -> None:
    """Write the results whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_suffix(".part")
    beside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    beside.replace(out)


def slug(name: str) -> str:
    """Return a name as part of a file name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
