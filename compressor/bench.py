"""`compressor bench`: latency of model, ONNX, cascade and run directories, interleaved."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from compressor.cascade.runtime import SETTINGS, CascadeClassifier
from compressor.data.batches import Encodings, encode
from compressor.data.files import read_columns, to_rows
from compressor.errors import UserError
from compressor.measurement.environment import environment
from compressor.measurement.latency import WORKLOAD, Batch, Cell, Subject, benchmark, grid_cells, workload_batches
from compressor.measurement.runtime import session
from compressor.measurement.subjects import onnx_subject, torch_subject
from compressor.model.load import ModelSource, find_model, load_classifier, load_tokenizer, longest_input, read_config
from compressor.progress import Track, silent
from compressor.recipe import BenchmarkSpec
from compressor.run import TEACHER
from compressor.stages import FULL_ONNX, PROVIDERS

Texts = list[tuple[str, ...]]
"""Rows of one text or two."""


@dataclass(frozen=True)
class Target:
    """One thing to time: a Hugging Face directory, an ONNX directory, or the parts of a cascade.

    In a run directory `run` is that directory, `side` is full, compressed or cascade, `variant` is pytorch or the ONNX
    variant, that of the model which a cascade is cut from included.
    """

    name: str
    path: Path
    onnx: bool
    run: Path | None = None
    side: str = ""
    variant: str = ""
    cascade: bool = False


def find_targets(directories: Sequence[Path]) -> list[Target]:
    """Return what can be timed in each directory; raises UserError for one that holds no model."""
    targets = []
    for directory in directories:
        found = _targets_in(directory)
        if not found:
            raise UserError(
                f"{directory}: neither a model directory (config.json and weights), an ONNX directory (model.onnx), "
                "a cascade (cascade.json and its parts), nor a run directory."
            )
        targets += found
    names = [target.name for target in targets]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise UserError(f"{repeated}: named twice; give each directory once.")
    return targets


def bench_directories(
    directories: Sequence[Path],
    spec: BenchmarkSpec,
    *,
    texts: Texts | None = None,
    device: str = "cpu",
    seed: int = 0,
    track: Track = silent,
) -> dict[str, Any]:
    """Time everything in `directories`; return rows, noise floor, environment, and where the texts left the cascades.

    With `texts` every target replays them in their order, in batches padded to their longest row, each through its own
    tokenizer. Without, there is a batch x length grid of random tokens, of which the exits of a cascade know nothing:
    cascades are then left out and named under `left_out`. Each target is compared with the full model in the same format
    where the same run directory has one, else with the first. Raises UserError for directories without a model.
    """
    import torch

    found = find_targets(directories)
    targets = [target for target in found if texts is not None or not target.cascade]
    if not targets:
        raise UserError(f"{found[0].path}: a cascade is timed on real texts alone; give some with --texts FILE.")
    provider, threads = PROVIDERS[device], torch.get_num_threads()
    configs = {target.name: read_config(target.path, "DIR") for target in targets if not target.cascade}
    cascades = {
        target.name: CascadeClassifier(target.path, providers=(provider,), threads=threads)
        for target in targets
        if target.cascade
    }
    longest = min([longest_input(config) for config in configs.values()], default=None)
    if texts is None:
        too_long = [length for length in spec.lengths if length > longest]
        if too_long:
            raise UserError(f"--length {too_long[0]}: the longest input of these models is {longest} tokens.")
        vocabulary = min(config["vocab_size"] for config in configs.values())
        cells = grid_cells(spec, vocabulary, ["input_ids", "attention_mask"], seed)
    else:
        limits = [classifier.settings["max_length"] for classifier in cascades.values()]
        cut = min([*limits, *([longest] if longest else [])])
        tokens = {name: _cascade_tokens(classifier, texts) for name, classifier in cascades.items()}
        for target in targets:
            if not target.cascade:
                tokens[target.name] = _tokens(target, configs[target.name], texts, cut)
        cells, replayed = replay_cells(tokens, spec.batch_sizes)
    subjects: dict[str, Subject] = {}
    for target in targets:
        if target.cascade:
            subjects[target.name] = cascades[target.name].run
        elif target.onnx:
            opened = session(target.path / "model.onnx", provider=provider, threads=threads)
            subjects[target.name] = onnx_subject(opened)
        else:
            model = load_classifier(find_model(str(target.path), field="DIR"), device=device)
            subjects[target.name] = torch_subject(model)
        if texts is not None:
            subjects[target.name] = _replaying(subjects[target.name], replayed[target.name])
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
        "cascades": {name: classifier.stats() for name, classifier in cascades.items()},
        "left_out": [target.name for target in found if target not in targets],
    }


def read_texts(path: Path, columns: Sequence[str]) -> Texts:
    """Return the texts of a .txt file (one a line) or of `columns` of a csv, tsv, jsonl or parquet file.

    Without `columns` that of a file with one column, else the column `text`. Raises UserError where that fails.
    """
    if path.suffix.lower() == ".txt":
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            raise UserError(f"--texts {path}: cannot be read as UTF-8 text ({error}).") from error
        texts: Texts = [(line,) for line in lines if line.strip()]
        if not texts:
            raise UserError(f"--texts {path}: the file holds no text; give one text a line.")
        return texts
    table = read_columns(path, "--texts")
    return to_rows(table, str(path), columns or (list(table) if len(table) == 1 else ["text"]), None).texts


def replay_cells(tokens: dict[str, Encodings], sizes: Sequence[int]) -> tuple[list[Cell], dict[str, list[Batch]]]:
    """Return the cells of a workload, and target -> its batches of all cells in their order.

    Every target has its own tokens, so a cell's batch holds only a place in those lists.
    """
    batches: dict[str, list[Batch]] = {name: [] for name in tokens}
    cells, places = [], 0
    for size in sizes:
        for name, encodings in tokens.items():
            batches[name] += workload_batches(encodings, size)
        end = len(next(iter(batches.values())))
        cells.append(Cell(size, WORKLOAD, [{"place": np.array(place)} for place in range(places, end)]))
        places = end
    return cells, batches


def _replaying(subject: Subject, batches: Sequence[Batch]) -> Subject:
    return lambda place: subject(batches[int(place["place"])])


def _cascade_tokens(classifier: CascadeClassifier, texts: Texts) -> Encodings:
    rows = classifier.tokenize([row[0] if len(row) == 1 else row for row in texts])
    settings = classifier.settings
    types = [row.type_ids for row in rows] if settings.get("token_types", True) else None
    return Encodings([row.ids for row in rows], types, settings["pad_id"])


def _tokens(target: Target, config: dict[str, Any], texts: Texts, longest: int) -> Encodings:
    source = ModelSource(target.path, config, 0, [], "")  # an ONNX directory has no weights to look at
    return encode(texts, load_tokenizer(source), longest)


def against(targets: Sequence[Target]) -> dict[str, str]:
    """Return target -> opponent: its own run's full model in the same format, else the first target."""
    full = {(target.run, target.variant): target.name for target in targets if target.side == "full"}
    rivals = {
        target.name: full.get((target.run, target.variant)) for target in targets if target.side not in ("", "full")
    }
    return {target.name: rivals.get(target.name) or _first_rival(target, targets) for target in targets}


def _first_rival(target: Target, targets: Sequence[Target]) -> str:
    # the full model is what others are measured by: it has no opponent but itself
    return target.name if target.side == "full" else targets[0].name


def _targets_in(directory: Path) -> list[Target]:
    if (directory / SETTINGS).is_file() and (directory / "front.onnx").is_file():
        return [Target(str(directory), directory, onnx=True, cascade=True)]
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
    targets = [
        Target(str(directory / name), directory / name, variant != "pytorch", directory, side, variant)
        for side, name, variant in folders
        if (directory / name).is_dir()
    ]
    parts = directory / "onnx" / "cascade"
    # a run whose recipe no longer has one may still hold the files
    recipe = yaml.safe_load((directory / "recipe.yaml").read_text(encoding="utf-8"))
    if (parts / SETTINGS).is_file() and recipe.get("cascade") is not None:
        targets.append(Target(str(parts), parts, True, directory, "cascade", "optimized", cascade=True))
    return targets
