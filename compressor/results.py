"""result.json: everything a run measured, put together from the files of its stages."""

from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from compressor.export.onnx import STOCK
from compressor.export.optimize import fused_nodes
from compressor.measurement.cost import FLOPS_TOKENS, cls_row_flops, predicted_speedup, shape_flops, weight_bytes
from compressor.measurement.prediction import prediction_errors
from compressor.measurement.predictions import fingerprint, flipped_examples
from compressor.measurement.statistics import compare, metrics
from compressor.model.sublayers import any_shape
from compressor.model.units import Unit, lost_parts, shape_left
from compressor.recipe import GoalsSpec
from compressor.report.formats import is_full
from compressor.results_cascade import cascade_result
from compressor.run import TAIL, Run, measures_tail
from compressor.rundir import StageRecord, read_json
from compressor.selection.goals import accuracy_misses
from compressor.stages import EXPLAINED, FULL_ONNX, LABELS, PREDICTIONS
from compressor.stages_analysis import FOLDER as ANALYSIS
from compressor.stages_cascade import CASCADE
from compressor.stages_shipping import SHIPPED

PROTOCOL = (
    "Rounds interleave all models in an order drawn anew; speed-up is the ratio of medians (of means on the real "
    "workload, where batches differ) with a 95 % bootstrap interval "
    "over rounds, against the full model in the same format; the noise floor is that full model against itself."
)


def build_result(run: Run, records: list[StageRecord]) -> dict[str, Any]:
    """Return the content of result.json (schema 1) from the files that the stages wrote."""
    names = "scores", "plan", "timing", "latency"
    scores, plan, timing, latency = (read_json(run.path / f"{name}.json") for name in names)
    with np.load(run.path / PREDICTIONS, allow_pickle=False) as file:
        logits = {name: file[name] for name in file.files if name != LABELS}
    data, labels, made = run.data, run.data.evaluation.labels, read_json(run.path / "model.json")
    variants = {name: _variant(run, name, logits, plan, latency["rows"].get(name, [])) for name in logits}
    guarded = None
    if run.recipe.cascade is not None:
        variants[CASCADE], guarded, logits[CASCADE] = cascade_result(
            run, logits["full"], _flops(run, "full_onnx_optimized", ())
        )
    shipped = read_json(run.path / SHIPPED) if run.recipe.export.variants == "auto" else None
    signed = {CASCADE, f"onnx_{shipped['variant']}"} if shipped else set()
    operators = operators_of(read_json(run.path / "onnx.json"))
    compared = {name: rows for name, rows in latency["rows"].items() if not is_full(name)}
    return {
        "schema": 1,
        "name": run.recipe.name,
        "recipe": run.recipe.model_dump(mode="json"),
        "environment": latency["environment"],
        "data": {
            "task": data.name,
            "splits": {
                name: {"rows": len(split), "sha256": split.sha256}
                for name in ("train", "calibration", "selection", "evaluation", "guard")
                for split in [getattr(data, name)]
                if split is not None
            },
            "removed_overlaps": data.removed_overlaps,
            "label_names": data.label_names,
        },
        "layers": scores["layers"],
        "scores": {key: scores[key] for key in ("score", "labels", "rows", "sample_rows")},
        "plan": plan,
        **{key: made.get(key) for key in ("blocks", "refit", "distill", "head")},
        "cascade": guarded,
        "variants": variants,
        "flipped": flipped_examples(
            logits["full"], logits["compressed"], labels, data.evaluation.texts, data.evaluation.ids, data.label_names
        ),
        # predictions kept from an earlier version have no account beside them
        "explain": read_json(run.path / EXPLAINED) if (run.path / EXPLAINED).is_file() else [],
        "benchmark": {
            "noise_floor": latency["noise_floor"],
            "footprint": latency.get("footprint"),  # a run of an earlier version has none
            "threads": latency["threads"],
            "providers": latency["providers"],
            "protocol": PROTOCOL,
            "flops_tokens": FLOPS_TOKENS,
        },
        "parity": read_json(run.path / "parity.json"),
        "operators": operators,
        "fused_nodes": {name: fused for name, counts in operators.items() if (fused := fused_nodes(counts))},
        "tail": read_json(run.path / TAIL) if measures_tail(run.recipe) else {"form": run.tail},
        "shipped": shipped,
        "audit": read_json(run.path / "audit.json") if run.recipe.selection.audit else None,
        "timing": timing,
        "prediction": prediction_errors(timing["cells"], lost_parts(plan["units"]), compared),
        "analysis": {name: read_json(run.path / ANALYSIS / f"{name}.json") for name in run.recipe.analysis},
        "goals": judge_goals(
            run.recipe.goals,
            logits,
            labels,
            # the file to ship was named without the evaluation split, so no other may be signed off by it
            {name: entry for name, entry in variants.items() if shipped is None or name in signed},
            run.recipe.seed,
            with_speed(plan["goals"], timing),
            unskipped=(CASCADE,) if guarded and guarded["model"] == "full" else (),
        ),
        "stages": [asdict(record) for record in records],
    }


