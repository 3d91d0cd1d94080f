"""The tables and the figure of units.py, computed from the predictions and raw times in its results."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.glue import TASKS, TWELVE
from benchmarks.compensation.tables import better_of, flips_of, pooled
from benchmarks.units.removal_table import removal_table
from compressor.files import read_json
from compressor.measurement.statistics import share_interval
from compressor.measurement.timing.ratios import claimed, ratio
from compressor.model.units import unit_words

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "units.json"
ANALYSIS = HERE / "results" / "analysis.json"
FIGURE = HERE / "figures" / "units.png"
TEXTS_FIGURE = HERE / "figures" / "units_texts.png"
KINDS = {
    "layers": "whole layers",
    "blocks": "layers, FFNs, attention blocks",
    "widths": "FFN neurons",
    "heads": "attention heads and FFN neurons",
}
FILES = {"alltokens": "all rows", "optimized": "the [CLS] row"}
"""Kind of file -> what it works out of its last layer."""
METHODS = {
    "cut": "cut out, nothing else",
    "stand-ins": "stand-ins in closed form",
    "refit": "and the whole refitted, layer by layer",
    "refit + readout": "and a readout",
    "cut + readout": "cut out, a readout",
}
"""Method of the results -> its name in the tables."""
PEERS = {
    "attention heads and FFN neurons, closed form": None,
    "TextPruner": "textpruner",
    "top layers dropped": "top_first",
    "layers of least block influence dropped": "block_influence",
}
"""Words -> name in the results of the peers, of which `-1` and `-2` are as fast as models without one and two layers."""
PEERS_RESULTS = HERE / "results" / "peers.json"
FINAL, RIVAL = "refit + readout", "layers"
"""What the comparison of kinds and the per-task table show; what kinds are held against."""
Column = Callable[[Mapping[str, Any], Mapping[str, Any]], np.ndarray]


def read() -> dict[str, Any]:
    """Return what was measured so far."""
    return read_json(RESULTS) if RESULTS.is_file() else {"tasks": {}}


def write(results: Mapping[str, Any]) -> None:
    """Write every table that the results have figures for into tables/units.md, and the figure."""
    tasks = {name: results["tasks"][name] for name in TASKS if name in results["tasks"]}
    mixed = {name: task for name, task in tasks.items() if task.get("mixes")}
    names = {name for task in mixed.values() for name in task["mixes"]}
    # tasks that are measured in part would take kinds and budgets out of what is pooled
    mixed = {name: task for name, task in mixed.items() if set(task["mixes"]) == names} or mixed
    if mixed:
        rows = sum(len(task["full"]) for task in mixed.values())
        parts = [f"Pooled: {', '.join(mixed)}; {rows:,} rows."]
        parts += ["**Changed predictions**", mix_table(mixed, flips_of, markdown.share)]
        parts += ["**Accuracy, points**", mix_table(mixed, better_of, markdown.points), _sentences(mixed)]
        if figure(mixed, FIGURE):
            parts.append(f"![Changed predictions by cost that remains](../figures/{FIGURE.name})")
        markdown.put("units", "\n\n".join(parts))
    single = {name: results["tasks"][name] for name in (*TASKS, *TWELVE) if results["tasks"].get(name, {}).get("mixes")}
    if single:
        markdown.put("units_models", task_table(single))
    texts = {name: task for name, task in results["tasks"].items() if task.get("texts")}
    if texts:
        parts = [texts_table(texts)]
        if texts_figure(texts, TEXTS_FIGURE):
            parts.append(f"![Changed predictions by the number of texts](../figures/{TEXTS_FIGURE.name})")
        markdown.put("units_texts", "\n\n".join(parts))
    removed = {name: task for name, task in tasks.items() if task.get("removal")}
    if removed:
        markdown.put("units_removal", removal_table(removed, read_json(ANALYSIS)["tasks"]))
    if "sst2" in mixed and PEERS_RESULTS.is_file():
        markdown.put("units_peers", peer_table(mixed["sst2"], read_json(PEERS_RESULTS)["rows"]))
    if results.get("pace"):
        markdown.put("units_pace", pace_table(results["pace"]))
    if results.get("latency"):
        markdown.put("units_latency", latency_table(results["latency"]))


def peer_table(task: Mapping[str, Any], peers: Mapping[str, Any]) -> str:
    """Return what our heads and neurons of SST-2 and what others leave at about the same FLOPs change, row by row."""
    lines = []
    for size, (words, name) in itertools.product((1, 2), PEERS.items()):
        ours = task["mixes"][f"heads {size}"]["methods"]["refit"]
        entry = ours if name is None else peers[f"{name}-{size}/alltokens"]
        changed, better = (column(task, entry) for column in (flips_of, better_of))
        more = [pooled([column(task, entry) - column(task, ours)]) for column in (flips_of, better_of)]
        left = entry.get("details", {})
        size_words = f" ({left['heads']} heads, {left['ffn']} neurons a layer)" if "ffn" in left else ""
        lines.append([
            f"{1 - size / 6:.0%}", f"{words}{size_words}", changed_share(changed), markdown.points(*pooled([better])),
            *(markdown.points(*gap) if name else "" for gap in more),
        ])  # fmt: skip
    columns = [
        "FLOPs",
        "what",
        "changed [95 %]",
        "points [95 %]",
        "changed more than ours, points",
        "accuracy less ours",
    ]
    return markdown.table(columns, lines)


def sizes_of(tasks: Mapping[str, Any]) -> list[int]:
    """Return the sizes that every task has at least one mix for."""
    each = [{int(name.rpartition(" ")[2]) for name in task["mixes"]} for task in tasks.values()]
    return sorted(set.intersection(*each))


def kinds_of(tasks: Mapping[str, Any], sizes: Sequence[int]) -> list[str]:
    """Return the kinds that every task has mixes of, of every size."""
    return [
        kind for kind in KINDS
        if all(f"{kind} {size}" in task["mixes"] for task in tasks.values() for size in sizes)
    ]  # fmt: skip


def columns_of(tasks: Mapping[str, Any], kind: str, size: int, method: str, column: Column) -> list[np.ndarray]:
    """Return what `column` says of each row, task by task."""
    return [column(task, task["mixes"][f"{kind} {size}"]["methods"][method]) for task in tasks.values()]


def mix_table(tasks: Mapping[str, Any], column: Column, cell: Callable[..., str]) -> str:
    """Return a figure pooled over the tasks for every kind and method, by budget."""
    sizes = sizes_of(tasks)
    rows = [
        [KINDS[kind], words, *(cell(*pooled(columns_of(tasks, kind, size, method, column))) for size in sizes)]
        for kind in kinds_of(tasks, sizes)
        for method, words in METHODS.items()
    ]
    return markdown.table(["what may go", "compensation", *(_budget(size) for size in sizes)], rows)


def task_table(tasks: Mapping[str, Any]) -> str:
    """Return every model's mixes with what they change once the whole is refitted, and with a readout behind."""
    rows = []
    for name, task in tasks.items():
        for size in sorted({int(mix.rpartition(" ")[2]) for mix in task["mixes"]}):
            for kind in [kind for kind in KINDS if f"{kind} {size}" in task["mixes"]]:
                entry = task["mixes"][f"{kind} {size}"]
                cells = []
                for method in ("refit", FINAL):
                    changed, better = (column(task, entry["methods"][method]) for column in (flips_of, better_of))
                    cells += [changed_share(changed), markdown.points(*pooled([better]))]
                budget = f"{1 - size / 6:.0%}"
                rows.append([name, KINDS[kind], budget, f"{entry['kept']:.0%}", unit_words(entry["units"]), *cells])
    columns = [
        "model",
        "what may go",
        "may remain",
        "remains",
        "what goes",
        "refitted: changed [95 %]",
        "points [95 %]",
    ]
    return markdown.table([*columns, "and a readout: changed [95 %]", "points [95 %]"], rows)


