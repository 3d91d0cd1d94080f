"""Tables of a sweep."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.cli.tables import ALARM, SHIPS, Column, Grid, numbers, ratio_text, words
from compressor.report.formats import milliseconds, seconds, variant_name
from compressor.sweep.sweep import Expected


def points_table(result: Mapping[str, Any]) -> Grid:
    """Return the points of a finished sweep, those of the Pareto front marked, and what was shared below them."""
    rows, styles = [], {}
    for number, row in enumerate(result["points"]):
        if row["state"] == "failed":
            rows.append((row["name"], "", "failed", "", "", "", "", seconds(row["seconds"])))
            styles[number] = ALARM
            continue
        interval = None if row["speedup_low"] is None else (row["speedup_low"], row["speedup_high"])
        speed = "" if row["speedup"] is None else ratio_text(row["speedup"], interval)
        changed = f"{row['flips']:,} of {row['rows']:,}" if row["rows"] else "none"
        name = f"{row['name']} *" if row["name"] in result["front"] else row["name"]
        time = milliseconds(row["p50_ms"]) if row["p50_ms"] is not None else ""
        rows.append(
            (
                name,
                variant_name(row["variant"]),
                row["tier"] or "",
                speed,
                changed,
                time,
                f"{row['bytes'] / 1e6:.1f} MB",
                seconds(row["seconds"]),
            )
        )
        if row["name"] in result["front"]:
            styles[number] = SHIPS
    shared = result["shared"]
    notes = ["*: no other point is both faster and nearer to its full model"] if result["front"] else []
    if shared["stages"]:
        notes.append(
            f"{shared['stages']} stages were taken from other points, which had taken {seconds(shared['seconds'])}; "
            f"{seconds(shared['computed'])} were computed in {seconds(result['wall_seconds'])}"
        )
    columns = [
        *words("point"), Column("variant", words=True, rank=2), *words("tier"), *numbers("speed-up [95 %]", "changed"),
        Column("p50", rank=1), Column("size", rank=1), Column("took", rank=3),
    ]  # fmt: skip
    return Grid(f"{result['name']}: {len(rows)} points", columns, rows, notes, styles)


def expected_table(points: Sequence[Expected]) -> Grid:
    """Return the points of a sweep that is yet to run: what is there, what another point does, the time that is known."""
    rows = []
    for point in points:
        if point.refused:
            rows.append((point.name, "refused", "", "", "", point.refused))
            continue
        state = "done" if point.kept == point.stages else "to do" if not point.kept else "begun"
        low, high = point.seconds["low"], point.seconds["high"]
        time = "" if state == "done" else f"{low:,.0f} to {high:,.0f} s"
        rows.append((point.name, state, f"{point.kept} of {point.stages}", str(point.shared), time, ""))
    columns = [*words("point", "state"), *numbers("stages kept", "shared", "timing")]
    return Grid("", [*columns, Column("why", words=True, below=True)], rows)


def total_line(points: Sequence[Expected]) -> str:
    """Return the sum of what is to do, a sentence."""
    low, high = (sum(point.seconds[end] for point in points) / 3600 for end in ("low", "high"))
    todo = sum(point.kept < point.stages for point in points)
    refused = sum(bool(point.refused) for point in points)
    names = sorted({name for point in points for name in point.seconds["unknown"]})
    beside = f", beside {', '.join(names)}, of which no time is known" if names else ""
    if not todo:
        return f"{len(points)} points, {f'{refused} refused, the others' if refused else 'all'} done."
    wrong = f"; {refused} refused" if refused else ""
    return f"{todo} of {len(points)} points to do: {low:.2f} to {high:.2f} hours of measurements on one worker{beside}{wrong}."
