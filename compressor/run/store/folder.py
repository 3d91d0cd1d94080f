"""A store in a folder, in which each result of a stage lies under a digest of what it was made from.

What a stage writes depends on its inputs and on what the stages before it wrote, so two runs that agree so far need it once.
Entries are written beside their place and renamed, and believed only where every file is whole: any number of processes on
one or several machines may use one store, as long as they share the folder.
"""

import contextlib
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from compressor.files import claim_folder, file_sha256, read_json, write_json

ENTRY = "entry.json"
"""The account of an entry: what it is, how long it took, and the digest of every file."""
FILES = "files"
OWN = "entries", "locks"
"""Folders of a store."""


@dataclass(frozen=True)
class FolderStore:
    """The store in a folder, which is made where it is missing."""

    path: Path

    @classmethod
    def at(cls, path: str | Path) -> "FolderStore":
        """Return the store in `path`; raises UserError where that cannot be written, or holds something else."""
        path = Path(path)
        claim_folder(path, OWN, "--store", "store")
        for name in OWN:
            (path / name).mkdir(exist_ok=True)
        return cls(path)

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """Hold the lock of an entry: whoever wants the same waits until it is there. The system frees it if the holder dies."""
        with FileLock(self.path / "locks" / f"{key}.lock"):
            yield

    def take(self, key: str, folder: Path) -> float | None:
        """Copy the files of an entry into an empty folder; return the seconds that they once took, None where there is none.

        An entry that is not whole is removed.
        """
        entry = self._entry(key)
        try:
            told = read_json(entry / ENTRY)
            wanted, seconds = dict(told["files"]), float(told["seconds"])
            shutil.copytree(entry / FILES, folder, dirs_exist_ok=True)
            if accounts(folder) == wanted:
                return seconds
        except (OSError, ValueError, KeyError, TypeError):  # none, or changed from outside
            pass
        emptied(folder)
        shutil.rmtree(entry, ignore_errors=True)
        return None

    def put(self, key: str, folder: Path, outputs: Sequence[str], seconds: float, about: dict[str, Any]) -> None:
        """Keep the outputs (files and folders) that lie in `folder`; where another process was faster, its entry stays."""
        made = self.path / "entries" / f"{uuid.uuid4().hex}.tmp"
        try:
            for output in outputs:
                target = made / FILES / output
                target.parent.mkdir(parents=True, exist_ok=True)
                copy = shutil.copytree if (folder / output).is_dir() else shutil.copyfile
                copy(folder / output, target)
            write_json(made / ENTRY, {**about, "seconds": seconds, "files": accounts(made / FILES)})
            place = self._entry(key)
            place.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError):  # it is there already
                made.rename(place)
        finally:
            shutil.rmtree(made, ignore_errors=True)

    def _entry(self, key: str) -> Path:
        return self.path / "entries" / key[:2] / key


def accounts(folder: Path, outputs: Sequence[str] = (".",)) -> dict[str, str]:
    """Return the sha256 of every file of the outputs (files and folders) in a folder, by its path there."""
    found = [path for output in outputs for path in (folder / output, *(folder / output).rglob("*"))]
    files = sorted(path for path in found if path.is_file())
    return {file.relative_to(folder).as_posix(): file_sha256(file) for file in files}


def emptied(folder: Path) -> None:
    """Remove all that lies in a folder."""
    for part in folder.iterdir():
        shutil.rmtree(part) if part.is_dir() else part.unlink()
