"""What of a finished run travels: the model, the ONNX folders that ship, the account without the user's texts, the licence."""

import copy
import re
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from compressor.errors import UserError
from compressor.files import json_text
from compressor.model.card import source_metadata
from compressor.model.places import local_model
from compressor.release.manifest import MANIFEST, OWN, account
from compressor.report.build import build_report, read_result
from compressor.report.formats import CASCADE

RESULT = "result.json"
LICENCE = "LICENSE"
LICENCES = re.compile(r"(LICEN[CS]E|COPYING|NOTICE)([-_.].*)?", re.IGNORECASE)
"""Names of files beside a model that say by what right it may be used."""
APACHE = "apache-2.0"
NO_LICENCE = """The card of the source model, {source}, names no licence: ask its owner before you hand this model on.
"""
NAMED = """The card of the source model, {source}, names this licence: {licence}.

{where}
"""
EXPOSED = ("source", "train", "validation", "test")
"""Fields of a recipe's data that may be paths of the machine that the run was made on."""
Content = Path | bytes


@dataclass(frozen=True)
class Contents:
    """What travels: path -> a file of the run, or what is written in its place; the manifest is among them.

    `licence` is what the source's card names, None where it names none. `onnx` are the folders of ONNX files.
    """

    name: str
    files: dict[str, Content]
    onnx: list[str]
    licence: str | None

    def sizes(self) -> dict[str, int]:
        """Return path -> size in bytes, sorted by path."""
        return {name: size_of(self.files[name]) for name in sorted(self.files)}


def size_of(content: Content) -> int:
    """Return the size in bytes of a file, or of what is to become one."""
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def contents_of(
    run_dir: Path, manifest: Mapping[str, Any], *, every: bool, texts: bool, model_at: str, more: Mapping[str, bytes]
) -> Contents:
    """Return what travels of a run with this `manifest`.

    `every` takes all ONNX folders, not only what ships; `texts` leaves the texts of the evaluation in the account. The
    model's files lie in the folder `model_at` ("." for the root), `more` is added. Raises UserError where nothing ships.
    """
    result = read_result(run_dir / RESULT)
    shipped = [name for name in manifest["onnx"] if every] or shipped_folders(run_dir, result, list(manifest["onnx"]))
    inside = "" if model_at == "." else f"{model_at}/"
    taken: dict[str, Content] = {}
    for name in manifest["files"]:
        folder, _, rest = name.partition("/")
        if folder == OWN and rest:
            taken[inside + rest] = run_dir / name
        elif name.rpartition("/")[0] in shipped:
            taken[name] = run_dir / name
    told, licence = licence_files(run_dir, result, manifest["files"])
    taken |= account_of(result if texts else without_texts(result)) | told | more
    made = {
        **{
            key: manifest[key]
            for key in (
                "schema",
                "name",
                "compressor",
                "versions",
                "texts",
                "max_length",
                "answers",
                "label_names",
                "logits",
            )
        },
        "model": model_at,
        "onnx": {name: entry for name, entry in manifest["onnx"].items() if name in shipped},
        "files": {name: account(taken[name]) for name in sorted(taken)},
    }
    return Contents(manifest["name"], {**taken, MANIFEST: json_text(made).encode()}, shipped, licence)


def shipped_folders(run_dir: Path, result: Mapping[str, Any], there: list[str]) -> list[str]:
    """Return the ONNX folders that a run says to ship; all of its model's where the recipe does not decide."""
    answer, shipped = result["answer"], result["shipped"]
    if answer is not None and answer["path"] is None:
        raise UserError(
            f"{run_dir}: the run's answer is to keep what runs today, so nothing ships; `--all` takes what was built all the "
            "same."
        )
    if answer is not None:
        wanted = [] if answer["path"] == OWN else [answer["path"]]
    elif shipped is not None:
        wanted = [f"onnx/{shipped['variant']}"]
    else:
        wanted = [name for name in there if name.startswith("onnx/")]
    missing = next((name for name in wanted if name not in there), None)
    if missing is not None:
        raise UserError(f"{run_dir}: {missing} is to ship and is not there; run the recipe again.")
    if result.get("cascade") and answer is None and shipped is not None and f"onnx/{CASCADE}" in there:
        wanted.append(f"onnx/{CASCADE}")
    return wanted


