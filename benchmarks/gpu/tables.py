"""Tables and figure of the GPU benchmark in tables/gpu.md; without a results file, the sentence that says so."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import markdown

HERE = Path(__file__).parents[1]
MISSING = (
    "**The figures are missing**: no machine with a GPU was at hand. `make bench-gpu` on one makes them, and writes the "
    "tables here; `--part latency`, `workload`, `search` and `pipeline` run one by one where time is short."
)
GRID = (1, 32), (1, 128), (1, 384), (8, 128), (32, 32), (32, 128), (32, 384), (128, 128), (128, 384)
"""Batch and length of the columns; the results file has the others."""
GRAPH, BOUND, EAGER, COMPILED = "ORT CUDA graph", "ORT CUDA", "PyTorch eager", "PyTorch compiled"
AGAINST = (
    "In brackets the gain over the opponent: of a file the full model's file that computes all rows, in the same engine and "
    "precision; of that file and of PyTorch the full model in eager PyTorch of that precision."
)
Row = Mapping[str, Any]


def write(files: Sequence[Path]) -> list[str]:
    """Write tables/gpu.md between its marks, and a figure for each file; return what was written, in words."""
    found = [(path, json.loads(path.read_text(encoding="utf-8"))) for path in files]
    measured = [(path, results) for path, results in found if results["device"] == "cuda"]
    if not measured:
        markdown.put("gpu", MISSING)
        return ["tables/gpu.md: no results of a GPU, said so"]
    lines, sections = [], []
    for path, results in measured:
        picture = figure(results, HERE / "figures" / f"{path.stem}.png")
        sections.append(section(results, picture))
        lines += [f"tables/gpu.md: {path.name}"] + ([f"figure: {picture}"] if picture else [])
    markdown.put("gpu", "\n\n".join(sections))
    return lines


def section(results: Mapping[str, Any], picture: Path | None) -> str:
    """Return the Markdown of one machine."""
    parts = [f"### {results['device_name']}: {results['size']}, {results['label']}", results["note"], about(results)]
    if "latency" in results:
        for precision in ("fp16", "fp32"):
            if not present(results, precision):
                parts.append(f"**{precision}**: not measured yet; the same command measures what is left.")
                continue
            heading = f"**{precision}**, p50 in milliseconds (batch x tokens). {AGAINST}"
            parts += [heading, latency_table(results, precision)]
        if picture is not None:
            parts.append(f"![p50 by layers kept](../{picture.relative_to(HERE)})")
    if results.get("workload", {}).get("cells"):
        lengths = results["workload"]["lengths"]
        heading = (
            f"**Texts at their real lengths** ({lengths['source']}), in brackets against padded fp32 eager PyTorch:"
        )
        parts += [heading, workload_table(results)]
    if "search" in results:
        parts.append(search_words(results))
    if "pipeline" in results:
        parts.append(pipeline_words(results))
    parts += ["Goals:", goals_table(results)]
    return "\n\n".join(part for part in parts if part)


def about(results: Mapping[str, Any]) -> str:
    """Return the environment in a sentence, and what could not run."""
    last = next(
        results[part]["environment"] for part in ("latency", "workload", "search", "pipeline") if part in results
    )
    gpu = last.get("gpu", {})
    words = (
        f"Measured {last['measured']} with torch {last['torch']} (CUDA {last['cuda']}), onnxruntime {last['onnxruntime']} "
        f"(CUDA {gpu.get('onnxruntime_cuda')}), driver CUDA {gpu.get('driver_cuda')}."
    )
    cells = [
        *results.get("latency", {}).get("cells", {}).values(),
        *results.get("workload", {}).get("cells", {}).values(),
    ]
    left_out = {name: reason for cell in cells for name, reason in cell["left_out"].items()}
    reasons = "; ".join(f"{name} ({reason})" for name, reason in left_out.items())
    return words + (f" Could not run: {reasons}." if reasons else "")


def latency_table(results: Mapping[str, Any], precision: str) -> str:
    """Return p50 by way (rows) and cell (columns), with the gain over the way's opponent."""
    cells = [cell for cell in GRID if rows_of(results, precision, *cell)] or present(results, precision)
    names: dict[str, dict[tuple[int, int], str]] = {}
    for cell in cells:
        for row in rows_of(results, precision, *cell):
            names.setdefault(row["name"], {})[cell] = f"{row['p50_ms']:.3f}{gain(row)}"
    columns = ["model", *(f"{batch} x {length}" for batch, length in cells)]
    return markdown.table(
        columns, [[name, *(values.get(cell, "") for cell in cells)] for name, values in names.items()]
    )


def present(results: Mapping[str, Any], precision: str) -> list[tuple[int, int]]:
    """Return the cells that were measured in a precision."""
    cells = results["latency"]["cells"]
    return list(dict.fromkeys(
        (row["batch"], row["length"]) for key, cell in cells.items() if key.startswith(precision) for row in cell["rows"]
    ))  # fmt: skip


def rows_of(results: Mapping[str, Any], precision: str, batch: int, length: int) -> list[Row]:
    """Return every way's row of a cell, most layers first; the full model's is that measured beside no smaller one."""
    prefix, suffix = f"{precision}, minus ", f", {batch} x {length}"
    cells = results.get("latency", {}).get("cells", {})
    groups = [cells[key]["rows"] for key in sorted(cells) if key.startswith(prefix) and key.endswith(suffix)]
    rows: dict[str, Row] = {}
    for row in (row for group in groups for row in group):
        rows.setdefault(row["name"], row)
    return sorted(rows.values(), key=lambda row: (-row["layers"], row["engine"], row["tail"], row["precision"]))


