"""The tables of analysis.py, beside the seed paper's figures (BERT-base, its five tasks)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import markdown
from compressor.files import read_json
from compressor.selection.audit import spearman

SEED = {
    "ratio": {1: "150x", 4: "50x", 8: "14x", 12: "2x"},
    "share": "92 %",
    "high": "60 to 93 %",
    "margin": "0.39 to 0.72",
}
"""Figures of the seed paper: R by layer, mean structural share, confident errors, their margin."""
SEED_LAYERS = 12
AUDITS, FRONTIER = "audits.json", "glue_frontier.json"
STAYS = {
    "removed": "nothing",
    "mean_kept": "one mean of all tokens",
    "means_kept": "a mean for [CLS], one for the others",
}


def ffn_table(entries: Mapping[str, Any]) -> str:
    """Return R of the [CLS] by layer, corrected, and the mean share; beside twelve layers what the seed paper has."""
    layers = max(entry["layers"][-1]["layer"] for entry in entries.values())
    columns = ["model", "rows", *(f"layer {layer}" for layer in range(1, layers + 1)), "mean share [95 %]"]
    lines = []
    for name, entry in entries.items():
        ratios = [_ratio(layer["cls"]["change"], layer["null"]["p_holm"]) for layer in entry["layers"]]
        low, high = entry["mean_share_cls_ci95"]
        share = f"{entry['mean_share_cls']:.1%} [{low:.1%}, {high:.1%}]"
        lines.append([name, f"{entry['rows']:,}", *ratios, share])
    if layers == SEED_LAYERS:
        ratios = [SEED["ratio"].get(layer, "") for layer in range(1, layers + 1)]
        lines.append(["seed paper, BERT-base", "–", *ratios, SEED["share"]])
    return markdown.table(columns, lines)


def removal_table(entries: Mapping[str, Any]) -> str:
    """Return the changed predictions when a block is removed, without and with its mean output in its place."""
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


def errors_table(entries: Mapping[str, Any]) -> str:
    """Return the seed's table of confident errors for full and compressed, and how many any layer could have avoided."""
    columns = [
        "task", "model", "errors", "confident (margin > 0.3) [95 %]", "mean margin [95 %]", "ECE", "temperature",
        "ECE after", "no reader fixes", "beyond chance",
    ]  # fmt: skip
    lines = []
    for task, entry in entries.items():
        for name, model in entry["models"].items():
            recovery = entry["recovery"] if name == "full" else None
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


def roles_table(entries: Mapping[str, Any]) -> str:
    """Return the role of each layer with its stability; ties are named as such."""
    layers = max(entry["layers"] for entry in entries.values())
    lines = [
        [name, *(f"{role['role']} ({role['stability']:.0%})" for role in entry["roles"]), str(len(entry["alarms"]))]
        for name, entry in entries.items()
    ]
    return markdown.table(["model", *(f"layer {layer}" for layer in range(1, layers + 1)), "alarms"], lines)


def prediction_table(entries: Mapping[str, Any], audits: Mapping[str, Any]) -> str:
    """Return how well the passthrough score ranks layers by the damage of removal, beside separability; each, and the mean."""
    columns = ["task", "passthrough", "separability gain", "block influence", "top layer first"]
    names = "separability", "block_influence", "top_first"
    lines, pooled = [], {name: [] for name in ("passthrough", *names)}
    for task, entry in entries.items():
        single = [row for row in audits[task]["damage"] if len(row["skip"]) == 1]
        single.sort(key=lambda row: row["skip"][0])
        damage = np.array([row["kl"] for row in single])
        scores = [role["scores"]["passthrough"] for role in entry["roles"]]
        predicted = {"passthrough": 1 - np.array(scores)}
        predicted |= {name: np.array([row["predicted"][name] for row in single]) for name in names}
        line = [task]
        for name, values in predicted.items():
            rho, interval = spearman(values, damage)
            pooled[name].append(rho)
            line.append("–" if rho is None else f"{rho:+.2f} [{interval[0]:+.2f}, {interval[1]:+.2f}]")
        lines.append(line)
    lines.append(["mean", *(f"{np.mean(values):+.2f}" for values in pooled.values())])
    return markdown.table(columns, lines)


def write(results: Mapping[str, Any]) -> None:
    """Put every table whose figures are there into tables/analysis.md."""
    audits = known_audits(markdown.TABLES.parent / "results")
    backbone = results.get("backbone", {})
    for group, mark in (("tasks", "analysis"), ("twelve", "analysis_twelve")):
        found = {
            part: {name: entry[part] for name, entry in results.get(group, {}).items() if part in entry}
            for part in ("ffn", "errors", "roles")
        }
        beside = backbone if group == "tasks" else {}
        if found["ffn"]:
            extra = {"backbone, SST-2 text": beside["ffn"]} if beside else {}
            markdown.put(f"{mark}_ffn", ffn_table(found["ffn"] | extra))
            markdown.put(f"{mark}_removal", removal_table(found["ffn"]))
        if found["errors"]:
            markdown.put(f"{mark}_errors", errors_table(found["errors"]))
        if found["roles"]:
            markdown.put(
                f"{mark}_roles", roles_table(found["roles"] | ({"backbone": beside["roles"]} if beside else {}))
            )
        tried = {name: entry for name, entry in found["roles"].items() if name in audits}
        if tried:
            markdown.put(f"{mark}_prediction", prediction_table(tried, audits))


def known_audits(folder: Path) -> dict[str, Any]:
    """Return the audits of models by name: those of audits.json, else those of the tasks that the frontier keeps."""
    if (folder / AUDITS).is_file():
        return read_json(folder / AUDITS)["audits"]
    tasks = read_json(folder / FRONTIER)["tasks"]
    return {name: entry["audit"] for name, entry in tasks.items() if "audit" in entry}


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