def texts_table(tasks: Mapping[str, Any]) -> str:
    """Return what half the FLOPs less of heads and neurons change, by the number of texts that they were fitted to."""
    rows = []
    for name, task in tasks.items():
        for count, entry in sorted(task["texts"].items(), key=lambda item: int(item[0])):
            cells = []
            for method in ("stand-ins", "refit"):
                changed, better = (column(task, entry["methods"][method]) for column in (flips_of, better_of))
                cells += [changed_share(changed), markdown.points(*pooled([better]))]
            rows.append([name, f"{int(count):,}", *cells])
    return markdown.table(
        ["model", "texts", "stand-ins: changed [95 %]", "points [95 %]", "refitted: changed [95 %]", "points [95 %]"],
        rows,
    )


def texts_figure(tasks: Mapping[str, Any], target: Path) -> Path | None:
    """Draw the changed predictions of the refitted models by the number of texts; None for one number."""
    if max(len(task["texts"]) for task in tasks.values()) < 2:
        return None
    from compressor.report.figures.style import COMPRESSED, SKIPPED, dress, legend, new_figure, png

    drawn = new_figure(3.2, "More text for the closed form: half of the encoder's FLOPs gone as heads and neurons")
    axes = drawn.subplots()
    for (name, task), (colour, marker) in zip(
        tasks.items(), itertools.cycle([(COMPRESSED, "o"), (SKIPPED, "s")]), strict=False
    ):
        counts = sorted(map(int, task["texts"]))
        found = [pooled([flips_of(task, task["texts"][str(count)]["methods"]["refit"])]) for count in counts]
        middle, low, high = 100 * np.array(found).T
        axes.errorbar(
            counts, middle, yerr=[middle - low, high - middle], color=colour, marker=marker, capsize=3, label=name
        )
    axes.set(
        xscale="log", xlabel="unlabelled texts", ylabel="changed predictions, %", ylim=(0, 1.3 * axes.get_ylim()[1])
    )
    ticks = sorted({int(count) for task in tasks.values() for count in task["texts"]})
    axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
    axes.minorticks_off()
    dress(axes, "y")
    legend(axes, None)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(png(drawn))
    return target