def workload_table(results: Mapping[str, Any]) -> str:
    """Return texts a second by way (rows) and cell (columns), with the ratio to padded float32 eager PyTorch."""
    cells = results["workload"]["cells"]
    names: dict[str, dict[str, str]] = {}
    for cell, measured in cells.items():
        for row in measured["rows"]:
            names.setdefault(row["name"], {})[cell] = f"{row['texts_per_s']:,.0f}{gain(row)}"
    return markdown.table(
        ["texts a second, batches of", *cells],
        [[name, *(values.get(cell, "") for cell in cells)] for name, values in names.items()],
    )


def gain(row: Row) -> str:
    """Return the speed-up of a row over its opponent in brackets; nothing where it has none."""
    if row["speedup_ci95"] is None:
        return ""
    return f" ({row['speedup']:.2f}x{'' if row['claimed'] else ', noise'})"


def search_words(results: Mapping[str, Any]) -> str:
    """Return a sentence on the search through every set of layers."""
    parts = []
    for precision, found in results["search"]["by_precision"].items():
        took = f"{found['seconds']:.1f} s" if found["seconds"] is not None else f"not run ({found['reason']})"
        parts.append(f"{precision} {took} (predicted {found['predicted_seconds']:.1f} s)")
    return (
        f"Every one of {found['sets']:,} sets of layers, {found['texts']:,} texts, {found['tokens']:,} tokens, "
        f"{found['layer_applications']:,} layer applications with shared prefixes instead of "
        f"{found['without_sharing']:,}: {'; '.join(parts)}."
    )


def pipeline_words(results: Mapping[str, Any]) -> str:
    """Return a sentence on the time of a whole compression."""
    found = results["pipeline"]
    steps = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["seconds"].items())
    return (
        f"A compression by {found['skipped']} layers on {found['texts']:,} texts: {steps}; {found['total_seconds']:.1f} s "
        f"together (scores: {found['scored']}; files: {', '.join(found['exported'])})."
    )


def goals_table(results: Mapping[str, Any]) -> str:
    """Return every goal beside what was measured."""
    full, half = results["layers"], results["layers"] // 2
    graphs = [row for row in rows_of(results, "fp16", 1, 128) if row["engine"] == GRAPH]
    times = {layers: [row["p50_ms"] for row in graphs if row["layers"] == layers] for layers in (full, half)}
    cells = results.get("workload", {}).get("cells", {}).values()
    gains = [row["speedup"] for cell in cells for row in cell["rows"] if row["engine"].startswith("ORT")]
    searched = [found["seconds"] for found in results.get("search", {}).get("by_precision", {}).values()]
    rows = [
        (f"{full} layers, fp16, CUDA graph, 1 x 128: at most 0.40 ms", _least(times[full]), 0.40, " ms"),
        (f"{half} layers, the same: at most 0.22 ms", _least(times[half]), 0.22, " ms"),
        ("texts a second on the workload: 10 times padded fp32 eager PyTorch", max(gains, default=None), -10.0, "x"),
        ("every set of layers tried: under 60 s", _least(value for value in searched if value is not None), 60.0, " s"),
    ]
    return markdown.table(["goal", "best measured", "met"], [goal_row(*row) for row in rows])


def goal_row(words: str, value: float | None, limit: float, unit: str) -> list[str]:
    """Return a row of the goals; a negative limit is a lower one."""
    if value is None:
        return [words, "not measured", ""]
    met = value >= -limit if limit < 0 else value <= limit
    return [words, f"{value:.3g}{unit}", "yes" if met else "no"]


def figure(results: Mapping[str, Any], target: Path) -> Path | None:
    """Draw p50 against the layers kept, for one text and for 32, and write it; None where nothing is there to draw."""
    panels = [(1, 128), (32, 128)]
    if not any(rows_of(results, "fp16", *cell) for cell in panels):
        return None
    from compressor.report.figures.style import COMPRESSED, FULL, SKIPPED, dress, legend, new_figure, png

    drawn = new_figure(3.6, f"{results['device_name']}, {results['size']}, {results['label']}: p50 by layers kept")
    looks = {
        ("fp16", GRAPH, True): (COMPRESSED, "o", "-", "fp16, CUDA graph, CLS tail"),
        ("fp16", GRAPH, False): (COMPRESSED, "o", ":", "fp16, CUDA graph, all rows"),
        ("fp16", BOUND, True): (SKIPPED, "s", "-", "fp16, CUDA, CLS tail"),
        ("fp32", BOUND, True): (FULL, "^", "-", "fp32, CUDA, CLS tail"),
        ("fp16", EAGER, False): (FULL, "x", "--", "fp16, eager PyTorch"),
    }
    for axes, cell in zip(drawn.subplots(1, len(panels)), panels, strict=True):
        for (precision, engine, tail), (colour, marker, line, label) in looks.items():
            rows = [
                row
                for row in rows_of(results, precision, *cell)
                if (row["precision"], row["engine"], row["tail"]) == (precision, engine, tail)
            ]
            points = [(row["layers"], row["p50_ms"]) for row in rows]
            if points:
                axes.plot(*zip(*points, strict=True), color=colour, marker=marker, linestyle=line, label=label)
        axes.set(xlabel="layers kept", ylabel="p50, ms", title=f"batch {cell[0]}, {cell[1]} tokens", ylim=(0, None))
        dress(axes, "y")
    legend(drawn.axes[0], None)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(png(drawn))
    return target


def _least(values: Iterable[float]) -> float | None:
    return min(values, default=None)
