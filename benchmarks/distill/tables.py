"""The table of run.py, computed from the predictions in its results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from compressor.measurement.statistics import delta_interval, discordant, paired_lower_bound, share_interval
from compressor.model.units import unit_words

RESULTS = Path(__file__).parents[1] / "results" / "distill.json"
ALL = "all"
COLUMNS = ["model", "texts", "KL on held-out text", "kept step", "seconds", "changed predictions [95 %]",
           "accuracy, points [95 %]", "at least"]  # fmt: skip


def put_tables(results: Mapping[str, Any]) -> None:
    """Write the table of every model with a start into tables/distill.md."""
    rows = [row for model, entry in results.items() for row in rows_of(model, entry)]
    gone = [
        f"- {model}: without {unit_words(entry['units'])}; {entry['texts']:,} texts in all."
        for model, entry in results.items()
    ]
    if rows:
        markdown.put("distill", "\n\n".join([markdown.table(COLUMNS, rows), "\n".join(gone)]))


def rows_of(model: str, entry: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of a model: what it starts from, then each point by the number of its texts."""
    yield [model, "0 (closed form)", "", "", "", *figures(entry, entry["start"])]
    for made in sorted(entry["points"].values(), key=lambda point: point["texts"]):
        kls = [value for _, value in made["curve"]]
        held = f"{kls[0]:.4f} → {min(kls):.4f}" if kls else "none"
        step = f"{made['kept_step']:,} of {made['steps']:,}"
        yield [model, f"{made['texts']:,}", held, step, f"{made['seconds']:.0f}", *figures(entry, made["predictions"])]


def figures(entry: Mapping[str, Any], predictions: str) -> list[str]:
    """Return changed predictions and accuracy difference with their 95 % intervals, and its one-sided 95 % bound."""
    full, other, labels = (classes_of(text) for text in (entry["full"], predictions, entry["labels"]))
    changed, (gained, lost), rows = int((full != other).sum()), discordant(full, other, labels), len(full)
    low, high = (100 * bound for bound in share_interval(changed, rows))
    least, most = (100 * bound for bound in delta_interval(gained, lost, rows))
    bound = 100 * paired_lower_bound(gained, lost, rows)
    return [
        f"{100 * changed / rows:.1f} % [{low:.1f}, {high:.1f}]",
        f"{100 * (gained - lost) / rows:+.1f} [{least:+.1f}, {most:+.1f}]",
        f"{bound:+.1f}",
    ]
