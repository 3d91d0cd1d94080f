"""`compressor bench`: latency of model directories, ONNX directories and run directories, interleaved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.measurement.environment import environment
from compressor.measurement.latency import Subject, benchmark, grid_cells
from compressor.measurement.runtime import session
from compressor.measurement.subjects import onnx_subject, torch_subject
from compressor.model.load import find_model, load_classifier, longest_input, read_config
from compressor.progress import Track, silent
from compressor.recipe import BenchmarkSpec
from compressor.run import TEACHER
from compressor.stages import FULL_ONNX, PROVIDERS


@dataclass(frozen=True)
class Target:
    """One thing to time: an ONNX directory or a Hugging Face directory.

    In a run directory `run` is that directory, `side` is full or compressed, `variant` is pytorch or the ONNX variant.
    """

    name: str
    path: Path
    onnx: bool
    run: Path | None = None
    side: str = ""
    variant: str = ""


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
    configs = [read_config(target.path, "DIR") for target in targets]
    vocabulary = min(config["vocab_size"] for config in configs)
    longest = min(longest_input(config) for config in configs)
    too_long = [length for length in spec.lengths if length > longest]
    if too_long:
        raise UserError(f"--length {too_long[0]}: the longest input of these models is {longest} tokens.")
    provider, threads = PROVIDERS[device], torch.get_num_threads()
    subjects: dict[str, Subject] = {}
    for target in targets:
        if target.onnx:
            opened = session(target.path / "model.onnx", provider=provider, threads=threads)
            subjects[target.name] = onnx_subject(opened)
        else:
            model = load_classifier(find_model(str(target.path), field="DIR"), device=device)
            subjects[target.name] = torch_subject(model)
    cells = grid_cells(spec, vocabulary, ["input_ids", "attention_mask"], seed)
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
    full = {(target.run, target.variant): target.name for target in targets if target.side == "full"}
    rivals = {target.name: full.get((target.run, target.variant)) for target in targets if target.side == "compressed"}
    return {target.name: rivals.get(target.name) or _first_rival(target, targets) for target in targets}


def _first_rival(target: Target, targets: Sequence[Target]) -> str:
    # the full model is what others are measured by: it has no opponent but itself
    return target.name if target.side == "full" else targets[0].name


def _targets_in(directory: Path) -> list[Target]:
    if (directory / "model.onnx").is_file():
        return [Target(str(directory), directory, onnx=True)]
    if (directory / "config.json").is_file():
        return [Target(str(directory), directory, onnx=False)]
    if not (directory / "recipe.yaml").is_file():
        return [Target(str(file.parent), file.parent, onnx=True) for file in sorted(directory.glob("*/model.onnx"))]
    folders = [("full", TEACHER, "pytorch"), ("compressed", "model", "pytorch")]
    files = sorted([*directory.glob(f"{FULL_ONNX}/*/model.onnx"), *directory.glob("onnx/*/model.onnx")])
    for file in files:
        side = "full" if file.parts[-3] == FULL_ONNX else "compressed"
        folders.append((side, f"{file.parts[-3]}/{file.parts[-2]}", file.parts[-2]))
    return [
        Target(str(directory / name), directory / name, variant != "pytorch", directory, side, variant)
        for side, name, variant in folders
        if (directory / name).is_dir()
    ]
