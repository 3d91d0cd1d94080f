"""manifest.json: every file that ships with its sha256, and what the model and its ONNX files answer to ten texts."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.answers.told import task_told
from compressor.errors import UserError
from compressor.export.deploy import KINDS
from compressor.export.parity import MAX_ABS
from compressor.files import check_schema, file_sha256, lies_inside, read_json, write_json
from compressor.measurement.machine.environment import versions
from compressor.model.load import find_model
from compressor.release.probe import file_logits, kept, probe_texts, read, torch_logits
from compressor.runtime.folder import CASCADE, CLASSIFIER, settings_in

MANIFEST = "manifest.json"
SCHEMA = 1
FULL_ONNX, FLOAT32 = "full-onnx", "float32"
FOLDERS = "model", "onnx", FULL_ONNX, "figures"
"""Folders of a run that ship."""
FILES = "result.json", "report.html", "report.md", "recipe.yaml"
"""Files of a run that ship."""
FULL, OWN = "full", "model"
"""Whose logits a manifest holds: the full model's, and those of the model in the directory."""
PROBED = "texts", "max_length", "answers", "label_names", "full_sha256", "logits", "onnx"
"""What `probe` finds."""
NEEDED = {
    **{"name": str, "compressor": str, "model": str, "texts": list, "max_length": int},
    **{"files": dict, "logits": dict, "onnx": dict, "answers": dict, "versions": dict, "label_names": list},
}


def write_manifest(root: Path, result: Mapping[str, Any], full: Path) -> None:
    """Write the manifest of a finished run; `result` is the content of its result.json, `full` the full model's directory.

    What was asked of models and files is kept where none of them has changed since, as asking takes seconds.
    """
    files = accounts(root)
    asked = {name: account for name, account in files.items() if name.startswith(("model/", "onnx/", f"{FULL_ONNX}/"))}
    probed = _probed_before(root, asked, find_model(str(full)).sha256) or probe(root, result, full)
    write_json(root / MANIFEST, {
        "schema": SCHEMA, "name": result["name"], "compressor": versions()["compressor"], "model": "model",
        "versions": versions(), **probed, "files": files,
    })  # fmt: skip


def probe(root: Path, result: Mapping[str, Any], full: Path) -> dict[str, Any]:
    """Return what the manifest of a run holds of models and files: texts, logits, and how far each file is from PyTorch."""
    texts, length = probe_texts(result["data"].get("texts", 1)), result["recipe"]["data"]["max_length"]
    source, whole = find_model(str(root / "model")), find_model(str(full))
    logits = {OWN: torch_logits(root / "model", texts, length), FULL: torch_logits(full, texts, length)}
    exits = result.get("cascade") or {}
    # what a user put beside is no file of ours, and an early exit that nothing came of left an empty folder
    return {
        "texts": [list(row) for row in texts],
        "max_length": length,
        "answers": source.task.told(),
        "label_names": source.label_names,
        "full_sha256": whole.sha256,
        "logits": {name: kept(values) for name, values in logits.items()},
        "onnx": {
            f"{home}/{folder.name}": _file_entry(folder, texts, logits, exits)
            for home in ("onnx", FULL_ONNX)
            for folder in sorted((root / home).glob("*"))
            if folder.name in KINDS and any((folder / name).is_file() for name in (CASCADE, CLASSIFIER))
        },
    }


