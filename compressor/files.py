"""Files that are the old or the new one, whole; digests of what they were made from; paths that can be written to."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError

PROGRESS = "progress.json"
"""The file that makes a folder a checkpoint of a training that is not over."""


def stage_key(name: str, inputs: Mapping[str, Any]) -> str:
    """Return the full sha256 over the stage's name and inputs (anything JSON can hold), independent of key order."""
    return hashlib.sha256(json.dumps([name, inputs], sort_keys=True).encode()).hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either the old or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)  # noqa: PTH105 - the atomic rename is the point


def write_json(path: Path, value: object) -> None:
    """Write JSON, indented, whole or not at all; NaN and infinity are refused since they are no JSON."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file.

    Raises OSError where it cannot be read, ValueError where it is no JSON, no UTF-8, or nested too deep.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("values are nested too deep") from error


def check_out(out: Path) -> None:
    """Raise UserError where files could not be written to the folder `out`."""
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"--out {out}: {existing} is no folder that can be written to; name another.")


def publish(made: Path, target: Path, written: Collection[str]) -> list[str]:
    """Move a file or a folder to `target`; return the files that this makes there, as paths relative to it.

    Of what stands in a folder only `written`, what an earlier call says that it made, and what has a name of the new files
    goes: what a user put beside it stays. All files get the rights that the umask leaves, whatever library wrote them.
    Raises UserError where `target` is a link.
    """
    if target.is_symlink():
        raise UserError(f"{target}: this is a link, and is not written through; name the folder that it leads to.")
    mask = os.umask(0)
    os.umask(mask)
    if made.is_file():
        made.chmod(0o666 & ~mask)
        remove(target)
        made.replace(target)
        return [""]
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    if target.is_file():
        target.unlink()
    for name in written:
        if (target / name).is_file():
            (target / name).unlink()
    for name in files:
        (made / name).chmod(0o666 & ~mask)
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(target / name)
    for folder in sorted((path for path in target.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # something of the user's is in it
            folder.rmdir()
    target.mkdir(parents=True, exist_ok=True)
    return files


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
