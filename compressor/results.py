"""result.json: everything a run measured, put together from the files of its stages."""

from dataclasses import asdict
from typing import Any

import numpy as np

from compressor.measurement.cost import FLOPS_TOKENS, encoder_flops, weight_bytes
from compressor.measurement.predictions import fingerprint, flipped_examples
from compressor.measurement.statistics import compare, metrics
from compressor.recipe import GoalsSpec
from compressor.run import Run
from compressor.rundir import StageRecord, read_json
from compressor.stages import FULL_ONNX

PROTOCOL = (
    "Rounds interleave all models in an order drawn anew; speed-up is the ratio of medians with a 95 % bootstrap interval "
    "over rounds, against the full model in the same format; the noise floor is the full model against itself."
)


def build_result(run: Run, records: list[StageRecord]) -> dict[str, Any]:
    """Return the content of result.json (schema 1) from the files that the stages wrote."""
    scores, plan, latency = (read_json(run.path / f"{name}.json") for name in ("scores", "plan", "latency"))
    with np.load(run.path / "predictions.npz", allow_pickle=False) as file:
        logits = {name: file[name] for name in file.files}
    data, labels = run.data, run.data.evaluation.labels
    variants = {name: _variant(run, name, logits, plan, latency["rows"].get(name, [])) for name in logits}
    return {
        "schema": 1,
        "name": run.recipe.name,
        "recipe": run.recipe.model_dump(mode="json"),
        "environment": latency["environment"],
        "data": {
            "task": data.name,
            "splits": {
                name: {"rows": len(split), "sha256": split.sha256}
                for name in ("train", "calibration", "selection", "evaluation")
                for split in [getattr(data, name)]
            },
            "removed_overlaps": data.removed_overlaps,
            "label_names": data.label_names,
        },
        "layers": scores["layers"],
        "scores": {key: scores[key] for key in ("score", "labels", "rows", "sample_rows")},
        "plan": plan,
        "head": read_json(run.path / "model.json")["head"],
        "variants": variants,
        "flipped": flipped_examples(
            logits["full"], logits["compressed"], labels, data.evaluation.texts, data.evaluation.ids, data.label_names
        ),
        "benchmark": {
            "noise_floor": latency["noise_floor"],
            "threads": latency["threads"],
            "providers": latency["providers"],
            "protocol": PROTOCOL,
            "flops_tokens": FLOPS_TOKENS,
        },
        "parity": read_json(run.path / "parity.json"),
        "fused_nodes": {name: fused for name, fused in read_json(run.path / "onnx.json").items() if fused},
        "analysis": {},
        "goals": judge_goals(run.recipe.goals, logits, labels, variants, run.recipe.seed),
        "stages": [asdict(record) for record in records],
    }


def _variant(
    run: Run, name: str, logits: dict[str, np.ndarray], plan: dict[str, Any], latency: list[dict]
) -> dict[str, Any]:
    """Return the entry of one variant: a PyTorch model or an ONNX file, full or compressed."""
    full, labels = name.startswith("full"), run.data.evaluation.labels
    measured = asdict(metrics(logits[name], labels)) if labels is not None else {}
    directory = run.teacher_source.path if full else run.path / "model"
    if "onnx" in name:
        directory = run.path / (FULL_ONNX if full else "onnx") / name.rpartition("_")[2]
    config = run.source.config
    width, ffn = config.get("hidden_size") or config["dim"], config.get(run.family.ffn_key)
    parameters = read_json(run.path / "model.json")["parameters"]
    versus = None if name == "full" else compare(logits["full"], logits[name], labels, seed=run.recipe.seed)
    return {
        **{key: measured.get(key) for key in ("accuracy", "accuracy_ci95", "f1", "mcc")},
        "parameters": parameters["full" if full else "compressed"],
        "encoder_flops": encoder_flops(plan["layers"] if full else len(plan["keep"]), width, ffn),
        "bytes": weight_bytes(directory),
        "predictions_sha256": fingerprint(logits[name]),
        "versus_full": asdict(versus) if versus else None,
        "latency": latency,
    }


def judge_goals(
    goals: GoalsSpec | None,
    logits: dict[str, np.ndarray],
    labels: np.ndarray | None,
    variants: dict[str, dict],
    seed: int,
) -> dict[str, Any] | None:
    """Return whether the compressed model meets the goals, and a sentence for each that it misses."""
    if goals is None:
        return None
    versus = compare(logits["full"], logits["compressed"], labels, confidence=goals.confidence, seed=seed)
    misses = []
    if goals.max_drop is not None and versus.lower_bound < -goals.max_drop:
        misses.append(
            f"max_drop: at {goals.confidence:.0%} confidence the accuracy may drop by {-versus.lower_bound:.2%}, "
            f"allowed is {goals.max_drop:.2%}."
        )
    if goals.max_flips is not None and versus.flip_rate > goals.max_flips:
        misses.append(
            f"max_flips: {versus.flip_rate:.2%} of the predictions changed ({versus.flips} of {versus.rows}), "
            f"allowed are {goals.max_flips:.2%}."
        )
    if goals.min_speedup is not None:
        name, slowest = best_speedup(variants)
        if slowest is None or slowest < goals.min_speedup:
            got = "no latency was measured" if slowest is None else f"{name} reaches {slowest:.2f}x in its slowest cell"
            misses.append(f"min_speedup: {got}, wanted is {goals.min_speedup:.2f}x.")
    return {"met": not misses, "misses": misses}


def best_speedup(variants: dict[str, dict]) -> tuple[str | None, float | None]:
    """Return the compressed variant whose smallest speed-up over all cells is largest, and that speed-up."""
    smallest = {
        name: min(row["speedup"] for row in variant["latency"])
        for name, variant in variants.items()
        if not name.startswith("full") and variant["latency"]
    }
    name = max(smallest, key=lambda key: smallest[key], default=None)
    return name, None if name is None else smallest[name]
