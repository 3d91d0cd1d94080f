"""One point of a sweep as a process of its own: started, watched, and what came of it."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from compressor.files import check_target, write_text
from compressor.recipe.file import dump_recipe
from compressor.sweep.points import Point

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
    """Folder of the sweep, which all workers share."""
    device: str

    @property
    def run_dir(self) -> Path:
        """The run directory of the point."""
        return Path(self.folder) / "points" / self.name


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


def job_of(point: Point, folder: Path, device: str) -> Job:
    """Return the job of a point."""
    return Job(point.name, dump_recipe(point.recipe), str(folder.resolve()), device)


def work(job: Job, *, threads: int, cores: Sequence[int] = (), attempts: int = 1) -> Outcome:
    """Run a point to its end in a process of `threads` threads, on `cores` where some are named.

    What the process says lies in logs/NAME.txt below the folder of the sweep. A process that is killed, or fails by a fault that
    is not the user's, is started again up to `attempts` times: it resumes behind the last whole stage.
    """
    folder = Path(job.folder)
    for name in ("logs", "recipes"):
        check_target(folder / name, folder=True)
        (folder / name).mkdir(exist_ok=True)
    recipe, log = folder / "recipes" / f"{job.name}.yaml", folder / "logs" / f"{job.name}.txt"
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
    return [*run, "--device", job.device, "--store", str(Path(job.folder) / "store")]


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
