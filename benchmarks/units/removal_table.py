"""The table of single feed-forward blocks that are gone, from the predictions of units and of the analyses."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.compensation.tables import better_of, flips_of
from compressor.measurement.statistics import share_interval

WHOLE = {
    "removed": "nothing, not its bias either",
    "mean_kept": "one mean of all tokens",
    "means_kept": "a mean for [CLS], one for the others",
}
STEPS = {
    "cut": "its bias",
    "mean": "one mean, tokens weighed as the norm does",
    "refit": "that mean; norm and attention output refitted",
}
"""What stays of a block: kinds of analysis.json, then steps of these results -> words."""


def removal_table(tasks: Mapping[str, Any], analysed: Mapping[str, Any]) -> str:
    """Return the changed predictions without each feed-forward block, pooled over the tasks that both results have."""
    names = [name for name in tasks if "ffn" in analysed.get(name, {})]
    layers = sorted({int(layer) for name in names for layer in tasks[name]["removal"]["cut"]})
    rows = []
    for kind, words in WHOLE.items():
        found = [
            [
                next(removal for removal in entry["removal"] if removal["kind"] == kind)
                for name in names
                for entry in analysed[name]["ffn"]["layers"]
                if entry["layer"] == layer
            ]
            for layer in layers
        ]
        counts = [(sum(entry["flips"] for entry in row), sum(entry["rows"] for entry in row)) for row in found]
        rows.append([words, *(markdown.share(flips / total, *share_interval(flips, total)) for flips, total in counts)])
        deltas = [entry["accuracy_delta"] for row in found for entry in row]
        rows[-1].append(f"{100 * np.mean(deltas):+.1f}" if None not in deltas else "–")
    for step, words in STEPS.items():
        flips, better = (
            [[column(tasks[name], {"predictions": tasks[name]["removal"][step][str(layer)]}) for name in names]
             for layer in layers]
            for column in (flips_of, better_of)
        )  # fmt: skip
        counts = [(int(sum(part.sum() for part in row)), sum(map(len, row))) for row in flips]
        rows.append(
            [words, *(markdown.share(changed / total, *share_interval(changed, total)) for changed, total in counts)]
        )
        rows[-1].append(f"{100 * np.mean([part.mean() for row in better for part in row]):+.1f}")
    columns = ["what stays of the block", *(f"layer {layer}" for layer in layers), "points, mean of tasks and layers"]
    return markdown.table(columns, rows)
