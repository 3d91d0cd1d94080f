"""Files that are the old or the new one, whole; digests of what they were made from; paths that can be written to."""

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError

PROGRESS = "progress.json"
"""The file that makes a folder a checkpoint of a training that is not over."""
WRITTEN = ".written.json"
"""Names of the files that were written beside it: all that a later call may remove."""
README = "README.md"
"""What we write where no user did: theirs stays."""


def stage_key(name: str, inputs: Mapping[str, Any]) -> str:
    """Return the full sha256 over the stage's name and inputs (anything JSON can hold), independent of key order."""
    return hashlib.sha256(json.dumps([name, inputs], sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the sha256 of the content of a file."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write a file so that it is either the old or the new one, whole; raises UserError where its place is a link."""
    _write_bytes(path, text.encode())


def _write_bytes(path: Path, data: bytes) -> Path:
    check_target(path)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    return temporary.replace(path)


def write_json(path: Path, value: object) -> None:
    """Write JSON, indented, whole or not at all; errors of `write_text` and `json_text`."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Return JSON, indented; raises ValueError for NaN and infinity, since they are no JSON."""
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:  # noqa: ANN401
    """Return the content of a JSON file.

    Raises OSError where it cannot be read, ValueError where it is no JSON, no UTF-8, or nested too deep.
    """
    return json_of(path.read_bytes())


def json_of(text: str | bytes) -> Any:  # noqa: ANN401
    """Return the content of a JSON text, of UTF-8 where it is bytes; raises ValueError where it is none or nested too deep."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except RecursionError as error:
        raise ValueError("values are nested too deep") from error


def check_schema(content: object, schema: int, path: Path | str, remedy: str) -> None:
    """Raise UserError for the content of a JSON file whose schema is not the one that this version reads.

    `remedy` is for one of an earlier version; of a later one it is another version of this package.
    """
    found = content.get("schema") if isinstance(content, dict) else None
    if type(found) is not int or found != schema:
        later = type(found) is int and found > schema
        raise UserError(
            f"{path}: schema {found!r} is not {schema}, the one that this version reads; "
            f"{'use the version of compressor that wrote it, or a later one' if later else remedy}."
        )


def check_out(out: Path) -> None:
    """Raise UserError where files could not be written to the folder `out`."""
    existing = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"--out {out}: {existing} is no folder that can be written to; name another.")


def claim_folder(path: Path, own: Collection[str], option: str, whose: str) -> None:
    """Make a folder where it is missing; what its owner (`whose`) puts there is called `own`.

    Raises UserError, beginning with `option`, where it cannot be written, or holds anything else; nothing is then made.
    """
    try:
        stranger = (
            next((entry.name for entry in path.iterdir() if entry.name not in own), None) if path.exists() else None
        )
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{option} {path}: the folder cannot be written ({error.strerror}); name another one."
        ) from error
    if stranger is not None:
        raise UserError(
            f"{option} {path}: the folder holds {stranger}, which is no {whose}'s; name an empty or new one."
        )


def lies_inside(name: object) -> bool:
    """Tell whether a name that a file gives is one of a place below its folder: relative, and without a way back up."""
    path = Path(name) if isinstance(name, str) and "\0" not in name else Path("/")
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def check_way(folder: Path, path: Path) -> None:
    """Raise UserError where a link stands between a folder and a path below it: what is written would land elsewhere."""
    for part in path.parents[: len(path.relative_to(folder).parts) - 1]:
        if part.is_symlink():
            check_target(part)


def check_target(path: Path, *, folder: bool = False) -> None:
    """Raise UserError where something stands that a new file, or a `folder`, must not take the place of."""
    if path.is_symlink():
        raise UserError(f"{path}: this is a link, and is not written through; remove it, or name another folder.")
    if path.exists() and path.is_dir() != folder:
        have, want = ("file", "folder") if folder else ("folder", "file")
        raise UserError(f"{path}: this is a {have}, and a {want} is to be written here; move it away.")


def write_files(folder: Path, contents: Mapping[str, bytes], *, instead_of: str = "") -> list[Path]:
    """Write files, by name, to a folder that is made where it is missing; return their paths.

    Of what stands there only files that an earlier call wrote and whose names begin with `instead_of` are removed, and files
    of the same name replaced. Raises UserError where one of them is a link or a folder.
    """
    check_target(folder, folder=True)
    folder.mkdir(parents=True, exist_ok=True)
    before = written_before(folder)
    stale = {name for name in before if name.startswith(instead_of)} - set(contents)
    write_json(folder / WRITTEN, sorted({*before, *contents}))  # before anything is written: a call may be cut off
    for name in stale:
        (folder / name).unlink(missing_ok=True)
    paths = [_write_bytes(folder / name, data) for name, data in contents.items()]
    write_json(folder / WRITTEN, sorted({*before, *contents} - stale))
    return paths


def written_before(folder: Path) -> list[str]:
    """Return the names of files that earlier calls say that they wrote to a folder."""
    try:
        return [name for name in read_json(folder / WRITTEN) if lies_inside(name) and Path(name).name == name]
    except (OSError, ValueError, TypeError):
        return []


def usual_rights(made: Path) -> None:
    """Give a file, or a folder and all in it, the rights that the umask leaves, whatever library wrote them."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (made, *made.rglob("*")):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def spare_readmes(made: Path, target: Path, written: Collection[str]) -> None:
    """Remove each README.md below `made` in whose place in `target` one stands that no earlier call wrote (`written`)."""
    for file in made.rglob(README):
        name = file.relative_to(made).as_posix()
        if (target / name).exists() and name not in written:
            file.unlink()


def publish(made: Path, target: Path, written: Collection[str]) -> list[str]:
    """Move a file or a folder to `target`; return the files that this makes there, as paths relative to it.

    Of what stands in a folder only `written`, what an earlier call says that it made, and what has a name of the new files
    goes: what a user put beside it stays. All files get the rights that the umask leaves, whatever library wrote them.
    Raises UserError where `target` or a folder in it is a link, or a file where a folder is to stand and the other way round.
    """
    check_target(target, folder=made.is_dir())
    usual_rights(made)
    if made.is_file():
        made.replace(target)
        return [""]
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    earlier = [Path(name) for name in written if lies_inside(name)]
    for name in (*earlier, *files):
        check_way(target, target / name)
    for name in earlier:
        if (target / name).is_file():
            (target / name).unlink()
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).replace(target / name)
    for folder in sorted({parent for name in earlier for parent in name.parents if parent.name}, reverse=True):
        with contextlib.suppress(OSError):  # something of the user's is in it
            (target / folder).rmdir()
    target.mkdir(parents=True, exist_ok=True)
    return files
