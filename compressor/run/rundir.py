"""The run directory: one lock, stages that are whole or absent, resume by key."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from compressor.errors import UserError
from compressor.files import (
    PROGRESS,
    check_target,
    check_way,
    file_sha256,
    publish,
    read_json,
    spare_readmes,
    stage_key,
    write_json,
    write_text,
)
from compressor.run.store.store import Store

STAGES_FOLDER = ".stages"
LOCK = f"{STAGES_FOLDER}/lock"
"""The file that a run holds while it is at work."""
TRIALS = "trials.json"
"""Cache of skip sets tried, below STAGES_FOLDER: no manifest, since it grows with every search."""
CHECKPOINTS = "checkpoints"
"""Folder below STAGES_FOLDER with a folder for each training that is not over."""
GIVEN = "given"
"""Folder of a run with the model that was given, where it lies nowhere else: no stage of the run writes there."""
HEADER = "recipe.yaml", "environment.json", "log.txt"
"""Files of a run that no stage makes."""
OUTCOME = "result.json", "report.html", "report.md", "manifest.json"
"""Files that speak of all stages together, and so are gone as soon as one of them is computed anew."""


LARGE = 2**30
"""Bytes from which on a file is known by its size alone: hashing it would take longer than a user wants to wait."""


@dataclass(frozen=True)
class StageRecord:
    """How one stage of this run ended; `seconds` is the time of its computation, whenever that was."""

    name: str
    seconds: float
    cached: bool
    shared: bool = False
    """Whether its files were taken from a store in place of computing them."""


class RunDir:
    """A directory whose stage outputs are trusted only while their manifest stands.

    A stage computes into a temporary folder; its old manifest is removed, its outputs are renamed into place, and the
    new manifest is written last. A process that dies anywhere leaves either the old whole result or none.
    """

    def __init__(self, path: Path, store: Store | None = None) -> None:
        self.path, self._store = path, store
        self._stages = path / STAGES_FOLDER
        self._known: dict[tuple[str, int, int], str] = {}

    def cached(self, name: str, key: str) -> dict[str, Any] | None:
        """Return the manifest of stage `name` if it was computed under `key` and all its files are whole."""
        try:
            manifest = read_json(self._stages / f"{name}.json")
            whole = manifest["key"] == key and all(
                self._account(file) == wanted for file, wanted in manifest["files"].items()
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none, or changed from outside
            return None
        return manifest if whole else None

    def _account(self, file: str) -> dict[str, Any]:
        """Return the size and the sha256 of a file below the run directory; of files from 1 GiB on the size alone.

        A file that has not changed since this object read it (size and time) is not read again.
        """
        status = (self.path / file).stat()
        place = file, status.st_size, status.st_mtime_ns
        if place not in self._known and status.st_size < LARGE:
            self._known[place] = file_sha256(self.path / file)
        return {"size": status.st_size, "sha256": self._known.get(place)}

    def content(self, name: str) -> str | None:
        """Return a digest of what stage `name` wrote last, None where it has written nothing."""
        try:
            manifest = read_json(self._stages / f"{name}.json")
            return stage_key(name, manifest["files"]) if manifest["key"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def stage(
        self, name: str, key: str, outputs: Sequence[str], compute: Callable[[Path], None], shared: str | None = None
    ) -> StageRecord:
        """Make sure that `outputs` (files or folders below the run directory) are those of `key`.

        `compute(folder)` writes them into an empty folder; it does not run when they are there already, or lie under the key
        `shared` in the store of the runs.
        """
        manifest = self.cached(name, key)
        if manifest:
            return StageRecord(name, manifest["seconds"], cached=True)
        for output in outputs:
            check_way(self.path, self.path / output / "any")
        folder = self._stages / f"{name}.tmp"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            seconds, taken = self._made(name, outputs, compute, folder, shared)
            self._publish(name, key, outputs, folder, seconds)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return StageRecord(name, seconds, cached=False, shared=taken)

    def _made(
        self, name: str, outputs: Sequence[str], compute: Callable[[Path], None], folder: Path, shared: str | None
    ) -> tuple[float, bool]:
        """Fill a folder with the files of a stage; return the seconds of their computation, and whether another run did it."""
        store = None if shared is None else self._store
        with store.alone(shared) if store else contextlib.nullcontext():
            seconds = store.take(shared, folder) if store else None
            if seconds is not None:
                return seconds, True
            started = time.perf_counter()
            compute(folder)
            seconds = time.perf_counter() - started
            if store:
                store.put(shared, folder, outputs, seconds, {"stage": name})
        return seconds, False

    def _publish(self, name: str, key: str, outputs: Sequence[str], folder: Path, seconds: float) -> None:
        missing = [output for output in outputs if not (folder / output).exists()]
        if missing:
            raise RuntimeError(f"stage {name} did not write {', '.join(missing)}")
        manifest_file, earlier = self._stages / f"{name}.json", self._forget(name)
        for output in outputs:
            known = [file.removeprefix(f"{output}/") for file in earlier]
            spare_readmes(folder / output, self.path / output, known)
        made = [
            file for output in outputs for file in (folder / output, *(folder / output).rglob("*")) if file.is_file()
        ]
        # killed in between, what stands there is of two results, and no user's: so the account comes first, without a key
        before = {*earlier, *(file.relative_to(folder).as_posix() for file in made)}
        write_json(manifest_file, {"key": None, "files": dict.fromkeys(sorted(before))})
        files: dict[str, dict[str, Any]] = {}
        for output in outputs:
            target = self.path / output
            target.parent.mkdir(parents=True, exist_ok=True)
            known = [file.removeprefix(f"{output}/") for file in before if file.startswith(f"{output}/")]
            for file in publish(folder / output, target, known):
                path = (target / file).relative_to(self.path).as_posix()
                files[path] = self._account(path)
        write_json(manifest_file, {"key": key, "seconds": seconds, "files": files})

    def amend(self, name: str, file: str, change: Callable[[str], str]) -> None:
        """Change the text of a file of a finished stage; it stays that stage's result. `file` is relative to the directory.

        A file that the stage did not write, since one of the user's stood in its place, is left alone.
        """
        manifest = read_json(self._stages / f"{name}.json")
        if file not in manifest["files"]:
            return
        before = (self.path / file).read_text(encoding="utf-8")
        text = change(before)
        if text == before:
            return
        write_text(self.path / file, text)
        manifest["files"][file] = self._account(file)
        write_json(self._stages / f"{name}.json", manifest)

    def _forget(self, name: str) -> list[str]:
        """Take the key of a stage away, so that it is computed anew; return the files that it wrote, which stay known."""
        manifest_file = self._stages / f"{name}.json"
        try:
            files = [str(file) for file in read_json(manifest_file)["files"]]
        except (OSError, ValueError, KeyError, TypeError):
            manifest_file.unlink(missing_ok=True)
            return []
        write_json(manifest_file, {"key": None, "files": dict.fromkeys(files)})
        return files

    def forget(self) -> None:
        """Forget every stage, the trials, the checkpoints and the outcome, so that all stages are computed anew."""
        for manifest_file in self._stages.glob("*.json"):
            self._forget(manifest_file.stem)
        shutil.rmtree(self._stages / CHECKPOINTS, ignore_errors=True)
        self.forget_outcome()

    def forget_outcome(self) -> None:
        """Remove result and report: they would contradict the stages that are about to change."""
        for name in OUTCOME:
            (self.path / name).unlink(missing_ok=True)


@contextlib.contextmanager
def _staying(path: Path) -> Iterator[None]:
    """Turn what the system says of files in a run directory that somebody took away into a UserError."""
    try:
        yield
    except OSError as error:
        if (path / LOCK).exists():
            raise
        raise UserError(
            f"--out {path}: the folder was taken away while the run was at work; start it again."
        ) from error


@contextlib.contextmanager
def open_run_dir(path: str | Path, *, fresh: bool = False, store: Store | None = None) -> Iterator[RunDir]:
    """Yield the run directory at `path`, created and locked for this process; `store` is what it shares with other runs.

    Raises UserError if it cannot be written, holds files of something else, or another run is using it. Without any
    stage result or checkpoint, what was made here is removed again, and so are the folders that this call created, if empty.
    """
    path = Path(path)
    try:
        if path.is_dir() and any(path.iterdir()) and not (path / STAGES_FOLDER).is_dir():
            raise UserError(f"--out {path}: this folder holds other files; name an empty or a new folder.")
        check_target(path / STAGES_FOLDER, folder=True)
        created = [part for part in (path, *path.parents) if not part.exists()]
        (path / STAGES_FOLDER).mkdir(parents=True, exist_ok=True)
        lock = FileLock(path / LOCK, timeout=0)
        lock.acquire()
    except Timeout as error:
        raise UserError(f"--out {path}: another run is using this folder; wait for it or name another one.") from error
    except OSError as error:
        raise UserError(f"--out {path}: the folder cannot be written ({error.strerror}); name another one.") from error
    run = RunDir(path, store)
    try:
        if fresh:
            run.forget()
        for left_over in (path / STAGES_FOLDER).glob("*.tmp"):
            shutil.rmtree(left_over, ignore_errors=True)
        with _staying(path):
            yield run
    finally:
        kept = "*.json", f"{CHECKPOINTS}/*/{PROGRESS}"
        empty = not any(any((path / STAGES_FOLDER).glob(pattern)) for pattern in kept)
        if empty:
            for name in HEADER:
                (path / name).unlink(missing_ok=True)
        lock.release()
        if empty:
            shutil.rmtree(path / STAGES_FOLDER, ignore_errors=True)
            for folder in created:
                with contextlib.suppress(OSError):  # not empty: another run lives there
                    folder.rmdir()
