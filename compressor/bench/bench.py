"""`compressor bench`: latency of model, ONNX, cascade and run directories, interleaved."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.bench.targets import Target, against, find_targets, in_modes, with_opponent, with_tensorrt
from compressor.bench.texts import Texts, cascade_tokens, model_tokens, replay_cells
from compressor.cascade.runtime import CascadeClassifier
from compressor.errors import UserError
from compressor.files import json_text, write_files
from compressor.measurement.machine.environment import environment, granted_threads, torch_threads
from compressor.measurement.machine.libraries import TENSORRT
from compressor.measurement.machine.providers import PROVIDERS, provider_problem
from compressor.measurement.runtime import session
from compressor.measurement.timing.cuda_graph import graph_session, graph_subject
from compressor.measurement.timing.footprint import ColdStart, footprints
from compressor.measurement.timing.latency import Batch, Cell, Subject, benchmark, grid_cells, settle
from compressor.measurement.timing.subjects import onnx_subject, padded, replaying, torch_subject
from compressor.model.load import find_model, load_classifier, longest_input, read_config
from compressor.progress import Track, silent
from compressor.recipe.compression import BenchmarkSpec
from compressor.report.figures.bench import bench_figure
from compressor.report.figures.style import png

MAX_LENGTH = 128
"""Tokens that PyTorch's padded modes pad to, as in recipes, unless told otherwise."""


@dataclass(frozen=True)
class Options:
    """How directories are timed, besides where: the options of `compressor bench` that are not the grid's."""

    pytorch: tuple[str, ...] = ("eager",)
    """Keys of TORCH_MODES."""
    max_length: int | None = None
    """Tokens that padded modes pad to and texts are cut at; None: 128, or fewer where a model takes no more."""
    cuda_graph: bool = False
    opponent: Path | None = None
    threads: int | None = None
    """None: as many as PyTorch takes by itself."""
    footprint: bool = True


@granted_threads()
def bench_directories(
    directories: Sequence[Path],
    spec: BenchmarkSpec,
    *,
    texts: Texts | None = None,
    device: str = "cpu",
    options: Options = Options(),
    seed: int = 0,
    track: Track = silent,
) -> dict[str, Any]:
    """Time everything in `directories`; return latency, noise floor, footprint, environment, and what cascades did.

    With `texts` every target replays them in their order, in batches padded to their longest row, each through its own
    tokenizer. Without, there is a batch x length grid of random tokens, of which the exits of a cascade know nothing:
    cascades are then left out and named under `left_out`. Each target is compared with `options.opponent`; without one
    with the full model in the same format where the same run directory has one, else with the first. Raises UserError
    for directories without a model and options that do not fit them.
    """
    import torch

    if options.cuda_graph and device != "cuda":
        raise UserError(
            "--cuda-graph: takes a GPU, and this runs on the CPU; leave it out, or let `compressor doctor` say why CUDA "
            "is not used."
        )
    if options.threads is not None and options.threads < 1:
        raise UserError(f"--threads {options.threads}: give at least 1.")
    found, opponent = find_targets(directories), None
    if options.opponent is not None:
        found, opponent = with_opponent(found, options.opponent)
    kept = [target for target in found if texts is not None or not target.cascade]
    if not kept or (opponent is not None and all(target.path != opponent for target in kept)):
        left = opponent or found[0].path
        raise UserError(f"{left}: a cascade is timed on real texts alone; give some with --texts FILE.")
    configs = {target.path: read_config(target.path, "DIR") for target in kept if not target.cascade}
    longest = min((longest_input(config) for config in configs.values()), default=None)
    max_length = _max_length(options.max_length, longest)
    targets = in_modes(kept, options.pytorch, max_length, options.cuda_graph)
    no_tensorrt = provider_problem(TENSORRT) if device == "cuda" else "no GPU is used"
    if no_tensorrt is None:
        targets = with_tensorrt(targets)
    if texts is None:
        _check_lengths(spec, options, targets, longest, max_length)
    with torch_threads(options.threads or torch.get_num_threads()) as threads:
        cascades = {
            target.name: CascadeClassifier(target.path, providers=(PROVIDERS[device],), threads=threads)
            for target in targets
            if target.cascade
        }
        if texts is None:
            vocabulary = min(config["vocab_size"] for config in configs.values())
            cells = grid_cells(spec, vocabulary, ["input_ids", "attention_mask"], seed)
            own = {target.name: _all_batches(cells) for target in targets}
        else:
            cut = _cut(cascades, options, targets, longest, max_length)
            tokens = {
                target.name: cascade_tokens(cascades[target.name], texts)
                if target.cascade
                else model_tokens(target.path, configs[target.path], texts, cut)
                for target in targets
            }
            cells, own = replay_cells(tokens, spec.batch_sizes)
        for target in targets:
            if target.mode.padded:
                pad_id = configs[target.path].get("pad_token_id") or 0
                own[target.name] = [padded(batch, max_length, pad_id) for batch in own[target.name]]
        subjects = _subjects(targets, cascades, own, _all_batches(cells), device, threads)
        starts = {target.name: _cold_start(target, own[target.name][0], device, threads) for target in targets}
        # before the long part: a model that cannot be started should not cost a whole benchmark
        started = footprints(starts, seed=seed, track=track) if options.footprint else None
        measured = benchmark(
            subjects,
            against(targets, opponent),
            {target.name: target.runs_on(device) for target in targets},
            cells,
            **spec.limits,
            seed=seed,
            track=track,
        )
        return {
            "latency": measured.latency,
            "noise_floor": measured.noise_floor,
            "footprint": started,
            "raw": measured.raw,
            "threads": threads,
            "environment": environment(device),
            "cascades": {name: classifier.stats() for name, classifier in cascades.items()},
            "no_tensorrt": no_tensorrt,
            "left_out": [target.name for target in found if target not in kept],
        }


