"""One tar file of a finished run: all that somebody else needs to run the model and to check it. The same bytes every time."""

import contextlib
import io
import os
import re
import tarfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.files import README, check_target, usual_rights
from compressor.progress import Track, silent
from compressor.release.contents import Contents, contents_of, licence_files, shipped_folders, size_of
from compressor.release.manifest import MANIFEST, OWN, account, read_manifest
from compressor.release.sbom import SBOM, sbom
from compressor.release.verify import verify, without
from compressor.release.weights import WEIGHTS
from compressor.report.build import read_result

NAME = re.compile(r"[^\w.-]+")


@dataclass(frozen=True)
class Bundle:
    """A tar file that was written: its sha256, the files in it with their sizes in bytes, the licence of the source."""

    path: Path
    sha256: str
    bytes: int
    files: dict[str, int]
    licence: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {**vars(self), "path": str(self.path)}


def prepare(
    run_dir: Path, *, model_at: str = OWN, every: bool = False, texts: bool = False, track: Track = silent
) -> Contents:
    """Return what travels of a finished run, which is verified first; see `contents_of`.

    Pages that their owner wrote anew may differ from the manifest, so long as the card says what result.json says. Raises
    UserError for a directory that is no finished run, or one that is not what its card says.
    """
    manifest = read_manifest(run_dir)
    if manifest["model"] != OWN or not (run_dir / OWN).is_dir():
        raise UserError(f"{run_dir}: this is no run directory, as it has no folder {OWN}/; name the run itself.")
    pages = {name for name in manifest["files"] if name.rpartition("/")[2] == README}
    without(verify(run_dir, track=track), pages).require()
    result = read_result(run_dir / "result.json")
    onnx = every or bool(shipped_folders(run_dir, result, list(manifest["onnx"])))
    weights = manifest["files"][f"{OWN}/{WEIGHTS}"]["sha256"]
    document = sbom(manifest["name"], licence_files(run_dir, result, manifest["files"])[1], weights, onnx=onnx)
    return contents_of(run_dir, manifest, every=every, texts=texts, model_at=model_at, more={SBOM: document})


def bundle(
    run_dir: str | Path, out: str | Path, *, every: bool = False, texts: bool = False, track: Track = silent
) -> Bundle:
    """Write a tar file of a finished run; return what is in it.

    It holds model and card, the ONNX folders that ship (`every`: all), result.json and the report, licence, SBOM and manifest,
    in a folder named after the run. Texts of the evaluation are left out unless `texts`. Names are sorted, times, owners and
    rights are the same for all files, so the same run in the same environment gives the same bytes. Raises UserError for a run
    that is not what its card says, and for a file that cannot be written; then nothing is left.
    """
    run_dir, out = Path(run_dir), Path(out)
    if out.suffix != ".tar":
        raise UserError(f"--out {out}: the bundle is one tar file; give a name that ends in .tar.")
    check_target(out)
    if not out.absolute().parent.is_dir() or not os.access(out.absolute().parent, os.W_OK):
        raise UserError(f"--out {out}: {out.absolute().parent} is no folder that can be written to; name another.")
    contents = prepare(run_dir, every=every, texts=texts, track=track)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        _write(temporary, contents, track)
        usual_rights(temporary)
        temporary.replace(out)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    known = account(out)
    return Bundle(out, known["sha256"], known["bytes"], contents.sizes(), contents.licence)


def _write(path: Path, contents: Contents, track: Track) -> None:
    folder = NAME.sub("-", contents.name).strip(".-") or "model"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in track(_manifest_last(contents.files), "bundle"):
            content = contents.files[name]
            entry = tarfile.TarInfo(f"{folder}/{name}")
            entry.size, entry.mode, entry.mtime = size_of(content), 0o644, 0
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as opened:
                tar.addfile(entry, opened)


def _manifest_last(names: Collection[str]) -> list[str]:
    # who unpacks a file that broke off has no manifest, and so nothing that verifies
    return sorted(names, key=lambda name: (name == MANIFEST, name))
