"""What came of a sweep: a row for each point, read from the results of its runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.errors import UserError, whole_result
from compressor.files import check_schema, lies_inside, read_json
from compressor.report.build import read_result
from compressor.report.tables.variants import variant_rows
from compressor.report.wording.answer import answer_line
from compressor.report.wording.kinds import counted_of
from compressor.report.wording.wording import judged_variant
from compressor.sweep.points import Point
from compressor.sweep.work import MET, Outcome

if TYPE_CHECKING:
    import pandas as pd

SWEEP, PAGE = "sweep.json", "sweep.html"
SCHEMA = 1
COLUMNS = (
    "name", "state", "variant", "tier", "flips", "rows", "flip_rate", "accuracy_delta", "delta_low", "delta_high", "speedup",
    "speedup_low", "speedup_high", "p50_ms", "bytes", "goals_met", "seconds", "shared_seconds", "attempts",
)  # fmt: skip
"""What a row says of a point beside its place in the sweep: see docs/sweep.md."""


@dataclass(frozen=True)
class SweepResult:
    """A finished sweep: its folder and what sweep.json holds."""

    path: Path
    result: dict[str, Any]

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The rows of the points that did not reach their end."""
        return [row for row in self.result["points"] if row["state"] == "failed"]

    def to_frame(self) -> "pd.DataFrame":
        """Return a row for each point, indexed by its name: its place in the sweep, then `COLUMNS`."""
        import pandas as pd

        rows = [{**row["place"], **{key: row[key] for key in COLUMNS}} for row in self.result["points"]]
        return pd.DataFrame(rows).set_index("name")


def open_sweep(path: str | Path) -> SweepResult:
    """Return a finished sweep from its folder; raises UserError where there is none that this version reads."""
    path = Path(path)
    try:
        result = read_json(path / SWEEP)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: there is no {SWEEP} to read here; name the folder of a sweep.") from error
    check_schema(result, SCHEMA, path / SWEEP, "run the sweep again")
    with whole_result(str(path / SWEEP)):
        outside = [row["name"] for row in result["points"] if not lies_inside(row["name"])]
    if outside:
        raise UserError(f"{path / SWEEP}: it names {outside[0]!r}, which lies elsewhere; run the sweep again.")
    return SweepResult(path, result)


def named_runs(folders: Sequence[Path]) -> list[Path]:
    """Return run directories: of a sweep those of its points that reached their end."""
    found: list[Path] = []
    for folder in map(Path, folders):
        if not (folder / SWEEP).is_file():
            found.append(folder)
            continue
        points = open_sweep(folder).result["points"]
        found += [folder / "points" / row["name"] for row in points if row["state"] != "failed"]
    return found


def sweep_result(
    name: str,
    path: Path,
    points: Sequence[Point],
    outcomes: Mapping[str, Outcome],
    wall: float,
    engine: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of sweep.json: rows of the points in their order, and what was shared between them.

    `shared` counts the stages that points took from one another, the seconds that these had once taken, and `computed`, the
    seconds of all stages that were computed in this call.
    """
    rows = [row_of(point, outcomes[point.name], path / "points" / point.name) for point in points]
    return {
        "schema": SCHEMA,
        "name": name,
        "engine": dict(engine),
        "wall_seconds": wall,
        "shared": {
            "stages": sum(row["shared_stages"] for row in rows),
            "seconds": sum(row["shared_seconds"] for row in rows),
            "computed": sum(row["computed_seconds"] for row in rows),
        },
        "front": front(rows),
        "points": rows,
    }


def row_of(point: Point, outcome: Outcome, run_dir: Path) -> dict[str, Any]:
    """Return what is said of a point: of what its run ships, or else is judged by."""
    told = {"name": point.name, "place": point.place, "state": "done", "code": outcome.code, "error": outcome.error}
    told |= {"seconds": outcome.seconds, "attempts": outcome.attempts, "goals_met": outcome.code == MET, "line": None}
    stages = {"shared_stages": 0, "shared_seconds": 0.0, "computed_seconds": 0.0}
    if not outcome.done:
        return {**dict.fromkeys(COLUMNS), **told, **stages, "state": "failed", "goals_met": None, "counted": None}
    result = read_result(run_dir / "result.json")
    stages = result["stages"]
    taken = [stage for stage in stages if stage.get("shared")]
    made = [stage for stage in stages if not stage["cached"] and not stage.get("shared")]
    answer, rows = result["answer"], variant_rows(result)
    key = answer["key"] if answer else judged_variant(result)
    row, versus = rows[key], result["variants"][key]["versus_full"] or {"flips": 0, "rows": None, "flip_rate": 0.0}
    speed = (
        (answer["speedup"], *answer["speedup_ci95"])
        if answer
        else tuple(row[f"speedup{end}"] for end in ("", "_low", "_high"))
    )
    return {
        **told,
        "state": "kept" if stages and not taken and not made else "done",
        "variant": key,
        **{name: row[name] for name in ("accuracy_delta", "delta_low", "delta_high", "bytes", "p50_ms")},
        "tier": row["tier"] or (answer or {}).get("tier"),
        **{name: versus[name] for name in ("flips", "rows", "flip_rate")},
        **dict(zip(("speedup", "speedup_low", "speedup_high"), speed, strict=True)),
        "counted": counted_of(versus),
        "line": answer_line(answer) if answer else None,
        "shared_stages": len(taken),
        "shared_seconds": sum(stage["seconds"] for stage in taken),
        "computed_seconds": sum(stage["seconds"] for stage in made),
    }


def front(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the names of the points that no other is both faster and nearer to its full model than: the Pareto front.

    In the order of changed predictions, the fewest first. Points that were not timed are not on it.
    """
    timed = [row for row in rows if row["speedup"] is not None]
    found, best = [], 0.0
    for row in sorted(timed, key=lambda row: (row["flip_rate"], -row["speedup"])):
        if row["speedup"] > best:
            found.append(row["name"])
            best = row["speedup"]
    return found
