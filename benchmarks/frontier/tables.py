"""Pool the five tasks of glue_frontier.py and write its tables; intervals resample evaluation rows within each task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import markdown
from compressor.selection.audit import DAMAGES, rank_correlation

DRAWS = 2000
MODES = "stock", "head"
Key = tuple[str, int, str]
"""(method, skipped layers, mode)"""


def row_scores(
    chosen: Mapping[tuple[str, int, int], tuple[int, ...]],
    logits: Mapping[tuple[tuple[int, ...], int | None], np.ndarray],
    full: np.ndarray,
    labels: np.ndarray,
    seeds: Sequence[int],
) -> dict[Key, np.ndarray]:
    """Return for each method, size and mode the mean over seeds of (flipped, change of right) of every row, [2, N]."""
    target, rows = full.argmax(1), {}
    for method, size in dict.fromkeys((method, size) for method, size, _ in chosen):
        for mode in MODES:
            predicted = [
                logits[chosen[method, size, seed], seed if mode == "head" else None].argmax(1) for seed in seeds
            ]
            changed = np.mean([label != target for label in predicted], axis=0)
            better = np.mean([(label == labels) * 1.0 - (target == labels) for label in predicted], axis=0)
            rows[method, size, mode] = np.stack([changed, better])
    return rows


def pool(tasks: Mapping[str, Mapping[str, Any]], methods: Sequence[str], sizes: Sequence[int]) -> dict[str, Any]:
    """Return the averages over tasks with 95 % intervals, the differences to separability, and the pooled audit."""
    keys = [(method, size, mode) for method in methods for size in sizes for mode in MODES]
    generator = np.random.default_rng(0)
    means, draws = [], []
    for measured in tasks.values():
        values = np.stack([measured["row_scores"][key] for key in keys])  # [keys, 2, N]
        count = values.shape[2]
        weights = generator.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
        means.append(values.mean(axis=2))
        draws.append(np.einsum("dn,kvn->dkv", weights, values, optimize=True))
    mean, drawn = np.mean(means, axis=0), np.mean(draws, axis=0)
    place = {key: index for index, key in enumerate(keys)}
    points = []
    for (method, size, mode), index in place.items():
        entry: dict[str, Any] = {"method": method, "size": size, "mode": mode}
        for column, name in enumerate(("flips", "accuracy_delta")):
            entry[name] = _estimate(mean[index, column], drawn[:, index, column])
            for rival in ("separability", "exhaustive"):
                other = place[rival, size, mode]
                gap = mean[index, column] - mean[other, column], drawn[:, index, column] - drawn[:, other, column]
                entry[f"{name}_less_{rival}"] = _estimate(*gap)
        points.append(entry)
    return {"points": points, "audit": pool_audits([measured["audit"] for measured in tasks.values()])}


def _estimate(value: float, draws: np.ndarray) -> dict[str, Any]:
    return {"value": float(value), "ci95": np.quantile(draws, [0.025, 0.975]).tolist()}


def pool_audits(audits: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return by score: mean rank correlation over tasks (interval: layers or blocks resampled within each task), hits, regret."""
    pooled = []
    for name in audits[0]["scores"]:
        entry: dict[str, Any] = {"score": name}
        for units in ("layers", "blocks"):
            for kind in (*DAMAGES, *(f"raw_{kind}" for kind in DAMAGES)):
                entry[f"rho_{units}_{kind}"] = _pooled_rho(audits, name, units, kind)
        hits = [next(hit for hit in audit["hits"] if hit["score"] == name) for audit in audits]
        entry["top1"], entry["top3"] = (sum(hit[key] for hit in hits) for key in ("top1", "top3"))
        entry["regret"] = float(np.mean([_regret(audit, name) for audit in audits]))
        pooled.append(entry)
    return pooled


def _pooled_rho(audits: Sequence[Mapping[str, Any]], name: str, units: str, kind: str) -> dict[str, Any] | None:
    """Return the mean rank correlation over the tasks where it is defined; None where it is nowhere."""
    generator, whole, draws = np.random.default_rng(0), [], []
    for audit in audits:
        rows = [row for row in audit["damage"] if units == "blocks" or len(row["skip"]) == 1]
        predicted = np.array([row["predicted"][name] for row in rows])
        measured = np.array([row[kind] for row in rows], dtype=float)
        picks = generator.integers(len(rows), size=(DRAWS, len(rows)))
        rho = rank_correlation(predicted[None], measured[None])[0]
        if not np.isnan(rho):
            whole.append(rho)
            draws.append(rank_correlation(predicted[picks], measured[picks]))
    if not whole:
        return None
    interval = np.nanquantile(np.nanmean(draws, axis=0), [0.025, 0.975]).tolist()
    return {"value": float(np.mean(whole)), "ci95": interval, "tasks": len(whole)}


def _regret(audit: Mapping[str, Any], name: str) -> float:
    points = [point for point in audit["frontier"] if point["series"] == name and point["size"]]
    return float(np.mean([point["regret"]["agreement"] for point in points]))


