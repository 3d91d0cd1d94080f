"""One call for a whole sweep: points, engine, result, page."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compressor.errors import UserError
from compressor.files import claim_folder, write_json
from compressor.measurement.machine.doctor import resolve_device
from compressor.measurement.machine.environment import torch_threads
from compressor.pipeline.dry_run import dry_run, expected_seconds
from compressor.pipeline.pipeline import Say, no_words
from compressor.progress import Track, silent
from compressor.recipe.file import load_spec, spec_of
from compressor.recipe.sweep import SweepRecipe
from compressor.run.store.store import is_url, open_store
from compressor.run.workers import check_engine, share_of
from compressor.sweep.engines import ENGINES
from compressor.sweep.page import build_page
from compressor.sweep.points import points_of
from compressor.sweep.result import SWEEP, SweepResult, sweep_result
from compressor.sweep.work import STORE, TAKEN, Outcome, brought_back, job_of


@dataclass(frozen=True)
class Expected:
    """What a point would take: its stages, those that are there, and the seconds that are known beforehand."""

    name: str
    stages: int
    kept: int
    shared: int
    """Stages that an earlier point of the sweep does as well, or has done."""
    seconds: dict[str, Any]
    refused: str = ""
    """Why the point cannot run, where that is known beforehand."""


def run_sweep(
    sweep: str | Path | Mapping[str, Any] | SweepRecipe,
    out: str | Path | None = None,
    *,
    source: Path | None = None,
    device: str = "auto",
    track: Track = silent,
    say: Say = no_words,
) -> SweepResult:
    """Run all points of a sweep, what is done already kept; write sweep.json and sweep.html into `out` (default runs/NAME).

    The sweep is a YAML file, a dict or a SweepRecipe, which `source` says the file of. A point that fails is reported and the
    others go on. Raises UserError where a point is no recipe, before any runs, and where another sweep is at work in the folder.
    """
    if isinstance(sweep, str | Path):
        sweep, source = load_spec(sweep, SweepRecipe), Path(sweep)
    elif not isinstance(sweep, SweepRecipe):
        sweep = spec_of(sweep, SweepRecipe, source="the sweep")
    points, folder = points_of(sweep, source), folder_of(sweep, out)
    device = "cuda" if sweep.engine.gpus else resolve_device(device)
    check_engine(sweep.engine)
    claim_folder(folder, OWN, "--out", "sweep")
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"--out {folder}: another sweep is at work in this folder; wait for it or name another one."
        ) from error
    except OSError as error:
        raise UserError(
            f"--out {folder}: the folder cannot be written ({error.strerror}); name another one."
        ) from error
    with lock:
        store = sweep.store or str(folder / STORE)
        open_store(store)
        apart = sweep.engine.kind == "ray" and is_url(store)
        jobs = {point.name: job_of(point, folder, device, store, apart=apart) for point in points}
        started, outcomes = time.monotonic(), {}
        for ended in track(ENGINES[sweep.engine.kind](list(jobs.values()), sweep.engine), "points", total=len(jobs)):
            outcome = brought_back(jobs[ended.name], ended) if apart else ended
            outcomes[outcome.name] = outcome
            say(f"{outcome.name}: {_said(outcome)} ({len(outcomes)} of {len(jobs)})")
        wall = time.monotonic() - started
        result = sweep_result(sweep.name, folder, points, outcomes, wall, sweep.engine.model_dump(mode="json"))
        write_json(folder / SWEEP, result)
        build_page(folder, result)
    return SweepResult(folder, result)


OWN = {".lock", STORE, TAKEN, "logs", "recipes", "points", "figures", "sweep.json", "sweep.html"}
"""What lies in the folder of a sweep."""


def folder_of(sweep: SweepRecipe, out: str | Path | None) -> Path:
    """Return the folder of a sweep: `out`, or runs/NAME."""
    return Path(out) if out is not None else Path("runs") / sweep.name


def expected(
    sweep: SweepRecipe, out: str | Path | None = None, *, source: Path | None = None, device: str = "auto"
) -> list[Expected]:
    """Return what every point would take; nothing is computed or written. Raises UserError as `points_of` does."""
    folder, found = folder_of(sweep, out), []
    seen: Counter[str] = Counter()
    points = points_of(sweep, source)
    threads = share_of(sweep.engine, len(points)).threads
    for point in points:
        try:
            with torch_threads(threads):  # what was timed is kept for as many threads as timed it
                stages = dry_run(point.recipe, folder / "points" / point.name, device=device)
        except UserError as error:
            found.append(Expected(point.name, 0, 0, 0, expected_seconds([]), str(error)))
            continue
        todo = [stage for stage in stages if not stage.cached]
        shared = sum(seen[stage.key] > 0 for stage in todo if stage.shared)
        seen.update(stage.key for stage in stages if stage.shared)
        kept = len(stages) - len(todo)
        found.append(Expected(point.name, len(stages), kept, shared, expected_seconds(stages)))
    return found


def _said(outcome: Outcome) -> str:
    if not outcome.done:
        return f"failed: {outcome.error}"
    again = f", attempt {outcome.attempts}" if outcome.attempts > 1 else ""
    return f"{outcome.seconds:.0f} s{again}{'' if outcome.code == 0 else ', goals missed'}"
