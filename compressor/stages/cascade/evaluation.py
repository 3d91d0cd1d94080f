"""The stage that measures the guarded early exit on the evaluation split, beside its certificate."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from compressor.cascade.runtime import CascadeClassifier
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.runtime import session
from compressor.measurement.statistics import percentile_interval, share_interval
from compressor.measurement.timing.latency import WORKLOAD, Cell, benchmark, workload_batches
from compressor.measurement.timing.subjects import onnx_subject
from compressor.report.formats import CASCADE
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX, SPARED, answer_entry, variant_flops
from compressor.stages.cascade.shared import FITTED, FOLDER, MEASURED, answers, full_work, fused_file, wanted, work_of
from compressor.stages.predictions import evaluation_logits
from compressor.stages.stage import Stage, latency_inputs, never

DRAWS = 2000
FLOATS = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE
BYTES = onnx.TensorProto.INT8, onnx.TensorProto.UINT8
"""Types of 8-bit weights, which are matrices, and of zero points, which are not."""


def compute(run: Run, folder: Path) -> None:
    """Answer the evaluation split with the cascade, row by row as a user would, and time it on the real workload."""
    spec, provider = run.recipe.benchmark, PROVIDERS[run.device]
    classifier = CascadeClassifier(run.path / FOLDER, providers=(provider,), threads=torch.get_num_threads())
    logits, exits = answers(classifier, run.evaluation, run.classes)
    np.savez(folder / f"{MEASURED}.npz", logits=logits, exits=exits)
    latency: dict[str, Any] = {"rows": [], "noise_floor": []}
    if spec.workload:
        latency = _time(run, classifier, provider)
    write_json(folder / f"{MEASURED}.json", latency)


def _time(run: Run, classifier: CascadeClassifier, provider: str) -> dict[str, Any]:
    """Time the cascade against the fused full model, on batches of evaluation texts in their real lengths."""
    spec = run.recipe.benchmark
    with fused_file(run, run.teacher_source, FULL_ONNX) as fused:
        opponent = onnx_subject(session(fused, provider=provider, threads=torch.get_num_threads()))
        measured = benchmark(
            {"full": opponent, CASCADE: lambda batch: classifier.run(batch)},
            {CASCADE: "full"},
            dict.fromkeys(("full", CASCADE), provider),
            [Cell(size, WORKLOAD, workload_batches(run.evaluation, size)) for size in spec.batch_sizes],
            **spec.limits,
            every_shape=run.device != "cpu",
            seed=run.recipe.seed,
            track=run.track,
        )
    rows = [
        {**row, "against_p50_ms": full["p50_ms"]}
        for row, full in zip(measured.latency[CASCADE], measured.latency["full"], strict=True)
    ]
    return {"rows": rows, "noise_floor": measured.noise_floor}


def measured_answers(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Return the cascade's logits [N, C] on the evaluation split, and the index of the part that gave each row's [N]."""
    with np.load(run.path / f"{MEASURED}.npz", allow_pickle=False) as file:
        return file["logits"], file["exits"]


def result(run: Run) -> dict[str, Any]:
    """Return the part `cascade` of result.json, the certificate beside what was measured, and the cascade as a variant.

    Its encoder's work is a share of the full model's as the other variants state it: the share that the evaluation rows
    took, at their real lengths.
    """
    if not wanted(run.recipe):
        return {"cascade": None}
    made, latency = read_json(run.path / FITTED), read_json(run.path / f"{MEASURED}.json")
    logits, left = measured_answers(run)
    files = [run.path / FOLDER / name for name in read_json(run.path / FOLDER / FITTED)["parts"]]
    entry = answer_entry(run, logits, evaluation_logits(run)["full"], CASCADE)
    evaluation, flops = measured_work(run, made, left, entry["versus_full"])
    variant = {
        **entry,
        "parameters": stored_parameters(files),
        "encoder_flops": flops,
        "bytes": sum(part.stat().st_size for file in files for part in file.parent.glob(f"{file.name}*")),
        # the opponent is the full model in the same kind of file, whether or not the recipe exports that one
        "latency": [{**row, "against": SPARED} for row in latency["rows"]],
    }
    guarded = {**made, "evaluation": evaluation, "noise_floor": latency["noise_floor"]}
    return {"cascade": guarded, "variants": {CASCADE: variant}}


def measured_work(
    run: Run, made: Mapping[str, Any], left: np.ndarray, versus: Mapping[str, Any]
) -> tuple[dict[str, Any], int]:
    """Return what result.json says of early exits on the evaluation rows, and the encoder's operations they took.

    `made` is what was fitted (cascade.json of the run), `left` [N] the part that answered each row, `versus` the answers
    against the full model's. `shares` are those of the rows by part, `work` is what they took as a share of the full
    model's; the operations are that share of the full model's as the other variants state them.
    """
    exits = [entry["layer"] for entry in made["exits"]]
    source = run.teacher_source if made["model"] == "full" else run.compressed_source
    plain, place = work_of(run, source), (left, np.arange(len(left)))
    operations = plain.costs(exits, run.evaluation.lengths)[place]
    spent = replace(plain, speed=made["speed"], exit_work=made["exit_work"]).costs(exits, run.evaluation.lengths)[place]
    whole = full_work(run, run.evaluation)
    work = float(spent.sum() / whole.sum())
    evaluation = {
        **{key: versus[key] for key in ("rows", "flips", "flip_rate")},
        "flip_ci95": share_interval(versus["flips"], versus["rows"]),
        "shares": [float((left == part).mean()) for part in range(len(exits) + 1)],
        "work": work,
        "compute_ratio": 1 / work,
        "compute_ratio_ci95": list(ratio_interval(whole, spent, run.recipe.seed)),
    }
    return evaluation, round(float(operations.sum() / whole.sum()) * variant_flops(run, SPARED, ()))


def ratio_interval(whole: np.ndarray, spent: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over rows (2,000 draws) of sum(whole) / sum(spent), both [N] by row."""
    generator, ratios = np.random.default_rng(seed), np.empty(DRAWS)
    for draw in range(DRAWS):
        rows = generator.integers(len(whole), size=len(whole))
        ratios[draw] = whole[rows].sum() / spent[rows].sum()
    return percentile_interval(ratios)


def stored_parameters(files: list[Path]) -> int:
    """Return the weights that the parts hold; those of the layer behind an exit are there twice."""
    weights = [
        weight
        for file in files
        for weight in onnx.load(str(file), load_external_data=False).graph.initializer
        if weight.data_type in FLOATS or (weight.data_type in BYTES and len(weight.dims) > 1)
    ]
    return sum(int(np.prod(weight.dims)) for weight in weights)


def cost(run: Run) -> str:
    """Return the expected work."""
    timing = run.recipe.benchmark
    return f"{len(run.data.evaluation)} evaluation rows, {len(timing.batch_sizes) * timing.workload} cells"


def seconds(run: Run) -> tuple[float, float]:
    """Return the least and the most seconds that the cells take."""
    timing = run.recipe.benchmark
    cells = len(timing.batch_sizes) * timing.workload
    return cells * timing.min_seconds, cells * timing.max_seconds


STAGE = Stage(
    "cascade-evaluation",
    (f"{MEASURED}.npz", f"{MEASURED}.json"),
    ("cascade", "predictions"),
    latency_inputs,
    compute,
    cost,
    wanted,
    result,
    seconds=seconds,
    shared=never,
)