def latency_table(latency: Mapping[str, Any]) -> str:
    """Return the measured against the predicted ratio of every kind of file, shape and cell."""
    rows = []
    files = latency["files"]
    for variant, name in itertools.product(files, latency["shapes"]):
        cells = [FILES[variant], name, unit_words(latency["shapes"][name])]
        for cell in files[variant]["cells"]:
            values = {key: tuple(times) for key, times in cell["values_ms"].items()}
            found, twin = (ratio(values["full"], values[other], 0) for other in (name, "twin"))
            noise = "" if claimed(found, twin) else " (within noise)"
            predicted = cell["predicted"][name]
            cells.append(
                f"{found.value:.2f}x [{found.lo:.2f}, {found.hi:.2f}]{noise}, predicted {predicted:.2f}x "
                f"({predicted / found.value - 1:+.0%})"
            )
        rows.append(cells)
    heads = [f"batch {cell['batch']}, {cell['length']} tokens" for cell in next(iter(files.values()))["cells"]]
    return markdown.table(["last layer", "shape", "what goes", *heads], rows)


def pace_table(pace: Mapping[str, Any]) -> str:
    """Return the seconds of each step to a mix."""
    said = (
        f"{pace['layers']} layers, {pace['texts']:,} texts of {pace['tokens']:,} tokens, {pace['threads']} threads; "
        f"{pace['amounts']} amounts; trials on {pace['rows']} rows, {pace['trials']} of them."
    )
    return f"{said}\n\n" + markdown.table(["step", "seconds"], [[k, f"{s:.1f}"] for k, s in pace["seconds"].items()])


def figure(tasks: Mapping[str, Any], target: Path) -> Path | None:
    """Draw the changed predictions by the budget for every kind, without and with compensation; None for one budget."""
    sizes = sizes_of(tasks)
    kinds = kinds_of(tasks, sizes)
    if len(sizes) < 2 or not kinds:
        return None
    from compressor.report.figures.style import COMPRESSED, FULL, INK, SKIPPED, dress, legend, new_figure, png

    looks = {"layers": (FULL, "o"), "blocks": (COMPRESSED, "s"), "widths": (SKIPPED, "^"), "heads": (INK, "D")}
    drawn = new_figure(3.6, f"Which units should go? Changed predictions, {len(tasks)} tasks pooled, no labels")
    panels = {"cut": "cut out, nothing else", FINAL: "closed-form refit and readout"}
    for axes, (method, title) in zip(drawn.subplots(1, 2), panels.items(), strict=True):
        for kind in kinds:
            colour, marker = looks[kind]
            found = [pooled(columns_of(tasks, kind, size, method, flips_of)) for size in sizes]
            middle, low, high = 100 * np.array(found).T
            places = [100 * (1 - size / 6) for size in sizes]
            axes.errorbar(
                places, middle, yerr=[middle - low, high - middle], color=colour, marker=marker, linestyle="-",
                capsize=3, label=KINDS[kind],
            )  # fmt: skip
        axes.set(
            xlabel="encoder FLOPs that may remain, %", ylabel="changed predictions, %", title=title, ylim=(0, None)
        )
        dress(axes, "y")
    legend(drawn.axes[0], None)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(png(drawn))
    return target


def _sentences(tasks: Mapping[str, Any]) -> str:
    """Return how every kind differs from whole layers, paired row by row."""
    sizes, lines = sizes_of(tasks), []
    kinds = kinds_of(tasks, sizes)
    for kind in [kind for kind in kinds if kind != RIVAL and RIVAL in kinds]:
        said = []
        for size in sizes:
            gaps = []
            for column in (flips_of, better_of):
                mine, other = (columns_of(tasks, name, size, FINAL, column) for name in (kind, RIVAL))
                gaps.append(markdown.points(*pooled([a - b for a, b in zip(mine, other, strict=True)])))
            said.append(f"at {1 - size / 6:.0%} of the FLOPs {gaps[0]} of changed predictions, {gaps[1]} of accuracy")
        lines.append(f"- {KINDS[kind]} less {KINDS[RIVAL]}, {METHODS[FINAL]} behind both, points: {'; '.join(said)}.")
    return "\n".join(lines)


def changed_share(changed: np.ndarray) -> str:
    """Return the share of the rows [N] that are changed, with its interval."""
    return markdown.share(changed.mean(), *share_interval(int(changed.sum()), len(changed)))


def _budget(size: int) -> str:
    return f"{1 - size / 6:.0%} of the FLOPs ({size} of 6 layers)"