def _variant(
    run: Run, name: str, logits: dict[str, np.ndarray], plan: dict[str, Any], latency: list[dict]
) -> dict[str, Any]:
    """Return the entry of one variant: a PyTorch model or an ONNX file, full or compressed."""
    full, labels = is_full(name), run.data.evaluation.labels
    measured = asdict(metrics(logits[name], labels)) if labels is not None else {}
    directory = run.teacher_source.path if full else run.path / "model"
    if "onnx" in name:
        directory = run.path / (FULL_ONNX if full else "onnx") / name.rpartition("_")[2]
    parameters = read_json(run.path / "model.json")["parameters"]["full" if full else "compressed"]
    size = weight_bytes(directory)
    if name == "full":
        size = max(size, 4 * parameters)  # as it runs here, in float32, even if it was stored in fewer bits
    versus = None if name == "full" else compare(logits["full"], logits[name], labels, seed=run.recipe.seed)
    return {
        **{key: measured.get(key) for key in ("accuracy", "accuracy_ci95", "f1", "mcc")},
        "parameters": parameters,
        "encoder_flops": _flops(run, name, () if full else plan["units"]),
        "bytes": size,
        "predictions_sha256": fingerprint(logits[name]),
        "versus_full": asdict(versus) if versus else None,
        "latency": latency,
    }


def _flops(run: Run, name: str, units: Sequence[Unit]) -> int:
    """Return the encoder FLOPs of a variant without `units`; the last layer counts for one row where it has a tail."""
    config, family = run.source.config, run.family
    hidden = config[family.width_key]
    shape = shape_left(units, any_shape(config))
    if "onnx" not in name or name.rpartition("_")[2] in STOCK or run.tail is None:
        return shape_flops(shape.ffn_widths, shape.attention, hidden)
    attends, heads = shape.attention[-1], config[family.heads_key]
    tail = cls_row_flops(hidden, shape.ffn_widths[-1], heads, form=run.tail, attention=attends)
    return shape_flops(shape.ffn_widths[:-1], shape.attention[:-1], hidden) + tail


def operators_of(files: dict[str, dict[str, dict[str, int]]]) -> dict[str, dict[str, int]]:
    """Return the nodes by kind of the exporter's graph (`exported`) and of each file made from it."""
    if not files:
        return {}
    first = next(iter(files.values()))
    return {"exported": first["exported"], **{name: entry["operators"] for name, entry in files.items()}}


def with_speed(choice: dict[str, Any] | None, timing: dict[str, Any]) -> dict[str, Any] | None:
    """Return the choice of `layers: auto` with the predicted speed-up of every candidate, that of the slowest cell."""
    if choice is None:
        return None

    def speed(size: int) -> float | None:
        return min((predicted_speedup(cell, size) for cell in timing["cells"]), default=None)

    candidates = [{**entry, "predicted_speedup": speed(entry["size"])} for entry in choice["candidates"]]
    return {**choice, "candidates": candidates}


def judge_goals(
    goals: GoalsSpec | None,
    logits: dict[str, np.ndarray],
    labels: np.ndarray | None,
    variants: dict[str, dict],
    seed: int,
    selection: dict[str, Any] | None = None,
    unskipped: Collection[str] = (),
) -> dict[str, Any]:
    """Return whether one compressed variant meets all goals, which one, and what the nearest misses.

    `met` is None where the recipe names no goals. A speed-up counts as 1 in a cell where it may not be claimed. With
    `selection`, the choice of `layers: auto`, the goals must also have been met there: a model that was chosen as the
    nearest miss is not signed off because the evaluation rows happen to be kind. That says nothing against `unskipped`,
    the variants that have all layers.
    """
    if goals is None:
        return {"met": None, "variant": None, "misses": [], "selection": None}
    cells = {_cell(row) for variant in variants.values() for row in variant["latency"]}
    misses: dict[str, list[str]] = {}
    for name, variant in variants.items():
        if is_full(name):
            continue
        own = _misses(goals, logits["full"], logits[name], labels, variant["latency"], cells, seed)
        misses[name] = [f"{name}: {miss}" for miss in own]
        if selection and not selection["met"] and name not in unskipped:
            first = "; ".join(selection["candidates"][0]["misses"])
            misses[name].insert(0, f"no set of layers meets the goals on the selection split; nearest: {first}.")
    nearest = min(misses, key=lambda name: len(misses[name]))
    found = misses[nearest]
    return {"met": not found, "variant": nearest, "misses": found, "selection": selection}


def _misses(
    goals: GoalsSpec,
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    latency: list[dict],
    cells: Collection[tuple],
    seed: int,
) -> list[str]:
    versus = compare(full, other, labels, confidence=goals.confidence, seed=seed)
    found = accuracy_misses(goals, versus)
    # A speed goal holds in every cell. A cascade is not timed on random token ids, of which its exits know nothing: it
    # could pass on real lengths alone where the others must also pass at the fixed ones, so what is missing counts.
    untimed = len(set(cells) - {_cell(row) for row in latency})
    if latency and untimed:
        found += [
            f"{goal}: {untimed} of {len(set(cells))} cells are of fixed lengths, where a cascade is not timed; with "
            "benchmark.lengths: [] every file is judged on real lengths."
            for goal in ("min_speedup", "max_p95_ms")
            if getattr(goals, goal) is not None
        ]
    if goals.min_speedup is not None:
        slowest = min((row["speedup"] if row["claimed"] else 1.0 for row in latency), default=None)
        if slowest is None or slowest < goals.min_speedup:
            got = "no latency was measured" if slowest is None else f"{slowest:.2f}x may be claimed in the slowest cell"
            found.append(f"min_speedup: {got}, wanted is {goals.min_speedup:.2f}x.")
    if goals.max_p95_ms is not None:
        slowest = max((row["p95_ms"] for row in latency), default=None)
        if slowest is None or slowest > goals.max_p95_ms:
            got = "no latency was measured" if slowest is None else f"{slowest:.2f} ms in the slowest cell"
            found.append(f"max_p95_ms: {got}, allowed are {goals.max_p95_ms:.2f} ms.")
    return found


def _cell(row: dict[str, Any]) -> tuple[int, int | str]:
    return row["batch"], row["length"]
