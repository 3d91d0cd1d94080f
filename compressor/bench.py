"""`compressor bench`: latency of model directories, ONNX directories and run directories, interleaved."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.measurement.environment import environment
from compressor.measurement.latency import Subject, benchmark, onnx_subject, torch_subject
from compressor.measurement.runtime import session
from compressor.model.load import find_model, load_classifier
from compressor.progress import Track, silent
from compressor.recipe import BenchmarkSpec
from compressor.run import TEACHER
from compressor.stages import FULL_ONNX, PROVIDERS, grid_cells


@dataclass(frozen=True)
class Target:
    """One thing to time: an ONNX directory or a Hugging Face directory."""

    name: str
    path: Path
    onnx: bool


def find_targets(directories: Sequence[Path]) -> list[Target]:
    """Return what can be timed in each directory; raises UserError for one that holds no model."""
    targets = []
    for directory in directories:
        found = _targets_in(directory)
        if not found:
            raise UserError(
                f"{directory}: neither a model directory (config.json and weights), an ONNX directory (model.onnx), "
                "nor a run directory."
            )
        targets += found
    names = [target.name for target in targets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"{repeated}: named twice; give each directory once.")
    return targets


def bench_directories(
    directories: Sequence[Path], spec: BenchmarkSpec, *, device: str = "cpu", seed: int = 0, track: Track = silent
) -> dict[str, Any]:
    """Time everything in `directories` on a batch x length grid; return rows, noise floor and environment.

    Each is compared with the full model in the same format where the same run directory has one, else with the first.
    Raises UserError for directories without a model.
    """
    import torch

    targets = find_targets(directories)
    configs = [json.loads((target.path / "config.json").read_text(encoding="utf-8")) for target in targets]
    provider, threads = PROVIDERS[device], torch.get_num_threads()
    subjects: dict[str, Subject] = {}
    for target in targets:
        if target.onnx:
            opened = session(target.path / "model.onnx", provider=provider, threads=threads)
            subjects[target.name] = onnx_subject(opened)
        else:
            subjects[target.name] = torch_subject(load_classifier(find_model(str(target.path)), device=device))
    vocabulary = min(config["vocab_size"] for config in configs)
    longest = min(config.get("max_position_embeddings", 512) - 2 for config in configs)
    cells = grid_cells(spec, vocabulary, ["input_ids", "attention_mask"], longest, seed)
    if not cells:
        raise UserError(
            f"--lengths: none of {spec.lengths} fits these models, whose longest input is {longest} tokens."
        )
    measured = benchmark(
        subjects,
        against(targets),
        {target.name: provider if target.onnx else f"PyTorch {device.upper()}" for target in targets},
        cells,
        min_seconds=spec.min_seconds,
        min_runs=spec.min_runs,
        max_seconds=spec.max_seconds,
        seed=seed,
        track=track,
    )
    return {
        "latency": measured.latency,
        "noise_floor": measured.noise_floor,
        "raw": measured.raw,
        "environment": environment(device),
    }


def against(targets: Sequence[Target]) -> dict[str, str]:
    """Return target -> opponent: its own run's full model in the same format, else the first target."""
    names = {target.name for target in targets}
    opponents = {}
    for name in names:
        run, _, variant = name.rpartition("/onnx/")
        rival = f"{run}/{FULL_ONNX}/{variant}" if run else name.removesuffix("/model") + f"/{TEACHER}"
        opponents[name] = rival if rival in names and rival != name else targets[0].name
    return opponents


def _targets_in(directory: Path) -> list[Target]:
    if (directory / "model.onnx").is_file():
        return [Target(str(directory), directory, onnx=True)]
    if (directory / "config.json").is_file():
        return [Target(str(directory), directory, onnx=False)]
    plain = [
        Target(str(path), path, onnx=False) for path in (directory / TEACHER, directory / "model") if path.is_dir()
    ]
    patterns = f"{FULL_ONNX}/*/model.onnx", "onnx/*/model.onnx", "*/model.onnx"
    files = [file for pattern in patterns for file in sorted(directory.glob(pattern))]
    return plain + [Target(str(file.parent), file.parent, onnx=True) for file in files]
