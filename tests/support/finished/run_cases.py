"""Run directories made by hand."""

import json

import numpy as np

from compressor.measurement.predictions import fingerprint

GOLD = [0, 0, 0, 0, 1, 1, 1, 1]
FIRST = [0, 0, 0, 1, 1, 1, 1, 0]  # 6 of 8 right
SECOND = [0, 0, 1, 0, 1, 1, 1, 1]  # 7 of 8: row 2 lost, rows 3 and 7 gained
GRID = ((1, 32), (8, 32), (1, "workload"))


def logits_of(predicted, classes=2):
    return np.eye(classes, dtype=np.float32)[np.asarray(predicted)]


def latency_row(batch, length, p50, **changes):
    return {
        "batch": batch, "length": length, "provider": "PyTorch CPU", "p50_ms": p50, "p90_ms": p50, "p99_ms": p50, "runs": 100,
        "speedup": 1.2, "speedup_ci95": [1.1, 1.3], "against": "full", "claimed": True, "complete": True, **changes,
    }  # fmt: skip


def make_run(
    folder, predicted=FIRST, *, full=GOLD, gold=GOLD, keep_labels=True, sha="ab" * 32, names=("negative", "positive"),
    cells=GRID, skip=(5,), layers=6, name="made", device="EPYC", threads=2, latency=None,
):  # fmt: skip
    """Write result.json and predictions.npz of a run whose models predict `full` and `predicted`; return the folder."""
    folder.mkdir(parents=True)
    logits = {"full": logits_of(full, len(names)), "compressed": logits_of(predicted, len(names))}
    logits["onnx_int8"] = logits["compressed"]
    flips = int((np.asarray(full) != np.asarray(predicted)).sum())
    variants = {}
    for variant, values in logits.items():
        right = None if gold is None else float((values.argmax(1) == np.asarray(gold)).mean())
        versus = {"agreement": 1 - flips / len(full), "flips": flips, "tier": "lossy"}
        variants[variant] = {
            "accuracy": right, "accuracy_ci95": None if gold is None else [right - 0.1, right + 0.1],
            "parameters": 20_900_000, "encoder_flops": 2_390_000_000, "bytes": 83_800_000,
            "predictions_sha256": fingerprint(values), "versus_full": None if variant == "full" else versus,
            "latency": latency or [latency_row(batch, length, 10.0 + batch) for batch, length in cells],
        }  # fmt: skip
    result = {
        "schema": 1, "name": name, "recipe": {}, "environment": {"device": {"kind": "cpu", "name": device}},
        "data": {"task": "sst2", "splits": {"evaluation": {"rows": len(full), "sha256": sha}}, "label_names": list(names)},
        "layers": [], "plan": {"skip": list(skip), "layers": layers}, "variants": variants, "stages": [],
        "benchmark": {"threads": threads},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    labels = {} if gold is None or not keep_labels else {"labels": np.asarray(gold, dtype=np.int64)}
    np.savez(folder / "predictions.npz", **logits, **labels)
    return folder


def change_result(folder, change):
    result = json.loads((folder / "result.json").read_text())
    change(result)
    (folder / "result.json").write_text(json.dumps(result))
