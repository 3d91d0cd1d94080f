"""The tables of the decision, computed from the predictions and raw times in its results."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from compressor.measurement.statistics import delta_interval, discordant
from compressor.measurement.timing.ratios import ratio
from compressor.report.wording.answer import answer_line

RIVALS = {"cpu": "Optimum int8", "cuda": "Optimum O4"}
"""Device -> the full model's file that Optimum makes for it: O4 is the fused graph in float16."""


def put_tables(results: Mapping[str, Any]) -> None:
    """Rewrite the tables of every device and goal that there are results of."""
    for key, models in results.items():
        device, goal = key.split()
        texts = {
            "lines": lines_text(models),
            "speed": speed_table(models, RIVALS[device]),
            "cost": cost_table(models, RIVALS[device]),
        }
        if goal != "lossless":
            print(key, *texts.values(), sep="\n\n")
            continue
        if device == "cpu":
            markdown.put("expect", expect_table(models))
        for part, text in texts.items():
            markdown.put(f"ship_{part}" if device == "cpu" else f"ship_{device}_{part}", text)


def lines_text(models: Mapping[str, Any]) -> str:
    """Return the line of every model."""
    return "\n".join(f"- {name}: {answer_line(entry['answer'])}" for name, entry in models.items())


def expect_table(models: Mapping[str, Any]) -> str:
    """Return what a reader may expect, a line a model: the gain over PyTorch in both ways of padding, changes and sizes."""
    columns = ["classifier", "shipped", "faster [95 %]", "than padding to 128", "changed", "MB, of"]
    rows = []
    for name, entry in models.items():
        values, answer = entry["values_ms"], entry["answer"]
        ours = values[entry["factors"][-1]]
        gain, padded = (ratio(values[base], ours, 0, np.mean) for base in ("PyTorch", "PyTorch, padded to 128"))
        full, other = classes_of(entry["predictions"]["full"]), classes_of(entry["predictions"]["ours"])
        rows.append([
            name, answer["variant"], f"{gain.value:.1f}x [{gain.lo:.1f}, {gain.hi:.1f}]", f"{padded.value:.1f}x",
            f"{int((full != other).sum())} of {len(full):,}{'' if answer['met'] is not False else ', goal missed'}",
            f"{answer['bytes'] / 1e6:.0f} of {answer['baseline_bytes'] / 1e6:.0f}",
        ])  # fmt: skip
    return markdown.table(columns, rows)


def speed_table(models: Mapping[str, Any], rival: str) -> str:
    """Return the speed-up of every model over PyTorch with its factors, over padding to 128 tokens, and over `rival`."""
    kinds = list(dict.fromkeys(name for entry in models.values() for name in entry["factors"]))
    columns = ["model", "shipped", "over PyTorch [95 %]", *kinds, "over PyTorch padded to 128", f"over {rival}"]
    rows, pooled = [], {"PyTorch": [], "PyTorch, padded to 128": [], rival: []}
    for name, entry in models.items():
        values, chain = entry["values_ms"], ["PyTorch", *entry["factors"]]
        ours = chain[-1]
        factors = {
            there: f"{ratio(values[here], values[there], 0, np.mean).value:.2f}"
            for here, there in itertools.pairwise(chain)
        }
        gains = {}
        for base, found in pooled.items():
            if base in values:
                gain = ratio(values[base], values[ours], 0, np.mean)
                found.append(math.log(gain.value))
                gains[base] = f"{gain.value:.2f}x [{gain.lo:.2f}, {gain.hi:.2f}]"
        rows.append([
            name, entry["answer"]["variant"], gains["PyTorch"], *(factors.get(kind, "") for kind in kinds),
            gains["PyTorch, padded to 128"], gains.get(rival, ""),
        ])  # fmt: skip
    means = [f"**{math.exp(np.mean(found)):.2f}x**" if found else "" for found in pooled.values()]
    rows.append(["geometric mean", "", means[0], *[""] * len(kinds), *means[1:]])
    return markdown.table(columns, rows)


def cost_table(models: Mapping[str, Any], rival: str) -> str:
    """Return what the shipped file and `rival` change, each against the full model in PyTorch, pooled as well."""
    columns = ["model", "rows", "changed", "accuracy, points [95 %]", f"changed, {rival}", f"accuracy, {rival}"]
    rows, total = [], {"ours": np.zeros(3, int), rival: np.zeros(3, int)}
    size = 0
    for name, entry in models.items():
        labels, full = classes_of(entry["labels"]), classes_of(entry["predictions"]["full"])
        size += len(full)
        line = [name, str(len(full))]
        for side in total:
            if side not in entry["predictions"]:
                line += ["", ""]
                continue
            other = classes_of(entry["predictions"][side])
            gained, lost = discordant(full, other, labels)
            flips = int((full != other).sum())
            total[side] += (flips, gained, lost)
            line += [f"{flips} ({flips / len(full):.2%})", _delta(gained, lost, len(full))]
        rows.append(line)
    pooled = ["**all**", str(size)]
    for flips, gained, lost in total.values():
        pooled += [f"**{flips} ({flips / size:.2%})**", _delta(int(gained), int(lost), size)]
    return markdown.table(columns, [*rows, pooled])


def _delta(gained: int, lost: int, rows: int) -> str:
    low, high = delta_interval(gained, lost, rows)
    return f"{100 * (gained - lost) / rows:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
