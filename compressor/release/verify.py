"""Is a finished run, or what was made of it to hand on, still what its model card says?"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from compressor.data.answers.told import task_told
from compressor.errors import UserError
from compressor.export.parity import MAX_ABS, check_parity, parity
from compressor.measurement.machine.environment import granted_threads, versions
from compressor.model.load import find_model
from compressor.progress import Track, silent
from compressor.release.card import card_problems, size_problems
from compressor.release.manifest import MANIFEST, OWN, account, read_manifest, root_of
from compressor.release.probe import file_logits, read, torch_logits
from compressor.release.weights import weight_problems
from compressor.report.build import read_result
from compressor.runtime.folder import settings_in

RESULT = "result.json"
READ_BY_PRESENCE = {".json", ".safetensors", ".bin", ".onnx", ".onnx_data", ".data", ".txt", ".model", ".py"}
"""Endings of files that a library reads because they lie there: one that nobody wrote down changes what is loaded."""
ROUNDED = "optimized"
"""The variant whose tolerance every file in float32 has against itself."""
ROUGH = 0.1
"""By how much, in deviations of the logits, a file in 8 or 16 bits may answer otherwise than when the manifest was made:
processors round otherwise. A tenth is about what 8 bits cost."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it should be: which file or folder, relative to the directory of the manifest, and what."""

    file: str
    problem: str


@dataclass(frozen=True)
class Verified:
    """What was looked at below `root`, the directory of the manifest, and what was found."""

    root: Path
    part: str
    manifest_sha256: str
    files: int
    texts: int
    onnx: dict[str, float | None]
    """ONNX folder -> largest logit difference from PyTorch on the texts, None where this machine cannot run it."""
    card: bool
    """Whether the card was held against result.json: not where one ONNX folder alone was looked at."""
    findings: list[Finding]
    notes: list[str]

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {**asdict(self), "root": str(self.root), "whole": self.whole}

    def require(self) -> None:
        """Raise UserError, naming the first finding, where there is one."""
        if self.findings:
            first, more = self.findings[0], len(self.findings) - 1
            others = f" ({more} more finding{'s' * (more > 1)}: `compressor verify --json` lists all)" if more else ""
            raise UserError(
                f"{self.root / first.file}: {first.problem}{others}; copy or download it again, or run the recipe again."
            )


@granted_threads()
def verify(directory: str | Path, *, track: Track = silent) -> Verified:
    """Return what is found in a run, its model/, one of its ONNX folders, or an unpacked bundle, held against its manifest.

    Hashes of files, weights against config.json, the logits of the model and of every ONNX file on the manifest's texts, and
    the card against result.json. Raises UserError where there is no manifest. No code of a checkpoint is executed.
    """
    root, part = root_of(Path(directory))
    manifest = read_manifest(root)
    model, files = manifest["model"], {name: known for name, known in manifest["files"].items() if _within(name, part)}
    look = _Look(root, manifest, part)
    own = part in {"", model}
    result = _result(root, manifest)
    findings = [Finding(*found) for found in changed_files(root, files, track)]
    findings += [Finding(*found) for found in _unknown_files(root, manifest, part)]
    if own:
        findings += [*look.weights(), *look.model()]
    onnx = {name: entry for name, entry in manifest["onnx"].items() if _within(name, part)}
    for name in track(list(onnx), "ONNX files"):
        findings += look.file(name, onnx[name])
    if own and result is not None:
        same = manifest["compressor"] == versions()["compressor"]
        try:
            found = [*card_problems(root / model, result, same_version=same)]
            findings += [Finding(_joined(model, name), problem) for name, problem in found]
            findings += [Finding(*found) for found in size_problems(root, result)]
        except UserError as error:
            findings.append(Finding(RESULT, str(error)))
    elif own:
        findings.append(Finding(RESULT, "is missing or no result, so nothing says what the card is to say"))
    return Verified(
        root, part, account(root / MANIFEST)["sha256"], len(files), len(manifest["texts"]), look.apart, own,
        sorted(set(findings), key=findings.index), [*look.notes, *_version_notes(manifest)],
    )  # fmt: skip


