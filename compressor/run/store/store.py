"""Where runs keep what they share: a folder, or a URL that fsspec knows."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from compressor.run.store.folder import FolderStore
from compressor.run.store.remote import RemoteStore


class Store(Protocol):
    """Results of stages that several runs share, each under a digest of what it was made from."""

    def alone(self, key: str) -> AbstractContextManager[None]:
        """Hold an entry while it is made, as far as the place knows locks: whoever wants the same waits."""

    def take(self, key: str, folder: Path) -> float | None:
        """Copy the files of an entry into an empty folder; return the seconds that they once took, None where there is none.

        An entry that is not whole is removed, and the folder empty again.
        """

    def put(self, key: str, folder: Path, outputs: Sequence[str], seconds: float, about: dict[str, Any]) -> None:
        """Keep the outputs (files and folders) that lie in `folder`, whole or not at all."""


def open_store(place: str | Path) -> Store:
    """Return the store in a folder, or behind a URL such as s3://bucket/runs; raises UserError where it cannot be used."""
    return RemoteStore.at(str(place)) if is_url(place) else FolderStore.at(place)


def is_url(place: str | Path) -> bool:
    """Tell whether a place is a URL, not a path."""
    return isinstance(place, str) and "://" in place