def write(results: Mapping[str, Any]) -> None:
    """Write every table that the results have figures for."""
    if results.get("pooled"):
        points = results["pooled"]["points"]
        sizes, methods = results["settings"]["sizes"], results["settings"]["methods"]
        by_key = {(point["method"], point["size"], point["mode"]): point for point in points}
        markdown.put("frontier_flips", _grid(by_key, methods, sizes, lambda point: _share(point["flips"])))
        markdown.put("frontier_delta", _grid(by_key, methods, sizes, lambda point: _points(point["accuracy_delta"])))
        gap = lambda point: _points(point["flips_less_separability"])  # noqa: E731
        markdown.put("frontier_gap", _grid(by_key, [m for m in methods if m != "separability"], sizes, gap, ("head",)))
        lag = lambda point: _points(point["flips_less_exhaustive"])  # noqa: E731
        markdown.put("frontier_lag", _grid(by_key, [m for m in methods if m != "exhaustive"], sizes, lag, ("head",)))
        markdown.put("frontier_audit", _audit_table(results["pooled"]["audit"]))
        markdown.put("frontier_audit_tasks", _audit_task_table(results["tasks"]))
        markdown.put("frontier_tasks", _task_table(results["tasks"]))


def _grid(by_key: Mapping[Key, Any], methods: Sequence[str], sizes: Sequence[int], cell, modes=MODES[::-1]) -> str:  # noqa: ANN001
    rows = [
        [method.replace("_", " "), *(cell(by_key[method, size, mode]) for size in sizes)]
        if len(modes) == 1
        else [f"{method.replace('_', ' ')}, {mode}", *(cell(by_key[method, size, mode]) for size in sizes)]
        for mode in modes
        for method in methods
    ]
    return markdown.table(["sets chosen by", *(f"{size} skipped" for size in sizes)], rows)


def _share(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _points(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["ci95"]
    return f"{100 * estimate['value']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _rho(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return "none"
    low, high = estimate["ci95"]
    return f"{estimate['value']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _audit_table(pooled: Sequence[Mapping[str, Any]]) -> str:
    units = {"layers": "layers", "blocks": "blocks"}
    kinds = {"kl": "KL", "flips": "flips", "accuracy_lost": "accuracy lost"}
    columns = ["score", *(f"{unit}, {kind}" for unit in units.values() for kind in kinds.values())]
    columns += ["first pick is best", "best among first 3", "mean regret, points"]
    rows = [
        [entry["score"].replace("_", " ")]
        + [_rho(entry[f"rho_{unit}_{kind}"]) for unit in units for kind in kinds]
        + [f"{entry['top1']} of 5", f"{entry['top3']} of 5", f"{100 * entry['regret']:.1f}"]
        for entry in sorted(pooled, key=lambda entry: entry["regret"])
    ]
    return markdown.table(columns, rows)


def _audit_task_table(tasks: Mapping[str, Any]) -> str:
    rows = []
    for name in next(iter(tasks.values()))["audit"]["scores"]:
        cells = [name.replace("_", " ")]
        for measured in tasks.values():
            key = name, "layers", "kl", True
            rho = next(
                row for row in measured["audit"]["correlations"]
                if (row["score"], row["units"], row["damage"], row["readout"]) == key
            )  # fmt: skip
            first = next(hit["order"][0] for hit in measured["audit"]["hits"] if hit["score"] == name)
            said = "none" if rho["rho"] is None else f"{rho['rho']:+.2f} [{rho['ci95'][0]:+.2f}, {rho['ci95'][1]:+.2f}]"
            cells.append(f"{said}, layer {first}, {100 * _regret(measured['audit'], name):.1f}")
        rows.append(cells)
    best = [str(measured["audit"]["hits"][0]["best"]) for measured in tasks.values()]
    rows.append(["least damaging layer", *best])
    return markdown.table(["score", *tasks], rows)


def _task_table(tasks: Mapping[str, Any]) -> str:
    rows = []
    for task, measured in tasks.items():
        count = measured["evaluation_rows"]
        for size in (1, 2, 3, 4):
            points = [point for point in measured["points"] if (point["method"], point["size"]) == ("exhaustive", size)]
            cells = [task, str(count), f"{measured['accuracy']:.1%}", ", ".join(map(str, points[0]["skip"]))]
            for mode in MODES:
                mine = [point for point in points if point["mode"] == mode]
                flips = [100 * point["flips"] / count for point in mine]
                delta = [100 * (point["gained"] - point["lost"]) / count for point in mine]
                cells += [f"{np.mean(flips):.1f} %", f"{np.mean(delta):+.1f}"]
            cells.append(f"{min(delta):+.1f} to {max(delta):+.1f}")
            rows.append(cells)
    columns = [
        "task",
        "rows",
        "accuracy, full",
        "skipped",
        "flips, stock",
        "delta, stock",
        "flips, head",
        "delta, head",
    ]
    return markdown.table([*columns, "delta over 3 head seeds"], rows)