def _file_entry(
    folder: Path, texts: list, logits: Mapping[str, np.ndarray], exits: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what is known of an ONNX folder; the last part of an early exit gives the logits of a whole model."""
    settings = settings_in(folder)
    whole = folder.parent.name == FULL_ONNX or bool(settings.get("full"))
    early = len(settings["parts"]) > 1
    of_full = whole or (early and exits.get("model") == FULL)
    plain = settings.get("precision") == FLOAT32 if early else folder.name in MAX_ABS
    entry = {
        "of": FULL if of_full else OWN,
        "float32": [plain] * (len(settings["parts"]) - 1) + [plain or (early and whole)],
    }
    try:
        parts = file_logits(folder, texts)
    except UserError:  # float16 that only a GPU computes
        return {**entry, "parts": None, "max_abs": None}
    apart = float(np.abs(parts[-1] - logits[entry["of"]]).max())
    return {**entry, "parts": [kept(part) for part in parts], "max_abs": apart if np.isfinite(apart) else None}


def _probed_before(root: Path, asked: Mapping[str, Any], full: str) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(root)
    except UserError:
        return None
    before = {name: account for name, account in manifest["files"].items() if name in asked}
    if before != asked or manifest.get("full_sha256") != full or manifest["versions"] != versions():
        return None
    return {key: manifest[key] for key in PROBED}


def accounts(root: Path) -> dict[str, dict[str, Any]]:
    """Return path relative to a run -> size and sha256, of every file that ships; what begins with a dot does not."""
    found = [path for folder in FOLDERS for path in (root / folder).rglob("*") if _own_file(root, path)]
    found += [root / name for name in FILES if _own_file(root, root / name)]
    relative = sorted(path.relative_to(root) for path in found)
    return {
        path.as_posix(): account(root / path)
        for path in relative
        if not any(part.startswith(".") for part in path.parts)
    }


def _own_file(root: Path, path: Path) -> bool:
    """Tell whether a path is a file of a run, and no link to what lies elsewhere: that would travel with it."""
    return path.is_file() and path.resolve().is_relative_to(root.resolve())


def renew_pages(root: Path) -> None:
    """Write down a report that was built anew in a run that has a manifest; of all other files it says what it said."""
    if not (root / MANIFEST).is_file():
        return
    manifest, now = read_manifest(root), accounts(root)
    kept = {name: known for name, known in manifest["files"].items() if not _is_page(name)}
    pages = {name: known for name, known in now.items() if _is_page(name)}
    write_json(root / MANIFEST, {**manifest, "files": dict(sorted({**kept, **pages}.items()))})


def _is_page(name: str) -> bool:
    return name in {"report.html", "report.md"} or name.startswith("figures/")


def account(content: Path | bytes) -> dict[str, Any]:
    """Return the size in bytes and the sha256 of a file, or of what is to become one."""
    if isinstance(content, bytes):
        return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return {"bytes": content.stat().st_size, "sha256": file_sha256(content)}


def read_manifest(root: Path) -> dict[str, Any]:
    """Return the manifest in a directory; raises UserError where there is none, or one that this version cannot read."""
    file = root / MANIFEST
    try:
        manifest = read_json(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{root}: holds no {MANIFEST}; run the recipe again, which keeps all that is done, or name the folder of a "
            "run or of an unpacked bundle."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read ({error}); copy it again, or run the recipe again.") from error
    check_schema(manifest, SCHEMA, file, "use the version of compressor that wrote it")
    wrong = next((key for key, kind in NEEDED.items() if not isinstance(manifest.get(key), kind)), None)
    unsafe = next((name for name in manifest.get("files", ()) if not lies_inside(name)), None)
    if wrong is None and not _whole(manifest):
        wrong = "files, answers, logits or onnx"
    if wrong is not None or unsafe is not None:
        what = f"{wrong} is missing or of the wrong kind" if wrong else f"it names {unsafe!r}, which lies elsewhere"
        raise UserError(f"{file}: {what}; copy it again, or run the recipe again.")
    return manifest


def _whole(manifest: Mapping[str, Any]) -> bool:
    try:
        task_told(manifest["answers"])
        for logits in manifest["logits"].values():
            read(logits)
        for entry in manifest["onnx"].values():
            assert entry["of"] in manifest["logits"]
            assert all(isinstance(plain, bool) for plain in entry["float32"])
            assert len(entry["parts"] or entry["float32"]) == len(entry["float32"]) > 0
            assert all(len(read(part)) for part in entry["parts"] or [])
        return all(len(known["sha256"]) == 64 and known["bytes"] >= 0 for known in manifest["files"].values())
    except (AssertionError, KeyError, TypeError, ValueError):
        return False


def root_of(directory: Path) -> tuple[Path, str]:
    """Return the directory with the manifest that speaks of `directory`, and which part of it that is ("" for all).

    A run's `model/` and the folders of its ONNX files are parts of it. Raises UserError where there is none.
    """
    if not directory.is_dir():
        raise UserError(
            f"{directory}: no such folder; name a run, its model/, one of its onnx/ folders or an unpacked bundle."
        )
    place = directory.resolve()
    for root in (place, *place.parents[:2]):
        if (root / MANIFEST).is_file():
            return (directory if root == place else root), place.relative_to(root).as_posix().removeprefix(".")
    return read_manifest(directory) and (directory, "")
