"""The GPU benchmark's search through every set of layers, and the wall time of a whole compression."""

import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.models import CARD, FAMILY, PRECISIONS, Size, random_encodings, tiny_tokenizer
from benchmarks.gpu.subjects import free, load
from compressor.compensation.refits.refit import refit_gaps
from compressor.data.batches import Encodings
from compressor.export.onnx import export_variants
from compressor.model.capture import capture_calls, fit_calls
from compressor.model.states.states import class_states
from compressor.model.surgery import drop_layers, kept_layers, save_model
from compressor.recipe.training import RefitSpec
from compressor.selection.search import candidate_sets
from compressor.selection.trials import Trials

BATCH = {"cuda": 250, "cpu": 32}
"""Rows a batch: a GPU wants few launches, a CPU's caches small states."""
MODES = {"cuda": {"fp32": "highest", "tf32": "high"}, "cpu": {"fp32": "highest"}}
"""Precision of float32 products -> what PyTorch calls it."""


def measure_search(
    size: Size, folder: Path, lengths: np.ndarray, device: str, left: Callable[[], float]
) -> dict[str, Any]:
    """Try every set of layers, all 2^L of them, on texts of `lengths` tokens, prefixes shared; return figures by precision.

    A precision whose predicted seconds are more than the seconds `left` is skipped, and the prediction kept.
    """
    model = load(folder, device)
    encodings = random_encodings(lengths, model.config.vocab_size, seed=1)
    sets = candidate_sets(size.layers, range(size.layers + 1), ())
    found: dict[str, Any] = {}
    for precision, mode in MODES[device].items():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(mode)
        try:
            found[precision] = _searched(model, encodings, sets, device, left)
        finally:
            torch.set_float32_matmul_precision(before)
        print(f"  search, {precision}: {found[precision]}", flush=True)
    del model
    free(device)
    return found


def _searched(
    model: torch.nn.Module, encodings: Encodings, sets: list[tuple[int, ...]], device: str, left: Callable[[], float]
) -> dict[str, Any]:
    started = time.perf_counter()
    calls, logits = capture_calls(model, FAMILY, encodings, batch_size=BATCH[device])
    captured = time.perf_counter() - started
    trials = Trials(model, FAMILY, calls, logits)
    layers = len(trials.layers)
    facts = {
        "sets": len(sets),
        "texts": len(encodings),
        "tokens": int(encodings.lengths.sum()),
        "layer_applications": trials.applications(sets),
        "without_sharing": sum(layers - len(skip) for skip in sets),
        "capture_seconds": captured,
        "predicted_seconds": trials.seconds(sets),
    }
    if facts["predicted_seconds"] > left():
        return {**facts, "seconds": None, "reason": "more than the time that was left"}
    started = time.perf_counter()
    trials(sets, "exhaustive search")
    return {**facts, "seconds": time.perf_counter() - started}  # every trial ends on the CPU: nothing is outstanding


def measure_pipeline(
    size: Size, folder: Path, lengths: np.ndarray, device: str, form: str, precisions: Sequence[str]
) -> dict[str, Any]:
    """Return the wall seconds of scoring, searching, refitting and exporting a model; each step as a run does it.

    Labels are random, so that the scores have classes to tell apart. Without scikit-learn the pass over the texts is
    timed without the statistics behind it, and the figures say so.
    """
    model, skip = load(folder, device), size.skip_pipeline
    encodings = random_encodings(lengths, model.config.vocab_size, seed=2)
    selection = random_encodings(lengths, model.config.vocab_size, seed=3)
    labels = np.arange(len(lengths)) % 2
    seconds: dict[str, float] = {}

    def clock(name: str, work: Callable[[], Any]) -> Any:  # noqa: ANN401
        started = time.perf_counter()
        result = work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds[name] = time.perf_counter() - started
        return result

    statistics = find_spec("sklearn") is not None

    def score() -> None:
        states = class_states(model, FAMILY, encodings, labels, 2)
        if statistics:
            from compressor.selection.separability import score_layers

            score_layers(states, "trace_ratio", "gold")

    def search() -> tuple[int, ...]:
        trials = Trials(model, FAMILY, *capture_calls(model, FAMILY, selection))
        sets = candidate_sets(size.layers, [skip], ())
        return min(trials(sets, "exhaustive search"), key=lambda trial: trial.cost).skip

    def refit(chosen: tuple[int, ...]) -> torch.nn.Module:
        student, keep = drop_layers(model, FAMILY, chosen), kept_layers(size.layers, chosen)
        calls = fit_calls(model, FAMILY, encodings)
        refit_gaps(model, student, FAMILY, keep, calls, RefitSpec())
        return student

    def export(student: torch.nn.Module, target: Path) -> None:
        (target / "model").mkdir()
        save_model(student.cpu(), tiny_tokenizer(target), target / "model", CARD)
        export_variants(target / "model", target / "onnx", [PRECISIONS[name] for name in precisions], form=form)

    clock("score", score)
    chosen = clock("search", search)
    student = clock("refit", lambda: refit(chosen))
    with TemporaryDirectory(prefix="gpu-pipeline-") as target:
        clock("export", lambda: export(student, Path(target)))
    scored = "every score" if statistics else "the pass alone: scikit-learn is not installed"
    return {
        "skipped": skip,
        "texts": len(lengths),
        "scored": scored,
        "exported": [PRECISIONS[name] for name in precisions],
        "seconds": seconds,
        "total_seconds": sum(seconds.values()),
    }
