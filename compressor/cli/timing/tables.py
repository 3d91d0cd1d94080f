"""Tables of latency, cold start and memory."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from compressor.cli.tables import SHIPS, Grid, noise_note, numbers, speedup_text, words
from compressor.report.formats import cell_name, short_names

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
WHOLE = 10**6
"""Longest name: no name is cut, the table wraps it."""


def bench_tables(measured: Mapping[str, Any], shipped: Collection[str] = ()) -> list[Grid | str]:
    """Return what `compressor bench` measured: latency, cold start where it was asked for, noise, exits of cascades.

    `shipped` are the names of the models that their runs decided to ship.
    """
    return [
        *latency_tables(measured["latency"], shipped),
        *([footprint_table(measured["footprint"], shipped)] if measured["footprint"] else []),
        *noise_lines(measured["noise_floor"]),
        *(stats_line(name, stats) for name, stats in measured["cascades"].items()),
    ]


def latency_tables(rows: Rows, shipped: Collection[str] = ()) -> list[Grid]:
    """Return a table for each cell, the fastest model first; what it is compared with is named in the title."""
    cells = {(row["batch"], row["length"]): None for cells in rows.values() for row in cells}
    return [_cell_table(rows, cell, shipped) for cell in cells]


def _cell_table(rows: Rows, cell: tuple[int, int | str], shipped: Collection[str]) -> Grid:
    short = short_names([*rows], WHOLE)
    timed = [(name, row) for name, cells in rows.items() for row in cells if (row["batch"], row["length"]) == cell]
    timed.sort(key=lambda entry: entry[1]["p50_ms"])
    opponents = {row["against"] for name, row in timed if row["speedup_ci95"]}
    one = len(opponents) == 1
    lines = [
        (
            short[name] + (" (ships)" if name in shipped else ""),
            f"{row['p50_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['texts_per_s']:.0f}",
            speedup_text(row),
            short[row["against"]] if speedup_text(row) and not one else "",
            f"{row['p90_ms']:.2f}",
            str(row["runs"]) + ("" if row["complete"] else " (cut)"),
            row["provider"],
        )
        for name, row in timed
    ]
    columns = [
        *words("model"), *numbers("p50 ms"), *numbers("p99", "texts/s", rank=1), *numbers("speed-up [95 %]"),
        *words("over", rank=2), *numbers("p90", "runs", rank=3), *words("runs on", rank=4),
    ]  # fmt: skip
    over = f"; speed-up over {short[next(iter(opponents))]}" if one else ""
    over = over or ("; speed-up over the full model of the same run in the same format" if opponents else "")
    styles = {place: SHIPS for place, (name, _) in enumerate(timed) if name in shipped}
    return Grid(f"latency, {cell_name(*cell)}{over}", columns, lines, noise_note([row for _, row in timed]), styles)


def footprint_table(rows: Mapping[str, Mapping[str, Any]], shipped: Collection[str] = ()) -> Grid:
    """Return cold start and peak memory, the quickest start first; blank where the system does not say."""

    def megabytes(size: float | None) -> str:
        return "" if size is None else f"{size / 1e6:.0f} MB"

    short = short_names([*rows], WHOLE)
    started = sorted(rows.items(), key=lambda entry: entry[1]["load_s"] + entry[1]["first_call_s"])
    lines = [
        (
            short[name] + (" (ships)" if name in shipped else ""),
            f"{row['load_s']:.2f} s",
            f"{1000 * row['first_call_s']:.1f} ms",
            megabytes(row["peak_bytes"]),
            megabytes(row["gpu_bytes"]),
            megabytes(row["imported_bytes"]),
        )
        for name, row in started
    ]
    first = next(iter(rows.values()))
    title = f"cold start and memory, each in a process of its own (median of {first['children']})"
    columns = [
        *words("model"),
        *numbers("load", "first call", "peak memory"),
        *numbers("GPU memory"),
        *numbers("of it imports", rank=1),
    ]
    styles = {place: SHIPS for place, (name, _) in enumerate(started) if name in shipped}
    return Grid(title, columns, lines, styles=styles)


def noise_lines(floors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line an opponent: how far its two timings differ over all cells."""
    intervals: dict[str, list[float]] = {}
    for floor in floors:
        intervals.setdefault(floor["model"], []).extend(floor["ci95"])
    return [
        f"noise floor of {name} (timed against itself): {min(bounds):.3f}x to {max(bounds):.3f}x"
        for name, bounds in intervals.items()
    ]


def stats_line(name: str, stats: Mapping[str, Any]) -> str:
    """Return where the rows left a cascade, over all timed runs."""
    places = [
        "in the full model" if entry.get("full") else f"behind layer {entry['layer']}" for entry in stats["exits"]
    ]
    shares = ", ".join(f"{entry['share']:.1%} {place}" for entry, place in zip(stats["exits"], places, strict=True))
    return f"{name}: answered {shares}"
