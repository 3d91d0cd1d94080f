"""The tables of analysis.py, beside the seed paper's figures (BERT-base, its five tasks)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import markdown
from compressor.files import read_json
from compressor.selection.audit import spearman

SEED = {"ratio": ("150x", "50x", "14x", "2x"), "share": "92 %", "high": "60 to 93 %", "margin": "0.39 to 0.72"}
"""Figures of the seed paper: R of layers 1, 4, 8 and 12, mean structural share, confident errors, their margin."""
FRONTIER = "glue_frontier.json"
STAYS = {
    "removed": "nothing",
    "mean_kept": "one mean of all tokens",
    "means_kept": "a mean for [CLS], one for the others",
}


def ffn_table(results: Mapping[str, Any]) -> str:
    """Return R of the [CLS] by layer, corrected, the mean share, and what removing each block costs."""
    entries = {task: entry["ffn"] for task, entry in results["tasks"].items() if "ffn" in entry}
    if "backbone" in results:
        entries["backbone, SST-2 text"] = results["backbone"]["ffn"]
    layers = max(entry["layers"][-1]["layer"] for entry in entries.values())
    columns = ["model", "rows", *(f"layer {layer}" for layer in range(1, layers + 1)), "mean share [95 %]"]
    seed = ["seed paper, BERT-base", "–", f"{SEED['ratio'][0]} (layer 1)", f"{SEED['ratio'][1]} (layer 4)"]
    seed += [*[""] * (layers - 4), f"{SEED['ratio'][2]} (layer 8)", f"{SEED['ratio'][3]} (layer 12)", SEED["share"]]
    lines = []
    for name, entry in entries.items():
        ratios = [_ratio(layer["cls"]["change"], layer["null"]["p_holm"]) for layer in entry["layers"]]
        low, high = entry["mean_share_cls_ci95"]
        share = f"{entry['mean_share_cls']:.1%} [{low:.1%}, {high:.1%}]"
        lines.append([name, f"{entry['rows']:,}", *ratios, share])
    return markdown.table(columns, [*lines, seed])


def removal_table(results: Mapping[str, Any]) -> str:
    """Return the changed predictions when a block is removed, without and with its mean output in its place."""
    entries = {task: entry["ffn"] for task, entry in results["tasks"].items() if "ffn" in entry}
    layers = max(entry["layers"][-1]["layer"] for entry in entries.values())
    columns = ["task", "what stays", *(f"layer {layer}" for layer in range(1, layers + 1)), "points, mean of layers"]
    lines = []
    for task, entry in entries.items():
        for kind in dict.fromkeys(removal["kind"] for layer in entry["layers"] for removal in layer["removal"]):
            removals = [_of_kind(layer["removal"], kind) for layer in entry["layers"]]
            deltas = [removal["accuracy_delta"] for removal in removals]
            mean = f"{100 * np.mean(deltas):+.1f}" if None not in deltas else "–"
            lines.append([task, STAYS[kind], *(f"{removal['flip_rate']:.1%}" for removal in removals), mean])
    return markdown.table(columns, lines)


def errors_table(results: Mapping[str, Any]) -> str:
    """Return the seed's table of confident errors for full and compressed, and how many any layer could have avoided."""
    columns = [
        "task", "model", "errors", "confident (margin > 0.3) [95 %]", "mean margin [95 %]", "ECE", "temperature",
        "ECE after", "no reader fixes", "beyond chance",
    ]  # fmt: skip
    lines = []
    for task, entry in results["tasks"].items():
        for name, model in entry.get("errors", {}).get("models", {}).items():
            recovery = entry["errors"]["recovery"] if name == "full" else None
            every = (
                next((group for group in recovery["groups"] if group["kind"] == "any reader"), None)
                if recovery
                else None
            )
            lines.append([
                task, name, f"{model['errors']:,}", _estimate(model["high_confidence_share"], "{:.0%}"),
                _estimate(model["mean_margin"], "{:.2f}"), f"{model['before']['ece']['value']:.1%}",
                f"{model['temperature']['temperature']:.2f}", f"{model['after']['ece']['value']:.1%}",
                f"{recovery['unfixed_share']:.0%}" if recovery else "–",
                _beyond(every) if every else "–",
            ])  # fmt: skip
    lines.append(["seed paper", "full", "–", SEED["high"], SEED["margin"], *["–"] * 5])
    return markdown.table(columns, lines)


def roles_table(results: Mapping[str, Any]) -> str:
    """Return the role of each layer with its stability; ties are named as such."""
    entries = {task: entry["roles"] for task, entry in results["tasks"].items() if "roles" in entry}
    if "backbone" in results:
        entries["backbone"] = results["backbone"]["roles"]
    layers = max(entry["layers"] for entry in entries.values())
    lines = [
        [name, *(f"{role['role']} ({role['stability']:.0%})" for role in entry["roles"]), str(len(entry["alarms"]))]
        for name, entry in entries.items()
    ]
    return markdown.table(["model", *(f"layer {layer}" for layer in range(1, layers + 1)), "alarms"], lines)


def prediction_table(results: Mapping[str, Any], frontier: Mapping[str, Any]) -> str:
    """Return how well the passthrough score ranks layers by the damage of removal, beside separability; per task, pooled."""
    columns = ["task", "passthrough", "separability gain", "block influence", "top layer first"]
    names = "separability", "block_influence", "top_first"
    lines, pooled = [], {name: [] for name in ("passthrough", *names)}
    for task, entry in results["tasks"].items():
        single = [row for row in frontier["tasks"][task]["audit"]["damage"] if len(row["skip"]) == 1]
        single.sort(key=lambda row: row["skip"][0])
        damage = np.array([row["kl"] for row in single])
        scores = [role["scores"]["passthrough"] for role in entry["roles"]["roles"]]
        predicted = {"passthrough": 1 - np.array(scores)}
        predicted |= {name: np.array([row["predicted"][name] for row in single]) for name in names}
        line = [task]
        for name, values in predicted.items():
            rho, interval = spearman(values, damage)
            pooled[name].append(rho)
            line.append("–" if rho is None else f"{rho:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]")
        lines.append(line)
    lines.append(["mean of the tasks", *(f"{np.mean(values):+.2f}" for values in pooled.values())])
    return markdown.table(columns, lines)


def write(results: Mapping[str, Any]) -> None:
    """Put every table whose figures are there into tables/analysis.md."""
    parts = {part for entry in results["tasks"].values() for part in entry}
    if "ffn" in parts:
        markdown.put("analysis_ffn", ffn_table(results))
        markdown.put("analysis_removal", removal_table(results))
    if "errors" in parts:
        markdown.put("analysis_errors", errors_table(results))
    if "roles" in parts:
        markdown.put("analysis_roles", roles_table(results))
        frontier = read_json(markdown.TABLES.parent / "results" / FRONTIER)
        markdown.put("analysis_prediction", prediction_table(results, frontier))


def _of_kind(removals: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(removal for removal in removals if removal["kind"] == kind)


def _ratio(change: Mapping[str, Any], p: float) -> str:
    ratio = change["ratio_corrected"]
    said = "inf" if ratio is None else f"{ratio:.1f}x"
    return said if p < 0.05 else f"{said} (class part as with shuffled labels)"


def _estimate(estimate: Mapping[str, Any], how: str) -> str:
    if estimate["value"] is None:
        return "–"
    low, high = estimate["ci95"]
    return f"{how.format(estimate['value'])} [{how.format(low)}, {how.format(high)}]"


def _beyond(group: Mapping[str, Any]) -> str:
    return "–" if group["beyond_chance"] is None else f"{group['beyond_chance']:+.0%}"
