"""Tables of latency, cold start and memory."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from compressor.cli.tables import speedup_text, table
from compressor.report.formats import short_names

LONGEST = 60
"""Characters of a model's name that a table of latencies has room for."""


def bench_tables(measured: Mapping[str, Any]) -> list[Table | str]:
    """Return what `compressor bench` measured: latency, cold start where it was asked for, noise, exits of cascades."""
    return [
        latency_table(measured["latency"]),
        *([footprint_table(measured["footprint"])] if measured["footprint"] else []),
        *noise_lines(measured["noise_floor"]),
        *(stats_line(name, stats) for name, stats in measured["cascades"].items()),
    ]


def latency_table(rows: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return latency rows: one line per model and cell."""
    short = short_names([*rows], LONGEST)
    lines = [
        (
            short[name],
            row["provider"],
            f"{row['batch']} x {row['length']}",
            f"{row['p50_ms']:.2f}",
            f"{row['p90_ms']:.2f}",
            f"{row['p99_ms']:.2f}",
            f"{row['texts_per_s']:.0f}",
            str(row["runs"]) + ("" if row["complete"] else " (cut)"),
            speedup_text(row),
        )
        for name, cells in rows.items()
        for row in cells
    ]
    columns = ["model", "runs on", "batch x tokens", "p50 ms", "p90", "p99", "texts/s", "runs", "speed-up [95 %]"]
    return table("latency", columns, lines)


def footprint_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return cold start and peak memory: one line per model; blank where the system does not say."""

    def megabytes(size: float | None) -> str:
        return "" if size is None else f"{size / 1e6:.0f} MB"

    short = short_names([*rows], LONGEST)
    lines = [
        (
            short[name],
            f"{row['load_s']:.2f} s",
            f"{1000 * row['first_call_s']:.1f} ms",
            megabytes(row["peak_bytes"]),
            megabytes(row["imported_bytes"]),
            megabytes(row["gpu_bytes"]),
        )
        for name, row in rows.items()
    ]
    first = next(iter(rows.values()))
    title = f"cold start and memory, each in a process of its own (median of {first['children']})"
    columns = ["model", "load", "first call", "peak memory", "of it imports", "GPU memory"]
    return table(title, columns, lines)


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
