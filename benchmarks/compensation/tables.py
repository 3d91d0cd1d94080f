"""The tables of compensation.py, computed from the predictions in its results; intervals resample rows within each task."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.common import markdown
from benchmarks.common.digits import classes_of
from benchmarks.common.glue import TASKS, TWELVE
from compressor.measurement.statistics import paired_lower_bound, share_interval
from compressor.stages.cascade.evaluation import ratio_interval

DRAWS = 2000
METHODS = {
    "none": "none",
    "gradient": "head (gradient)",
    "forward": "charge-flow head",
    "readout": "readout",
    "refit": "refit, gaps",
    "refit + readout": "refit, gaps + readout",
    "refit + forward": "refit, gaps + charge flow",
    "refit later": "refit, later layers",
    "refit later + readout": "refit, later + readout",
    "refit later + forward": "refit, later + charge flow",
    "distilled": "refit + distillation",
    "distilled + readout": "refit + distillation + readout",
    "distilled + forward": "refit + distillation + charge flow",
}
"""Method of the results -> its name in the tables."""
CLOSED = "refit + forward"
"""The method without labels and gradients that the tables hold against no compensation."""


def flips_of(task: Mapping[str, Any], entry: Mapping[str, Any]) -> np.ndarray:
    """Return which of the task's evaluation rows changed, float [N]."""
    return (classes_of(entry["predictions"]) != classes_of(task["full"])).astype(float)


def better_of(task: Mapping[str, Any], entry: Mapping[str, Any]) -> np.ndarray:
    """Return for each row 1 where it became right, -1 where it became wrong, else 0."""
    labels = classes_of(task["labels"])
    return (classes_of(entry["predictions"]) == labels) * 1.0 - (classes_of(task["full"]) == labels)