def changed_files(
    root: Path, files: Mapping[str, Mapping[str, Any]], track: Track = silent
) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) for the files of a manifest that are not there or not the same."""
    for name in track(list(files), "files"):
        path, known = root / name, files[name]
        if not path.is_file():
            yield name, "is missing"
            continue
        size = path.stat().st_size
        if size != known["bytes"]:
            yield name, f"is not the file of the manifest: {size:,} bytes instead of {known['bytes']:,}"
        elif (found := account(path)["sha256"]) != known["sha256"]:
            yield name, f"is not the file of the manifest: sha256 {found[:12]}... instead of {known['sha256'][:12]}..."


def _unknown_files(root: Path, manifest: Mapping[str, Any], part: str) -> Iterator[tuple[str, str]]:
    for folder in sorted({manifest["model"], *manifest["onnx"]}):
        for path in sorted((root / folder).glob("*")):
            name = path.relative_to(root).as_posix()
            own = name == MANIFEST or path.name.startswith(".") or not path.is_file()
            if not own and path.suffix in READ_BY_PRESENCE and _within(name, part) and name not in manifest["files"]:
                yield name, "is not in the manifest, and libraries read such a file because it lies there"


class _Look:
    """Asks the model and the files of one directory the texts of its manifest."""

    def __init__(self, root: Path, manifest: Mapping[str, Any], part: str) -> None:
        self.root, self.manifest, self.part = root, manifest, part
        self.texts = [tuple(row) for row in manifest["texts"]]
        self.reference = {name: read(logits) for name, logits in manifest["logits"].items()}
        self.task = task_told(manifest["answers"])
        if self.task.row.whole:  # of a tagger each word is asked for itself
            self.task = replace(self.task, within=np.arange(len(next(iter(self.reference.values())))))
        self.apart: dict[str, float | None] = {}
        self.notes: list[str] = []

    def weights(self) -> Iterator[Finding]:
        """Yield where the weights do not agree with the configuration."""
        model = self.manifest["model"]
        try:
            for name, problem in weight_problems(self.root / model):
                yield Finding(_joined(model, name), problem)
        except UserError as error:
            yield Finding(_joined(model, "config.json"), f"cannot be used: {error}")

    def model(self) -> Iterator[Finding]:
        """Yield where the model answers otherwise; its own logits are what its ONNX files are held against from here on."""
        folder, before = self.manifest["model"], self.reference[OWN]
        try:
            logits = torch_logits(self.root / folder, self.texts, self.manifest["max_length"])
            labels = find_model(str(self.root / folder)).label_names
        except UserError as error:
            yield Finding(_joined(folder, "config.json"), f"the model cannot be loaded: {error}")
            return
        if logits.shape != before.shape:
            yield Finding(folder, f"gives logits {list(logits.shape)}, and the manifest says {list(before.shape)}")
            return
        found = parity(before, logits, self.task)
        limit = MAX_ABS["fp32"] * found.scale
        if not found.max_abs <= limit:
            yield Finding(
                folder,
                f"answers otherwise than when the manifest was made: logits differ by {found.max_abs:.2g} on "
                f"{len(logits)} texts, and rounding allows {limit:.2g}",
            )
        if labels != self.manifest["label_names"]:
            yield Finding(_joined(folder, "config.json"), f"has other labels than the manifest: {', '.join(labels)}")
        self.reference[OWN] = logits

    def file(self, name: str, entry: Mapping[str, Any]) -> Iterator[Finding]:
        """Yield where an ONNX folder does not answer as PyTorch does, or as it did when the manifest was made."""
        self.apart[name] = None
        try:
            parts = file_logits(self.root / name, self.texts)
        except UserError as error:
            if entry["parts"] is None:
                self.notes.append(f"{name} is not asked: {error}")
            else:
                yield Finding(name, f"cannot be run: {error}")
            return
        labels = settings_in(self.root / name)["label_names"]
        if labels != self.manifest["label_names"]:
            yield Finding(name, f"has other labels than the manifest: {', '.join(map(str, labels))}")
        reference = self.reference[entry["of"]]
        before = [read(part) for part in entry["parts"]] if entry["parts"] else parts
        if [part.shape for part in parts] != [part.shape for part in before] or parts[-1].shape != reference.shape:
            yield Finding(name, "gives logits of another shape than the manifest says")
            return
        self.apart[name] = float(np.abs(parts[-1] - reference).max())
        variant = name.rpartition("/")[2] if len(parts) == 1 else ROUNDED
        if len(parts) == 1 or entry["float32"][-1]:
            try:
                check_parity(variant, parity(reference, parts[-1], self.task))
            except (RuntimeError, UserError) as error:
                yield Finding(name, f"does not answer as PyTorch does ({error})")
                return
        for part, known, plain in zip(parts, before, entry["float32"], strict=True):
            found = parity(known, part, self.task)
            limit = (MAX_ABS[ROUNDED] if plain else ROUGH) * found.scale
            if not found.max_abs <= limit:
                yield Finding(
                    name,
                    f"answers otherwise than when the manifest was made: logits differ by {found.max_abs:.2g} on "
                    f"{len(part)} texts, allowed is {limit:.2g}",
                )
                return


def _result(root: Path, manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        return read_result(root / RESULT) if RESULT in manifest["files"] else None
    except UserError:
        return None


def _version_notes(manifest: Mapping[str, Any]) -> list[str]:
    here = versions()
    other = [
        f"{name} {here.get(name) or 'missing'} (made with {version})"
        for name, version in manifest["versions"].items()
        if version and here.get(name) != version
    ]
    return [f"checked with other versions than it was made with: {', '.join(other)}"] if other else []


def _within(name: str, part: str) -> bool:
    return part in {"", "."} or name == part or name.startswith(f"{part}/")


def _joined(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"


def without(verified: Verified, edited: set[str]) -> Verified:
    """Return the same but for changed pages of these names, which their owner may write anew."""
    kept = [found for found in verified.findings if not (found.file in edited and "manifest" in found.problem)]
    return replace(verified, findings=kept)
