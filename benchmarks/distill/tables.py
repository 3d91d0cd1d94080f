"""The table of run.py, computed from the predictions in its results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from benchmarks.common.glue import TASKS
from benchmarks.compensation.tables import better_of, flips_of, pooled, pooled_bound
from compressor.measurement.statistics import delta_interval, discordant, paired_lower_bound, share_interval
from compressor.model.units import unit_words

RESULTS = Path(__file__).parents[1] / "results" / "distill.json"
ALL = "all"
COLUMNS = ["model", "texts", "KL on held-out text", "KL on the selection split", "kept step", "seconds", "on",
           "changed predictions [95 %]", "accuracy, points [95 %]", "at least"]  # fmt: skip
COMPARED = ["model", "settings", "KL on held-out text", "KL on the selection split", "kept step", "seconds", "on"]


def put_tables(results: Mapping[str, Any]) -> None:
    """Write the tables of every model with a start into tables/distill.md."""
    if not results:
        return
    rows = [row for model, entry in results.items() for row in rows_of(model, entry)]
    gone = [
        f"- {model}: without {unit_words(entry['units'])}; {entry['texts']:,} texts."
        for model, entry in results.items()
    ]
    parts = [markdown.table(COLUMNS, [*rows, *pooled_rows(results)]), "\n".join(gone)]
    compared = [row for model, entry in results.items() for row in settings_of(model, entry)]
    if compared:
        parts += ["**Settings compared**", markdown.table(COMPARED, compared)]
    markdown.put("distill", "\n\n".join(parts))


def rows_of(model: str, entry: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of a model: what it starts from, then each point by the number of its texts."""
    begin = entry["start"]
    yield [
        model,
        "0 (closed form)",
        "",
        f"{begin['selection_kl']:.4f}",
        "",
        "",
        "",
        *figures(entry, begin["predictions"]),
    ]
    for made in sorted(entry["points"].values(), key=lambda point: point["texts"]):
        yield [model, f"{made['texts']:,}", *course(made), *figures(entry, made["predictions"])]


def pooled_rows(results: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of all tasks together, once each of them has a point: closed form, and each with the most of its text."""
    if any(not results.get(task, {}).get("points") for task in TASKS):
        return
    tasks = [results[task] for task in TASKS]
    most = [max(entry["points"].values(), key=lambda point: point["texts"]) for entry in tasks]
    for words, made in ("0 (closed form)", [entry["start"] for entry in tasks]), ("most of each", most):
        changed, better = ([of(*pair) for pair in zip(tasks, made, strict=True)] for of in (flips_of, better_of))
        bound = f"{100 * pooled_bound(better):+.1f}"
        empty = [""] * (len(COLUMNS) - 5)
        yield ["five tasks", words, *empty, markdown.share(*pooled(changed)), markdown.points(*pooled(better)), bound]


def settings_of(model: str, entry: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield the rows of the settings that were compared on a model, the best first; predictions play no part."""
    for name, made in sorted(entry["settings"].items(), key=lambda item: item[1]["selection_kl"]):
        yield [model, f"{name}, {made['texts']:,} texts", *course(made)]


def best_settings(entry: Mapping[str, Any]) -> str:
    """Return the name of the settings with the lowest KL on the selection split of a model's entry."""
    return min(entry["settings"], key=lambda name: entry["settings"][name]["selection_kl"])


def course(made: Mapping[str, Any]) -> list[str]:
    """Return how a distillation went: KL on held-out text and on the selection split, step that was kept, seconds, device."""
    kls = [value for _, value in made["curve"]]
    held = f"{kls[0]:.4f} → {min(kls):.4f}" if kls else "none"
    step = f"{made['kept_step']:,} of {made['steps']:,}"
    return [held, f"{made['selection_kl']:.4f}", step, f"{made['seconds']:.0f}", made["environment"]["device"]["name"]]


def figures(entry: Mapping[str, Any], predictions: str) -> list[str]:
    """Return changed predictions and accuracy difference with their 95 % intervals, and its one-sided 95 % bound."""
    full, other, labels = (classes_of(text) for text in (entry["full"], predictions, entry["labels"]))
    changed, (gained, lost), rows = int((full != other).sum()), discordant(full, other, labels), len(full)
    return [
        markdown.share(changed / rows, *share_interval(changed, rows)),
        markdown.points((gained - lost) / rows, *delta_interval(gained, lost, rows)),
        f"{100 * paired_lower_bound(gained, lost, rows):+.1f}",
    ]