def without_texts(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return result.json without texts of the user's data, and of paths of their machine only the names."""
    made = copy.deepcopy(dict(result))
    made["flipped"], made["explain"] = [], []
    errors = (made.get("analysis") or {}).get("errors")
    if errors:
        errors["examples"] = []
    data, model = made["recipe"].get("data", {}), made["recipe"].get("model", {})
    paths = {str(data[field]) for field in EXPOSED if isinstance(data.get(field), str)} | {str(model.get("path") or "")}
    return _renamed(made, {path: _last(path) for path in paths if _absolute(path)})


def _renamed(value: Any, names: Mapping[str, str]) -> Any:  # noqa: ANN401
    """Return a value of JSON in which every text has `names` put in the place of their keys, the longest first."""
    if isinstance(value, Mapping):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    if isinstance(value, str):
        for path in sorted(names, key=len, reverse=True):
            value = value.replace(path, names[path])
    return value


def _absolute(path: str) -> bool:
    return PurePath(path).is_absolute() or PureWindowsPath(path).is_absolute() or path.startswith("~")


def _last(path: str) -> str:
    return (PureWindowsPath if PureWindowsPath(path).drive else PurePath)(path).name


def account_of(result: Mapping[str, Any]) -> dict[str, Content]:
    """Return result.json and the report that is made from it, by path."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / RESULT).write_bytes(json_text(result).encode())
        made = [folder / RESULT, *build_report(folder)]
        return {file.relative_to(folder).as_posix(): file.read_bytes() for file in made}


def licence_files(
    run_dir: Path, result: Mapping[str, Any], known: Collection[str] = ()
) -> tuple[dict[str, Content], str | None]:
    """Return the files that say by what right the model may be used, by path, and the licence that its card names.

    Those that a bundle brought along (`known`, names in `run_dir`) or that lie beside the source model are taken; else one is
    written that names the licence, with its text where that is Apache-2.0. The card has the licence of its source. No hub is
    asked.
    """
    path = result["recipe"]["model"]["path"]
    brought = {name: run_dir / name for name in known if LICENCES.fullmatch(name)}
    directory = None if brought else _source(path)
    cards = [source_metadata(place).get("license") for place in (run_dir / OWN, directory) if place]
    said = next(filter(None, cards), None)
    licence = said[0] if isinstance(said, list) else said
    beside = {file.name: file for file in sorted(directory.iterdir()) if _is_licence(file)} if directory else brought
    source = _last(path) if _absolute(path) else path
    if beside:
        return dict(beside), licence
    if licence is None:
        return {LICENCE: NO_LICENCE.format(source=source).encode()}, None
    text = _own_licence() if licence == APACHE else None
    where = text or f"Its text is at https://spdx.org/licenses/ under its name, or where the card says ({source})."
    return {LICENCE: NAMED.format(source=source, licence=licence, where=where).encode()}, licence


def _is_licence(file: Path) -> bool:
    return file.is_file() and LICENCES.fullmatch(file.name) is not None


def _source(path: str) -> Path | None:
    try:
        local = local_model(path)
    except UserError:  # moved away since
        return None
    if local is not None:
        return local
    from huggingface_hub import try_to_load_from_cache

    card = try_to_load_from_cache(path, "README.md")
    return Path(card).parent if isinstance(card, str) else None


def _own_licence() -> str | None:
    """Return the text of this package's own licence, which is Apache-2.0; None where it runs from its source alone."""
    try:
        found = next((file for file in files("compressor") or [] if file.name == LICENCE), None)
        return found.read_text() if found else None
    except (PackageNotFoundError, OSError):
        return None
