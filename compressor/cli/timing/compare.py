"""Tables of `compressor compare` for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.cli.tables import SHIPS, Grid, accuracy_text, noise_note, numbers, speedup_text, words
from compressor.report.formats import BLANK, cell_name, layers_text, p_value

Run = Mapping[str, Any]


def compare_tables(compared: Mapping[str, Any]) -> list[Grid | str]:
    """Return what `compare_runs` found: what each run reached, best first, what it is, each pair, directories and notes."""
    runs, cell, paired = compared["runs"], compared["cell"], compared["paired"]
    variants = dict.fromkeys(run["variant"] for run in runs)
    names = {
        number: f"{number}: {run['name']}" + (f", {run['variant']}" if len(variants) > 1 else "") + _ships(run)
        for number, run in enumerate(runs, 1)
    }
    best = sorted(enumerate(runs, 1), key=lambda entry: _rank(entry[1]))
    parts: list[Grid | str] = [_reached_table(names, best, cell, [*variants]), _made_table(names, best)]
    if paired:
        parts.append(_paired_table(names, paired))
    parts += [f"{number}: {run['directory']}" for number, run in enumerate(runs, 1)]
    return [*parts, *(f"note: {note}" for note in compared["notes"])]


def _ships(run: Run) -> str:
    return " (ships)" if run["ships"] else ""


def _rank(run: Run) -> tuple[float, float]:
    """Return a sort key: the largest speed-up first, then the fewest changed predictions."""
    speedup = (run["latency"] or {}).get("speedup") or 0.0
    return -speedup, run["flips"] or 0


def _reached_table(
    names: Mapping[int, str], runs: Sequence[tuple[int, Run]], cell: Mapping[str, Any] | None, variants: Sequence[str]
) -> Grid:
    rows = [
        (
            names[number],
            accuracy_text(run, run["metric"]),
            BLANK if run["flips"] is None else f"{run['flips']:,}",
            f"{run['bytes'] / 1e6:.1f} MB",
            speedup_text(run["latency"]),
            _median(run["latency"]) if cell else "",
            BLANK if run["agreement"] is None else f"{run['agreement']:.1%}",
            run["tier"] or BLANK,
        )
        for number, run in runs
    ]
    metrics = {run["metric"] for _, run in runs}
    metric = metrics.pop() if len(metrics) == 1 else "measure"
    columns = [*words("run"), *numbers(f"{metric} [95 %]", "changed", "file", "speed-up [95 %]")]
    columns += [*numbers("p50", rank=1), *numbers("agreement", rank=2), *words("tier", rank=3)]
    if not cell:  # no time is known
        rows = [(*row[:4], *row[6:]) for row in rows]
        columns = columns[:4] + columns[6:]
    title = f"{' and '.join(variants)}, each run against its own full model"
    title += f"; times at {cell_name(cell['batch'], cell['length'])}" if cell else ""
    styles = {place: SHIPS for place, (_, run) in enumerate(runs) if run["ships"]}
    return Grid(title, columns, rows, noise_note([run["latency"] for _, run in runs]), styles)


def _made_table(names: Mapping[int, str], runs: Sequence[tuple[int, Run]]) -> Grid:
    rows = [
        (
            names[number],
            run["task"],
            f"{run['evaluation']['rows']:,}",
            _skipped(run),
            f"{run['parameters'] / 1e6:.1f} M",
            f"{run['encoder_flops'] / 1e9:.2f} GF",
        )
        for number, run in runs
    ]
    columns = [*words("run", "task"), *numbers("evaluation rows"), *words("skipped layers")]
    return Grid("what they are", [*columns, *numbers("parameters"), *numbers("encoder FLOPs", rank=1)], rows)


def _paired_table(names: Mapping[int, str], paired: Sequence[Mapping[str, Any]]) -> Grid:
    best = sorted(paired, key=lambda row: (-(row["accuracy_delta"] or 0), row["flips"]))
    columns = [*words("run"), *numbers("changed", f"{best[0]['metric']} delta [95 %]", "McNemar p"), *words("verdict")]
    columns += [*numbers("gained", "lost", rank=1), *numbers("agreement", rank=2)]
    title = f"paired with run 1 on the same {paired[0]['rows']:,} rows; positive is better than run 1"
    return Grid(title, columns, [_paired_row(names[row["run"]], row) for row in best])


def _paired_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    changed, agreement = f"{row['flips']:,}", f"{row['agreement']:.1%}"
    if row["ci95"] is None:
        return name, changed, BLANK, BLANK, row["verdict"], BLANK, BLANK, agreement
    low, high = row["ci95"]
    delta = f"{100 * row['accuracy_delta']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
    if row["gained"] is None:  # scores are not counted
        return name, changed, delta, BLANK, row["verdict"], BLANK, BLANK, agreement
    counts = f"{row['gained']:,}", f"{row['lost']:,}"
    return name, changed, delta, p_value(row["mcnemar_p"]), row["verdict"], *counts, agreement


def _skipped(run: Run) -> str:
    which = f" ({layers_text(run['skip'])})" if run["skip"] else ""
    if any(isinstance(unit, str) for unit in run["skip"]):
        return layers_text(run["skip"])
    return f"{len(run['skip'])} of {run['layers']}{which}"


def _median(latency: Mapping[str, Any]) -> str:
    return f"{latency['p50_ms']:.2f} ms{'' if latency['complete'] else ' (cut)'}"
