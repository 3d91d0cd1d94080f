"""A finished run as a Python object, fresh from `run_recipe` or opened from its directory."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.data.files import expanded
from compressor.errors import whole_result
from compressor.report.build import read_result
from compressor.report.card import card_html
from compressor.report.context import report_context
from compressor.report.formats import cut
from compressor.report.tables.variants import COLUMNS, variant_rows
from compressor.report.wording.answer import answer_line
from compressor.report.wording.kinds import counted_of
from compressor.run.rundir import StageRecord

if TYPE_CHECKING:
    import pandas as pd

RESULT = "result.json"
LONGEST = 200
"""Characters of what a prompt shows of a run."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """A finished run: its directory, the content of result.json, and how each stage ended."""

    path: Path
    """The run directory."""
    result: dict[str, Any]
    """The content of result.json."""
    stages: tuple[StageRecord, ...]
    """Every stage: its seconds, and whether it was kept from before."""

    @property
    def answer(self) -> dict[str, Any] | None:
        """What to ship, and what was measured of it (the part `answer` of result.json); None where no recipe asked for it."""
        return self.result.get("answer")

    @cached_property
    def line(self) -> str:
        """The sentence on top of the report: what to ship, how much faster that is, what it costs."""
        return answer_line(self.answer) if self.answer else report_context(self.result)["headline"]

    @property
    def shipped(self) -> Path | None:
        """The folder of what to ship; None where that is what runs today, or where the recipe does not decide."""
        path = (self.answer or {}).get("path")
        return None if path is None else self.path / path

    @property
    def report(self) -> Path:
        """The report, one page that needs no network."""
        return self.path / "report.html"

    @property
    def goals_met(self) -> bool:
        """Whether the recipe's goals hold; True where it names none."""
        parts = self.result.get("goals"), self.answer
        return all(part is None or part["met"] is not False for part in parts)

    def to_frame(self) -> "pd.DataFrame":
        """Return a row for each variant, by its key in result.json: accuracy, changes, tier, time, speed-up, size.

        What its columns hold says `docs/python.md`. Times and speed-ups are of one cell, that of the answer; shares are 0..1,
        times milliseconds, sizes bytes.
        """
        import pandas as pd

        rows = variant_rows(self.result)
        frame = pd.DataFrame(list(rows.values()), index=pd.Index(list(rows), name="variant"), columns=list(COLUMNS))
        # types that stay what they are where a value is missing
        return frame.astype({**dict.fromkeys(("flips", "rows", "batch"), "Int64"), "claimed": "boolean"})

    def __repr__(self) -> str:
        versus = self.result["variants"]["compressed"]["versus_full"]
        what = (
            answer_line(self.answer) if self.answer else f"{versus['tier']}, {versus['flips']:,} of {versus['rows']:,}"
        )
        what += "" if self.answer else f" {counted_of(versus)} changed"
        return cut(f"<RunResult {self.result['name']}: {what}", LONGEST - 1) + ">"

    def _repr_html_(self) -> str:
        return card_html(self.result, self.line, str(self.report))


def open_run(path: str | Path) -> RunResult:
    """Return a finished run from its directory.

    Raises UserError where there is no result.json, or one that this version cannot read.
    """
    folder = expanded(Path(path))
    result = read_result(folder / RESULT)
    with whole_result(str(folder / RESULT)):
        stages = tuple(StageRecord(stage["name"], stage["seconds"], stage["cached"]) for stage in result["stages"])
        done = RunResult(folder, result, stages)
        card_html(result, done.line, "")  # what is looked at later is there
    return done
