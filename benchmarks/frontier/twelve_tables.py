"""The tables of twelve.py: searches over all sets of twelve layers, and one layer of twelve left out."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from compressor.measurement.statistics import delta_interval, discordant, paired_lower_bound, share_interval, tier

DRAWS = 10_000
AS_IT_IS, AFTER_READOUT = "trials, as it is", "trials, after a readout"
"""Who chooses the one layer: trials of the model without it, before or after a closed-form readout."""
NAMES = {"beam of 1": "greedy (beam of 1)", "guided": "guided by downstream separability (sets tried)"}
MARKS = {"walk": "frontier_twelve", "one": "frontier_one_of_twelve"}


def write(results: Mapping[str, Any]) -> None:
    """Put every table whose figures are there into tables/frontier.md."""
    models = results["twelve"]
    parts = []
    for name, entry in models.items():
        if entry.get("walk", {}).get("pieces"):
            parts.append(f"**{name}.** {walk_reading(entry)}")
        if "searches" in entry:
            parts.append(walk_table(entry))
    if parts:
        markdown.put(MARKS["walk"], "\n\n".join(parts))
    one = {name: entry["one"] for name, entry in models.items() if "one" in entry}
    if one:
        markdown.put(MARKS["one"], one_table(one))


def walk_table(entry: Mapping[str, Any]) -> str:
    """Return the agreement of the best set of every size that each search finds, and of separability's set."""
    searches, rows = entry["searches"], []
    for size in map(str, range(1, entry["layers"])):
        layers = ", ".join(map(str, searches["exhaustive"]["best"][size]["skip"]))
        rows.append([size, layers, *(_agreement(found, size) for found in searches.values())])
    for name, key in (("sets tried", "sets_evaluated"), ("layer applications", "layer_applications")):
        rows.append([name, "", *(f"{found[key]:,}" if key in found else "" for found in searches.values())])
    names = [NAMES.get(name, name) for name in searches]
    return markdown.table(["skipped", "best layers", *names], rows)


def _agreement(found: Mapping[str, Any], size: str) -> str:
    if size not in found["best"]:
        return ""
    tried = f" ({found['tried'][size]})" if "tried" in found else ""
    return f"{found['best'][size]['agreement']:.1%}{tried}"


def walk_reading(entry: Mapping[str, Any]) -> str:
    """Return the sentences on how long all sets took, shared and one by one."""
    naive, found = entry["naive"], entry["walk"]
    timed = sum(piece["sets"] for piece in found["pieces"])
    minutes = seconds_per_set(found) * found["sets"] / 60
    ratio, low, high = times_as_long(entry)
    return (
        f"All {found['sets']:,} sets take {found['layer_applications']:,} layer applications over {entry['rows']} "
        f"rows and, by the pace of {timed:,} of them, {minutes:.0f} minutes of one processor "
        f"({found['predicted_seconds'] / 60:.0f} predicted before the start), readouts included. One by one they would take "
        f"{naive['layer_applications']:,} applications and, by {len(naive['seconds'])} sets drawn at random, {ratio:.1f} "
        f"[{low:.1f}, {high:.1f}] times as long."
    )


def seconds_per_set(found: Mapping[str, Any]) -> float:
    """Return the pace of the walk: the time of all pieces over their sets."""
    return sum(piece["seconds"] for piece in found["pieces"]) / sum(piece["sets"] for piece in found["pieces"])


def times_as_long(entry: Mapping[str, Any]) -> tuple[float, float, float]:
    """Return the time of all sets one by one over that of the walk, with its 95 % interval: the sample drawn anew."""
    seconds = np.array(entry["naive"]["seconds"])
    each = seconds_per_set(entry["walk"])
    draws = np.random.default_rng(1).choice(seconds, (DRAWS, len(seconds))).mean(axis=1) / each
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(seconds.mean() / each), float(low), float(high)


def one_table(models: Mapping[str, Any]) -> str:
    """Return what one layer less changes on the evaluation split, by who chose it and what makes up for it."""
    columns = ["model", "rows", "layer, chosen by", "made up for", "changed [95 %]", "accuracy, points [95 %]"]
    lines = []
    for name, one in models.items():
        full, labels = classes_of(one["full"]), classes_of(one["labels"])
        for layer, ways in one["predictions"].items():
            who = "; ".join(who for who, chosen in one["chosen"].items() if str(chosen) == layer)
            for way, predictions in ways.items():
                predicted = classes_of(predictions)
                flips, rows = int((predicted != full).sum()), len(full)
                gained, lost = discordant(full, predicted, labels)
                bound = paired_lower_bound(gained, lost, rows)
                delta = (gained - lost) / rows
                # predictions alone cannot show that logits are the same, so nothing here is exact
                verdict = tier(flips / rows, np.inf, bound, delta)
                lines.append([
                    name, f"{rows:,}", f"{layer} ({who})", way,
                    markdown.share(flips / rows, *share_interval(flips, rows)),
                    markdown.points(delta, *delta_interval(gained, lost, rows)), f"{100 * bound:+.1f}", verdict,
                ])  # fmt: skip
    return markdown.table([*columns, "one-sided bound", "tier"], lines)
