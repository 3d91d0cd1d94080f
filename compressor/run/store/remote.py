"""A store behind a URL that fsspec knows (s3://, gs://, sftp://, ...), for machines that share no folder.

Such a place renames nothing and locks nothing. So a file lies under its own digest, and the account that names the files of an
entry is written last: who reads finds all of an entry or none, and two who make the same at once write the same.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from compressor.errors import UserError, first_line
from compressor.files import check_schema, file_sha256, json_of, json_text, lies_inside
from compressor.run.store.folder import ENTRY, accounts, emptied

MARK = "store.json"
"""The file that makes a place a store."""
SCHEMA = 1


@dataclass(frozen=True)
class RemoteStore:
    """The store below a URL: `files/` by their digests, `entries/` by their keys."""

    url: str
    system: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, url: str) -> "RemoteStore":
        """Return the store below `url`.

        Raises UserError where fsspec knows no such URL, the package for it is missing, the place cannot be reached or written,
        or holds something else.
        """
        with _reached(url):
            system, root = fsspec.url_to_fs(url)
            store = cls(url, system, root.rstrip("/"))
            mark = store._read(MARK)
            if mark is None:
                with contextlib.suppress(FileNotFoundError):
                    if system.ls(store.root, detail=False):
                        raise UserError(f"{url}: the place holds something else than a store; name an empty one.")
                store._write(MARK, json_text({"schema": SCHEMA}).encode())
            else:
                check_schema(_told(mark), SCHEMA, f"{url}: its {MARK}", "name an empty place")
        return store

    @contextlib.contextmanager
    def alone(self, key: str) -> Iterator[None]:  # noqa: ARG002 (a folder's store locks it)
        """Hold nothing: the place has no locks, and what is made twice is the same."""
        yield

    def take(self, key: str, folder: Path) -> float | None:
        """Copy the files of an entry into an empty folder; return the seconds that they once took, None where there is none.

        An entry that is not whole is removed, and with it a file that is not what its name says.
        """
        with _reached(self.url):
            told = self._read(self._entry(key))
            if told is None:
                return None
            try:
                account = json_of(told)
                seconds = float(account["seconds"])
                for name, digest in dict(account["files"]).items():
                    self._fetch(name, digest, folder)
            except (FileNotFoundError, ValueError, KeyError, TypeError):  # not whole, or changed from outside
                emptied(folder)
                with contextlib.suppress(FileNotFoundError):  # another reader was faster
                    self.system.rm_file(self._path(self._entry(key)))
                return None
        return seconds

    def put(self, key: str, folder: Path, outputs: Sequence[str], seconds: float, about: dict[str, Any]) -> None:
        """Keep the outputs (files and folders) that lie in `folder`; an earlier entry of this key is replaced."""
        files = accounts(folder, outputs)
        with _reached(self.url):
            self.system.invalidate_cache()  # others write here as well
            for name, digest in files.items():
                blob = _blob(digest)
                if not self._is_there(blob, (folder / name).stat().st_size):
                    self._written(blob, partial(self.system.put_file, str(folder / name)))
            account = {**about, "seconds": seconds, "files": files}
            self._write(self._entry(key), json_text(account).encode())

    def _fetch(self, name: str, digest: str, folder: Path) -> None:
        """Copy one file; raises ValueError where it is not what its digest says, or would lie outside of the folder."""
        if not lies_inside(name) or not isinstance(digest, str) or not digest.isalnum():
            raise ValueError(name)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        self.system.get_file(self._path(_blob(digest)), str(folder / name))
        if file_sha256(folder / name) != digest:
            self.system.rm_file(self._path(_blob(digest)))
            raise ValueError(name)

    def _is_there(self, name: str, size: int) -> bool:
        try:
            return self.system.info(self._path(name))["size"] == size  # a file cut short is written again
        except FileNotFoundError:
            return False

    def _read(self, name: str) -> bytes | None:
        self.system.invalidate_cache()
        try:
            return self.system.cat_file(self._path(name))
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        self._written(name, lambda place: self.system.pipe_file(place, content))

    def _written(self, name: str, write: Callable[[str], object]) -> None:
        """Write a file of the store, with the folders above it where the place has such: no bucket is ever made."""
        try:
            write(self._path(name))
        except FileNotFoundError:
            own = [self.root] if "/" in self.root.strip("/") else []  # else it is a bucket
            for parent in [*own, *(self._path(str(part)) for part in reversed(PurePosixPath(name).parents[:-1]))]:
                with contextlib.suppress(FileExistsError):
                    self.system.mkdir(parent, create_parents=False)
            write(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _entry(self, key: str) -> str:
        return f"entries/{key[:2]}/{key}/{ENTRY}"


def _told(mark: bytes) -> object:
    """Return what the file that makes a place a store says; None where it is no JSON."""
    try:
        return json_of(mark)
    except ValueError:
        return None


def _blob(digest: str) -> str:
    return f"files/{digest[:2]}/{digest}"


@contextlib.contextmanager
def _reached(url: str) -> Iterator[None]:
    """Turn whatever a file system raises into a UserError: each has errors of its own, and fsspec no common one."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{url}: the store cannot be used ({first_line(error)}); mend that, or name another one."
        ) from error
