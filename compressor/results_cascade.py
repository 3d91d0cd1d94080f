"""What result.json says of the guarded early exit: its variant, and the certificate beside what was measured."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from compressor.measurement.predictions import fingerprint
from compressor.measurement.statistics import compare, metrics, share_interval
from compressor.model.load import find_model
from compressor.run import Run
from compressor.rundir import read_json
from compressor.stages_cascade import FITTED, FOLDER, MEASURED, full_work, work_of

DRAWS = 2000
FLOATS = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE


def cascade_result(run: Run, full: np.ndarray, full_flops: int) -> tuple[dict[str, Any], dict[str, Any], np.ndarray]:
    """Return the variant, the part `cascade` of result.json, and the cascade's logits [N, C] on the evaluation split.

    `full` are the full model's logits there, `full_flops` its encoder's work as the other variants state it: the
    cascade's is the share of the full model's work that the evaluation rows took, at their real lengths, of that.
    """
    made, latency = read_json(run.path / FITTED), read_json(run.path / f"{MEASURED}.json")
    with np.load(run.path / f"{MEASURED}.npz", allow_pickle=False) as file:
        logits, left = file["logits"], file["exits"]
    exits = [entry["layer"] for entry in made["exits"]]
    source = run.teacher_source if made["model"] == "full" else find_model(str(run.path / "model"))
    spent = work_of(run, source).costs(exits, run.evaluation.lengths)[left, np.arange(len(left))]
    whole = full_work(run, run.evaluation)
    labels, seed = run.data.evaluation.labels, run.recipe.seed
    measured = asdict(metrics(logits, labels)) if labels is not None else {}
    versus = compare(full, logits, labels, seed=seed)
    work = float(spent.sum() / whole.sum())
    low, high = ratio_interval(whole, spent, seed)
    files = [run.path / FOLDER / name for name in read_json(run.path / FOLDER / FITTED)["parts"]]
    variant = {
        **{key: measured.get(key) for key in ("accuracy", "accuracy_ci95", "f1", "mcc")},
        "parameters": stored_parameters(files),
        "encoder_flops": round(work * full_flops),
        "bytes": sum(part.stat().st_size for file in files for part in file.parent.glob(f"{file.name}*")),
        "predictions_sha256": fingerprint(logits),
        "versus_full": asdict(versus),
        # the opponent is the full model in the same kind of file, whether or not the recipe exports that one
        "latency": [{**row, "against": "full_onnx_optimized"} for row in latency["rows"]],
    }
    evaluation = {
        "rows": versus.rows,
        "flips": versus.flips,
        "flip_rate": versus.flip_rate,
        "flip_ci95": share_interval(versus.flips, versus.rows),
        "shares": [float((left == part).mean()) for part in range(len(exits) + 1)],
        "work": work,
        "compute_ratio": 1 / work,
        "compute_ratio_ci95": [low, high],
    }
    return variant, {**made, "evaluation": evaluation, "noise_floor": latency["noise_floor"]}, logits


def ratio_interval(whole: np.ndarray, spent: np.ndarray, seed: int) -> tuple[float, float]:
    """Return the 95 % bootstrap interval over rows (2,000 draws) of sum(whole) / sum(spent), both [N] by row."""
    generator, ratios = np.random.default_rng(seed), np.empty(DRAWS)
    for draw in range(DRAWS):
        rows = generator.integers(len(whole), size=len(whole))
        ratios[draw] = whole[rows].sum() / spent[rows].sum()
    low, high = np.quantile(ratios, [0.025, 0.975])
    return float(low), float(high)


def stored_parameters(files: list[Path]) -> int:
    """Return the floating-point numbers that the parts hold; those of the layer behind an exit are there twice."""
    weights = [
        weight
        for file in files
        for weight in onnx.load(str(file), load_external_data=False).graph.initializer
        if weight.data_type in FLOATS
    ]
    return sum(int(np.prod(weight.dims)) for weight in weights)
