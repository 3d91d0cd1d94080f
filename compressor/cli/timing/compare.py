"""Tables of `compressor compare` for the terminal."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from compressor.cli.tables import accuracy_text, speedup_text, table
from compressor.report.formats import BLANK, layers_text, p_value

RUNS_ABREAST = 5
CELL_WIDTH = 24
"""Five columns of this width and the names of the rows fit into 160 columns; longer texts are wrapped."""


def compare_tables(compared: Mapping[str, Any]) -> list[Table | str]:
    """Return what `compare_runs` found: runs as columns, their directories, a row a paired run, the notes."""
    runs, cell, paired = compared["runs"], compared["cell"], compared["paired"]
    names = [f"{number}: {run['name']}" for number, run in enumerate(runs, 1)]
    parts: list[Table | str] = [
        _runs_table(names[start : start + RUNS_ABREAST], runs[start : start + RUNS_ABREAST], cell)
        for start in range(0, len(runs), RUNS_ABREAST)
    ]
    parts += [f"{number}: {run['directory']}" for number, run in enumerate(runs, 1)]
    if paired:
        title = f"paired with run 1 on the same {paired[0]['rows']:,} rows; positive is better than run 1"
        columns = ["run", "agreement", "flips", "gained", "lost", "accuracy delta [95 %]", "McNemar p", "verdict"]
        parts.append(table(title, columns, [_paired_row(_wrapped(names[row["run"] - 1]), row) for row in paired]))
    return [*parts, *(f"note: {note}" for note in compared["notes"])]


def _runs_table(names: Sequence[str], runs: Sequence[Mapping[str, Any]], cell: Mapping[str, Any] | None) -> Table:
    rows = [
        ("task", *(run["task"] for run in runs)),
        ("evaluation rows", *(f"{run['evaluation']['rows']:,}" for run in runs)),
        ("skipped layers", *(_skipped(run) for run in runs)),
        ("accuracy [95 %]", *(accuracy_text(run) for run in runs)),
        ("agreement", *(BLANK if run["agreement"] is None else f"{run['agreement']:.1%}" for run in runs)),
        ("flips", *(BLANK if run["flips"] is None else f"{run['flips']:,}" for run in runs)),
        ("tier", *(run["tier"] or BLANK for run in runs)),
        ("parameters", *(f"{run['parameters'] / 1e6:.1f} M" for run in runs)),
        ("encoder FLOPs", *(f"{run['encoder_flops'] / 1e9:.2f} GF" for run in runs)),
        ("file", *(f"{run['bytes'] / 1e6:.1f} MB" for run in runs)),
    ]
    if cell:
        rows += [
            (f"p50 ({cell['batch']} x {cell['length']})", *(_median(run["latency"]) for run in runs)),
            ("speed-up [95 %]", *(speedup_text(run["latency"]) or BLANK for run in runs)),
        ]
    title = f"{' and '.join(dict.fromkeys(run['variant'] for run in runs))}, each run against its own full model"
    return table(title, ["", *map(_wrapped, names)], [tuple(map(_wrapped, row)) for row in rows])


def _paired_row(name: str, row: Mapping[str, Any]) -> tuple[str, ...]:
    counts = f"{row['agreement']:.1%}", f"{row['flips']:,}"
    if row["ci95"] is None:
        return name, *counts, BLANK, BLANK, BLANK, BLANK, row["verdict"]
    low, high = row["ci95"]
    delta = f"{100 * row['accuracy_delta']:+.2f} points [{100 * low:+.2f}, {100 * high:+.2f}]"
    return name, *counts, f"{row['gained']:,}", f"{row['lost']:,}", delta, p_value(row["mcnemar_p"]), row["verdict"]


def _skipped(run: Mapping[str, Any]) -> str:
    which = f" ({layers_text(run['skip'])})" if run["skip"] else ""
    if any(isinstance(unit, str) for unit in run["skip"]):
        return layers_text(run["skip"])
    return f"{len(run['skip'])} of {run['layers']}{which}"


def _median(latency: Mapping[str, Any]) -> str:
    return f"{latency['p50_ms']:.2f} ms{'' if latency['complete'] else ' (cut)'}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, CELL_WIDTH, break_on_hyphens=False)
