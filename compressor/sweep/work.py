"""One point of a sweep as a process of its own: started, watched, and what came of it."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from compressor.errors import UserError
from compressor.files import check_target, publish, stage_key, write_text
from compressor.recipe.file import dump_recipe
from compressor.run.rundir import LOCK
from compressor.run.store.store import is_url, open_store
from compressor.sweep.points import Point

STORE = "store"
"""Folder of a sweep with what its points share, where the sweep names no other place."""
TAKEN = "taken.tmp"
"""Folder of a sweep for what comes back from a store, until it is whole."""
THREADS = "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"
MET, USER_ERROR, MISSED = 0, 2, 3
"""Exit codes of a run."""
PARENT_DEATH = 1
"""The number of Linux' prctl option that ends a process with its parent."""
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Job:
    """What a worker must know of a point; nothing of it lies in the memory of the process that hands it out."""

    name: str
    recipe: str
    """The recipe as YAML."""
    folder: str
    """Folder of the sweep, which all workers share unless `apart`."""
    device: str
    store: str
    """Folder or URL of the store of stages."""
    apart: bool = False
    """Whether its worker may lie on a machine that shares no folder with this one: its run comes back through the store."""

    @property
    def run_dir(self) -> Path:
        """The run directory of the point."""
        return Path(self.folder) / "points" / self.name

    @property
    def log(self) -> Path:
        """The file with what its process says."""
        return Path(self.folder) / "logs" / f"{self.name}.txt"

    @property
    def key(self) -> str:
        """What its run lies under in the store, where it comes back through that."""
        return stage_key("point", {"recipe": self.recipe, "device": self.device})


@dataclass(frozen=True)
class Outcome:
    """How a point ended: `code` is the exit code of its run, negative for the signal that killed it."""

    name: str
    code: int
    seconds: float
    error: str
    """The sentence that the run ended with, where it failed."""
    attempts: int

    @property
    def done(self) -> bool:
        """Whether the run reached its end, its goals met or missed."""
        return self.code in {MET, MISSED}


def job_of(point: Point, folder: Path, device: str, store: str, *, apart: bool) -> Job:
    """Return the job of a point, its paths absolute: a worker may have another working directory."""
    place = store if is_url(store) else str(Path(store).resolve())
    return Job(point.name, dump_recipe(point.recipe), str(folder.resolve()), device, place, apart)


def work(job: Job, *, threads: int, cores: Sequence[int] = (), attempts: int = 1) -> Outcome:
    """Run a point to its end in a process of `threads` threads, on `cores` where some are named.

    What the process says lies in logs/NAME.txt below the folder of the sweep. A process that is killed, or fails by a fault that
    is not the user's, is started again up to `attempts` times: it resumes behind the last whole stage. A job that is `apart` runs
    in a folder of its own, which begins with what the store has of it and whose files go there.
    """
    if not job.apart:
        return _carry_out(job, threads, cores, attempts)
    started = time.monotonic()
    try:
        store = open_store(job.store)
        with tempfile.TemporaryDirectory(prefix="compressor-") as folder:
            here = replace(job, folder=folder)
            store.take(job.key, Path(folder))
            outcome = _carry_out(here, threads, cores, attempts)
            (here.run_dir / LOCK).unlink(missing_ok=True)
            made = [path.relative_to(folder).as_posix() for path in (here.run_dir, here.log) if path.exists()]
            store.put(job.key, Path(folder), made, outcome.seconds, {"point": job.name})
    except UserError as error:
        return Outcome(job.name, USER_ERROR, time.monotonic() - started, str(error), 1)
    return outcome


def brought_back(job: Job, outcome: Outcome) -> Outcome:
    """Put what the store has of a job that ran `apart` into the folder of the sweep; return how it ended, that included."""
    made = Path(job.folder) / TAKEN
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    try:
        if open_store(job.store).take(job.key, made) is not None:
            here = replace(job, folder=str(made))
            for source, target in ((here.run_dir, job.run_dir), (here.log, job.log)):
                if source.exists():
                    target.parent.mkdir(exist_ok=True)
                    publish(source, target, ())
    except UserError as error:
        return replace(outcome, code=USER_ERROR, error=str(error)) if outcome.done else outcome
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return outcome


def _carry_out(job: Job, threads: int, cores: Sequence[int], attempts: int) -> Outcome:
    folder = Path(job.folder)
    for name in ("logs", "recipes"):
        check_target(folder / name, folder=True)
        (folder / name).mkdir(exist_ok=True)
    recipe, log = folder / "recipes" / f"{job.name}.yaml", job.log
    check_target(log)
    write_text(recipe, job.recipe)
    started, code, attempt = time.monotonic(), 1, 0
    while code not in {MET, USER_ERROR, MISSED} and attempt < attempts:
        attempt += 1
        with log.open("ab") as written:
            code = subprocess.run(  # noqa: S603 (our own program and paths)
                command_of(job, recipe),
                stdout=written,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                check=False,
                env={**os.environ, **dict.fromkeys(THREADS, str(threads))},
                preexec_fn=partial(_settle, os.getpid(), tuple(cores)),
            ).returncode
    error = "" if code in {MET, MISSED} else _last_words(log, code)
    return Outcome(job.name, code, time.monotonic() - started, error, attempt)


def command_of(job: Job, recipe: Path) -> list[str]:
    """Return the command line that runs a point."""
    run = [sys.executable, "-m", "compressor", "run", str(recipe), "--out", str(job.run_dir)]
    return [*run, "--device", job.device, "--store", job.store]


def _settle(parent: int, cores: tuple[int, ...]) -> None:
    """Pin this process to its cores, and let it end with its parent: a point without one would hold its folder for ever."""
    if LIBC is None:
        return
    if cores:
        os.sched_setaffinity(0, cores)
    LIBC.prctl(PARENT_DEATH, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        os.kill(os.getpid(), signal.SIGKILL)


def _last_words(log: Path, code: int) -> str:
    """Return the sentence that a run failed with."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    said = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), "")
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; see logs/{log.name}."
    return said or f"ended with exit code {code}; see logs/{log.name}."
