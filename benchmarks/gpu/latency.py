"""The GPU benchmark's grid of batch x length, and its replay of texts of real lengths."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertConfig

from benchmarks.gpu.models import Files, Size, random_encodings
from benchmarks.gpu.subjects import Way, check_answers, engines, free, group, load, onnx_way, opened, settled, torch_way
from compressor.data.batches import Encodings
from compressor.measurement.timing.latency import (
    WORKLOAD,
    Batch,
    Cell,
    Subject,
    benchmark,
    grid_batches,
    workload_batches,
)
from compressor.measurement.timing.subjects import padded, replaying

INPUTS = "input_ids", "attention_mask", "token_type_ids"
STEP = 16
"""CUDA graphs of a workload: batches are padded to a multiple of so many tokens, so that a few recorded shapes serve all."""
Save = Callable[[dict[str, Any]], None]


def cell_key(precision: str, skip: int, batch: int, length: int) -> str:
    """Return what a cell of the grid is filed under."""
    return f"{precision}, minus {skip}, {batch} x {length}"


def measure_grid(
    size: Size,
    files: Mapping[int, Files],
    precisions: Sequence[str],
    device: str,
    *,
    compiled: bool,
    done: Mapping[str, Any],
    late: Callable[[], bool],
    save: Save,
) -> list[str]:
    """Measure every cell that is not `done`, and hand it to `save`; return those that were left when it got `late`.

    A cell holds one precision and one number of removed layers beside the full model, all interleaved: with more at
    once the sessions' memory would not fit smaller GPUs.
    """
    vocabulary, left = BertConfig(**size.config).vocab_size, []
    for precision in precisions:
        for skip in size.skips:
            cells = [(batch, length) for batch in size.batches for length in size.lengths]
            cells = [cell for cell in cells if cell_key(precision, skip, *cell) not in done]
            if not cells:
                continue
            if late():
                left += [cell_key(precision, skip, *cell) for cell in cells]
                continue
            subjects, against, failed = group(size, files, skip, precision, device, compiled)
            answers = check_answers(subjects, files, size)
            for batch, length in cells:
                if late():
                    left.append(cell_key(precision, skip, batch, length))
                    continue
                batches = grid_batches(batch, length, vocabulary, INPUTS)
                rows = _rows(subjects, against, Cell(batch, length, batches), size, device, failed)
                save({cell_key(precision, skip, batch, length): {**rows, "logit_difference": answers}})
                print(f"  {cell_key(precision, skip, batch, length)}", flush=True)
            del subjects
            free(device)
    return left


def measure_workload(
    size: Size,
    files: Mapping[int, Files],
    lengths: np.ndarray,
    precisions: Sequence[str],
    device: str,
    *,
    compiled: bool,
    late: Callable[[], bool],
) -> dict[str, Any]:
    """Replay texts of `lengths` tokens as they come and sorted by length; everything against padded float32 eager PyTorch.

    Padded batches are as wide as `size.padded`, all others as their longest text.
    """
    encodings = random_encodings(lengths, BertConfig(**size.config).vocab_size)
    makers, rival = workload_ways(size, files, precisions, device, compiled)
    subjects, failed = opened(makers)
    found: dict[str, Any] = {"cells": {}, "left": []}
    for order, rows in (("as they come", np.arange(len(lengths))), ("by length", np.argsort(lengths, kind="stable"))):
        for count in size.workload:
            if late():
                found["left"].append(f"{count} texts, {order}")
                continue
            batches = workload_batches(encodings.take(rows), count, limit=32)
            own = {way: _own(batches, way, size, encodings) for way in subjects}
            replays = {way: replaying(subject, batches, own[way]) for way, subject in subjects.items()}
            against = {way: rival for way in subjects if way != rival}
            cell = Cell(count, WORKLOAD, batches)
            found["cells"][f"{count} texts, {order}"] = _rows(replays, against, cell, size, device, failed)
            print(f"  workload: {count} texts a batch, {order}", flush=True)
    del subjects
    free(device)
    return found


def workload_ways(
    size: Size, files: Mapping[int, Files], precisions: Sequence[str], device: str, compiled: bool
) -> tuple[dict[Way, Callable[[], Subject]], Way]:
    """Return the ways to answer a workload, and the one that all are compared with."""
    full, wide = size.layers, f"padded to {size.padded}"
    rival = Way(full, "PyTorch eager", "fp32", detail=wide)
    makers: dict[Way, Callable[[], Subject]] = {}

    def add(way: Way, folder: Path, compiled: bool = False) -> None:
        makers[way] = lambda: torch_way(load(folder, device, way.precision), way.precision, compiled)

    for precision in (
        "fp32",
        *(["tf32"] if device == "cuda" else []),
        *(["fp16", "bf16"] if "fp16" in precisions else []),
    ):
        add(Way(full, "PyTorch eager", precision, detail=wide), files[0].model)
        add(Way(full, "PyTorch eager", precision), files[0].model)
    for precision in precisions if compiled else ():
        add(Way(full, "PyTorch compiled", precision, detail=wide), files[0].model, compiled=True)
    engine = engines(device)[0]
    for precision in precisions:
        for skip in size.skips:
            for tail, made in ((False, files[skip].all_rows), (True, files[skip].tail)):
                if tail or not skip:
                    way = Way(full - skip, engine, precision, tail)
                    makers[way] = lambda path=made[precision], way=way: onnx_way(path, way.engine, way.precision)
            if device == "cuda":
                way = Way(full - skip, "ORT CUDA graph", precision, True, f"padded to multiples of {STEP}")
                makers[way] = lambda path=files[skip].tail[precision], way=way: onnx_way(
                    path, way.engine, way.precision
                )
    return makers, rival


def _own(batches: Sequence[Batch], way: Way, size: Size, encodings: Encodings) -> list[Batch]:
    """Return the batches as a way gets them: padded further where it wants that, which is not part of what is timed."""
    if not way.detail:
        return list(batches)
    widths = [batch["input_ids"].shape[1] for batch in batches]
    fixed = way.detail == f"padded to {size.padded}"
    wanted = [size.padded if fixed else -(-width // STEP) * STEP for width in widths]
    return [padded(batch, width, encodings.pad_id) for batch, width in zip(batches, wanted, strict=True)]


def _rows(
    subjects: Mapping[Way, Subject],
    against: Mapping[Way, Way],
    cell: Cell,
    size: Size,
    device: str,
    failed: Mapping[str, str],
) -> dict[str, Any]:
    """Measure one cell; return its rows, the noise floor of each opponent, and what could not run, with the reason."""
    ready, broken = settled(subjects, {way: cell.batches for way in subjects})
    named = {way.name: way for way in ready}
    measured = benchmark(
        {name: ready[way] for name, way in named.items()},
        {way.name: against[way].name for way in ready if against.get(way) in ready},
        {
            name: way.engine if "ORT" in way.engine else f"{way.engine} on {device.upper()}"
            for name, way in named.items()
        },
        [cell],
        **size.limits,
    )
    rows = [{"name": name, **way.facts(device), **measured.latency[name][0]} for name, way in named.items()]
    return {"rows": rows, "noise_floor": measured.noise_floor, "left_out": {**failed, **broken}}
