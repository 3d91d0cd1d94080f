"""The table of run.py, computed from its results."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from compressor.measurement.statistics import share_interval
from compressor.model.units import unit_words
from compressor.report.formats import is_full
from compressor.report.wording.kinds import quality

RESULTS = Path(__file__).parents[1] / "results" / "kinds.json"
COLUMNS = ["kind", "run", "gone", "measure", "full", "compressed", "change, points [95 %]", "changed answers [95 %]", "tier",
           "ONNX float32, largest difference"]  # fmt: skip


def put_tables(results: Mapping[str, Any]) -> None:
    """Write the table and the lines of what ships into tables/kinds.md."""
    if not results:
        return
    rows = [row for kind, entry in results.items() for row in rows_of(kind, entry)]
    lines = [f"- {kind}: {entry['runs']['ship']['line']}" for kind, entry in results.items() if "ship" in entry["runs"]]
    others = [f"- {kind}, full model: {others_of(entry)}." for kind, entry in results.items()]
    markdown.put("kinds", "\n\n".join([markdown.table(COLUMNS, rows), "\n".join([*lines, *others])]))


def rows_of(kind: str, entry: Mapping[str, Any]) -> Iterator[list[str]]:
    """Yield a row for each run of a kind."""
    for name, run in entry["runs"].items():
        full, own = (run["variants"].get(key) for key in ("full", run["key"]))
        versus = own["versus_full"]
        if versus is None:
            continue
        metric, parity = versus["metric"], run["parity"].get("fp32") or run["parity"].get("optimized")
        yield [
            kind, name, "nothing" if is_full(run["key"]) or not run["plan"] else unit_words(run["plan"]), metric,
            *(quality(side["accuracy"], metric) for side in (full, own)),
            markdown.points(versus["accuracy_delta"], *versus["ci95"]),
            markdown.share(versus["flip_rate"], *share_interval(versus["flips"], versus["rows"])), versus["tier"],
            f"{parity['max_abs']:.1g}" if parity else "",
        ]  # fmt: skip


def others_of(entry: Mapping[str, Any]) -> str:
    """Return the other figures of the full model."""
    full = next(iter(entry["runs"].values()))["variants"]["full"]
    more = {**({"macro F1": full["f1"]} if full["f1"] is not None else {}), **(full["metrics"] or {})}
    return ", ".join(f"{name} {value:.3f}" for name, value in more.items())