def write_bench(measured: Mapping[str, Any], out: Path) -> list[Path]:
    """Write bench.json, and bench.png where something was compared, to the folder `out`; return their paths."""
    made = {"bench.json": json_text(measured).encode()}
    if any(row["speedup_ci95"] for rows in measured["latency"].values() for row in rows):
        made["bench.png"] = png(bench_figure(measured["latency"], measured["noise_floor"]))
    try:
        return write_files(out, made, instead_of="bench.")
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); check rights and space.") from error


def _max_length(asked: int | None, longest: int | None) -> int:
    if asked is not None and (asked < 4 or (longest is not None and asked > longest)):
        allowed = f"4 to {longest} tokens" if longest else "at least 4 tokens"
        raise UserError(f"--max-length {asked}: these models take {allowed}.")
    return asked or min(MAX_LENGTH, longest or MAX_LENGTH)


def _check_lengths(
    spec: BenchmarkSpec, options: Options, targets: Sequence[Target], longest: int | None, max_length: int
) -> None:
    too_long = [length for length in spec.lengths if length > longest]
    if too_long:
        raise UserError(f"--length {too_long[0]}: the longest input of these models is {longest} tokens.")
    pads = any(target.mode.padded for target in targets)
    if options.max_length is not None and not pads:
        raise UserError("--max-length: neither --pytorch padded nor --texts FILE asks for it; leave it out.")
    beyond = [length for length in spec.lengths if pads and length > max_length]
    if beyond:
        raise UserError(
            f"--length {beyond[0]}: is more than the {max_length} tokens that PyTorch pads to; raise --max-length, or "
            "leave the length out."
        )


def _cut(
    cascades: Mapping[str, CascadeClassifier],
    options: Options,
    targets: Sequence[Target],
    longest: int | None,
    max_length: int,
) -> int:
    """Return the tokens that every text is cut to, so that all do the same work."""
    asked = max_length if options.max_length is not None or any(target.mode.padded for target in targets) else None
    limits = {name: classifier.settings["max_length"] for name, classifier in cascades.items()}
    for name, limit in limits.items():
        if asked is not None and limit > asked:
            raise UserError(
                f"--max-length {asked}: the cascade {name} reads up to {limit} tokens of a text, "
                "so it would do more work than the others; give that many."
            )
    return min(limit for limit in (asked, longest, *limits.values()) if limit is not None)


def _all_batches(cells: Sequence[Cell]) -> list[Batch]:
    return [batch for cell in cells for batch in cell.batches]


def _subjects(
    targets: Sequence[Target],
    cascades: Mapping[str, CascadeClassifier],
    own: Mapping[str, Sequence[Batch]],
    batches: Sequence[Batch],
    device: str,
    threads: int,
) -> dict[str, Subject]:
    """Return target -> what runs one of `batches`, by its counterpart in `own`; all compiled and captured."""
    models, subjects = {}, {}
    for target in targets:
        if target.cascade:
            subject = cascades[target.name].run
        elif target.graph:
            subject = graph_subject(graph_session(target.path / "model.onnx", threads), target.name)
        elif target.onnx:
            opened = session(target.path / "model.onnx", provider=target.provider(device), threads=threads)
            subject = onnx_subject(opened)
        else:
            if target.path not in models:
                models[target.path] = load_classifier(find_model(str(target.path), field="DIR"), device=device)
            subject = torch_subject(models[target.path], compiled=target.mode.compiled)
        if device != "cpu" or target.mode.compiled:  # a shape that is met for the first time takes longer
            settle(subject, own[target.name])
        subjects[target.name] = replaying(subject, batches, own[target.name])
    return subjects


def _cold_start(target: Target, batch: Batch, device: str, threads: int) -> ColdStart:
    kind = "cascade" if target.cascade else "cuda-graph" if target.graph else "onnx" if target.onnx else "pytorch"
    path = target.path / "model.onnx" if target.onnx and not target.cascade else target.path
    size, length = batch["input_ids"].shape
    return ColdStart(kind, str(path), target.provider(device), device, threads, size, length, target.mode.compiled)