def pooled(columns: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Return the mean over all rows of all tasks, and its 95 % interval: rows resampled within each task."""
    generator = np.random.default_rng(0)
    total = sum(map(len, columns))
    drawn = np.zeros(DRAWS)
    for values in columns:
        kinds, counts = np.unique(values, return_counts=True)
        drawn += generator.multinomial(len(values), counts / len(values), size=DRAWS) @ kinds
    low, high = np.quantile(drawn / total, [0.025, 0.975])
    return sum(values.sum() for values in columns) / total, float(low), float(high)


def pooled_bound(columns: Sequence[np.ndarray]) -> float:
    """Return the one-sided 95 % bound of the pooled accuracy delta (Tango's score bound over the discordant rows)."""
    gained, lost = (sum(int((values == sign).sum()) for values in columns) for sign in (1, -1))
    return paired_lower_bound(gained, lost, sum(map(len, columns)))


def method_table(results: Mapping[str, Any], size: str, column: Callable[..., np.ndarray], unit: str) -> str:
    """Return the table of one number of skipped layers: methods x tasks, and all rows pooled."""
    tasks = results["tasks"]
    rows = []
    for method, name in METHODS.items():
        found = {
            task: column(entry, entry["skips"][size]["methods"][method])
            for task, entry in tasks.items()
            if method in _methods(entry, size)
        }
        if not found:
            continue
        cells = [f"{unit.format(100 * found[task].mean())}" if task in found else "" for task in tasks]
        every = list(found.values())
        value, low, high = (100 * part for part in pooled(every))
        whole = f"{unit.format(value)} [{unit.format(low)}, {unit.format(high)}]" if len(found) == len(tasks) else ""
        rows.append([name, *cells, whole])
    skips = [
        f"{name} ({', '.join(map(str, task['skips'][size]['skip']))})" if size in task["skips"] else name
        for name, task in tasks.items()
    ]
    return markdown.table(["compensation", *skips, "all rows [95 %]"], rows)


def skip_reading(results: Mapping[str, Any]) -> str:
    """Return the sentences that hold the results against what was aimed at."""
    tasks = results["tasks"].values()
    lines = []
    complete = [
        size for size in "123" if all({"none", CLOSED, "gradient"} <= set(_methods(task, size)) for task in tasks)
    ]
    if "1" not in complete:
        return ""  # measured in part: nothing to hold against what was aimed at
    one = [entry["skips"]["1"]["methods"] for entry in tasks]
    plain, closed = (
        [flips_of(task, methods[name]) for task, methods in zip(tasks, one, strict=True)] for name in ("none", CLOSED)
    )
    fewer = sum(after.sum() < before.sum() for before, after in zip(plain, closed, strict=True))
    before, after = (sum(part.sum() for part in parts) for parts in (plain, closed))
    gap, low, high = (100 * part for part in pooled([one - other for one, other in zip(plain, closed, strict=True)]))
    lines.append(
        f"One layer skipped, no labels, no gradients ({METHODS[CLOSED]}): fewer changed predictions than without "
        f"compensation on {fewer} of {len(plain)} tasks, {1 - after / before:.0%} fewer over all rows "
        f"({before:.0f} → {after:.0f}; {gap:.1f} points [{low:.1f}, {high:.1f}])."
    )
    for size in complete:
        heads = [
            [better_of(task, task["skips"][size]["methods"][name]) for task in tasks]
            for name in ("forward", "gradient")
        ]
        gap, low, high = (100 * part for part in pooled([one - other for one, other in zip(*heads, strict=True)]))
        seconds = [
            [task["skips"][size]["methods"][name]["seconds"] for task in tasks] for name in ("gradient", "forward")
        ]
        lines.append(
            f"Charge-flow less gradient head, {size} skipped: accuracy {gap:+.2f} points [{low:+.2f}, {high:+.2f}]; "
            f"training {sum(seconds[0]) / sum(seconds[1]):.1f}x as fast ({sum(seconds[0]):.1f} s against "
            f"{sum(seconds[1]):.2f} s for {len(seconds[0])} heads)."
        )
    for size in ("1", "2", "3"):
        for method in ("distilled", "distilled + forward"):
            made = [better_of(task, _methods(task, size)[method]) for task in tasks if method in _methods(task, size)]
            if len(made) == len(plain):
                gap, low, high = (100 * part for part in pooled(made))
                lines.append(
                    f"{METHODS[method].capitalize()}, {size} of 6 layers skipped: accuracy {gap:+.2f} points "
                    f"[{low:+.2f}, {high:+.2f}] over all rows, one-sided 95 % bound {100 * pooled_bound(made):+.2f}."
                )
    return "\n".join(f"- {line}" for line in lines)


def cascade_table(results: Mapping[str, Any]) -> str:
    """Return the table of the certified cascades."""
    rows = []
    for name, task in results["tasks"].items():
        for allowed, entry in task["cascade"].items():
            changed, work = flips_of(task, entry), np.array(entry["work"])
            certificate, simulation = entry["certificate"], entry["simulation"]
            whole = np.array(entry["full_work"])
            slowest, fastest = ratio_interval(whole, work, 0)
            left = classes_of(entry["left"])
            shares = [f"{(left == part).mean():.0%}" for part in range(len(entry["exits"]) + 1)]
            delta = 100 * better_of(task, entry).mean()
            rows.append([
                name,
                f"{float(allowed):.0%}",
                f"{' and '.join(map(str, entry['exits']))} ({' / '.join(shares)})",
                f"{certificate['flips']} of {certificate['rows']}: at most {100 * certificate['bound']:.2f} %"
                if certificate["met"]
                else "nothing",
                markdown.share(changed.mean(), *share_interval(int(changed.sum()), len(changed)), places=2),
                f"{delta:+.2f}",
                f"{whole.sum() / work.sum():.2f}x [{slowest:.2f}, {fastest:.2f}]",
                f"{simulation['broken']} of {simulation['draws']} ({simulation['broken_naive']})",
            ])  # fmt: skip
    columns = (
        "task", "allowed flips", "exits (rows that leave there / go to the end)", "certified on unlabelled text, 95 %",
        "flips measured [95 %]", "accuracy delta, points", "less encoder work [95 %]", "bound broken (naive rule)",
    )  # fmt: skip
    return markdown.table(columns, rows)


def cascade_reading(results: Mapping[str, Any]) -> str:
    """Return for every bound that all tasks were measured at what the cascades saved, changed and cost, pooled."""
    tasks = list(results["tasks"].values())
    lines = []
    for allowed in sorted(set.intersection(*(set(task["cascade"]) for task in tasks)), key=float):
        made = [task["cascade"][allowed] for task in tasks]
        whole, work = (np.concatenate([entry[name] for entry in made]) for name in ("full_work", "work"))
        slowest, fastest = ratio_interval(whole, work, 0)
        changed, low, high = (
            100 * part for part in pooled([flips_of(*pair) for pair in zip(tasks, made, strict=True)])
        )
        better = [better_of(*pair) for pair in zip(tasks, made, strict=True)]
        gap, worst, best = (100 * part for part in pooled(better))
        lines.append(
            f"- At most {float(allowed):.0%} changed, all rows of {len(tasks)} tasks: {whole.sum() / work.sum():.2f}x less "
            f"encoder work [{slowest:.2f}, {fastest:.2f}], {changed:.2f} % changed predictions [{low:.2f}, {high:.2f}], "
            f"accuracy {gap:+.2f} points [{worst:+.2f}, {best:+.2f}], one-sided 95 % bound {100 * pooled_bound(better):+.2f}."
        )
    return "\n".join(lines)


def write(results: Mapping[str, Any]) -> None:
    """Put every table whose figures are there into tables/compensation.md and tables/cascade.md."""
    found = {name: results["tasks"][name] for name in TASKS if name in results["tasks"]}
    tasks = {name: task for name, task in found.items() if task.get("skips")}
    if tasks:
        known = {"tasks": tasks}
        sizes = sorted({size for task in tasks.values() for size in task["skips"]})
        parts = [skip_reading(known)] if len(tasks) > 1 else []
        for size in sizes:
            parts += [f"**{size} of 6 layers skipped, changed predictions (%)**"]
            parts += [method_table(known, size, flips_of, "{:.1f}")]
            parts += [f"**{size} of 6 layers skipped, accuracy delta (points)**"]
            parts += [method_table(known, size, better_of, "{:+.1f}")]
        markdown.put("compensation", "\n\n".join(parts))
    for names, mark in ((TASKS, "cascade"), (TWELVE, "cascade_twelve")):
        every = {name: results["tasks"][name] for name in names if "cascade" in results["tasks"].get(name, {})}
        if every:
            known = {"tasks": every}
            reading = [cascade_reading(known)] if len(every) > 1 else []
            markdown.put(mark, "\n\n".join([*reading, cascade_table(known)]))


def _methods(task: Mapping[str, Any], size: str) -> Mapping[str, Any]:
    return task["skips"].get(size, {}).get("methods", {})
