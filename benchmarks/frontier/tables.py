"""Pool the five tasks of glue_frontier.py and write its tables; intervals resample evaluation rows within each task."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import markdown

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
    """Return the averages over tasks with 95 % intervals, and the differences to separability."""
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
    return {"points": points}


def _estimate(value: float, draws: np.ndarray) -> dict[str, Any]:
    return {"value": float(value), "ci95": np.quantile(draws, [0.025, 0.975]).tolist()}


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
    return markdown.share(estimate["value"], *estimate["ci95"])


def _points(estimate: Mapping[str, Any]) -> str:
    return markdown.points(estimate["value"], *estimate["ci95"])


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
