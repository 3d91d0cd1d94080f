"""What a run that decided adds to the folders that it wrote: the number of threads that each was fastest with."""

from collections.abc import Mapping, Sequence
from typing import Any

from compressor.export.beside import words_beside
from compressor.export.deploy import KINDS
from compressor.files import read_json
from compressor.run.rundir import RunDir
from compressor.run.variants import FULL_ONNX
from compressor.runtime.folder import CASCADE, CLASSIFIER


def note_threads(folder: RunDir, candidates: Sequence[Mapping[str, Any]]) -> None:
    """Write the threads of each of the `candidates` of ship.json into its folder; into others that nothing is known."""
    best = {entry["path"]: entry["threads"] for entry in candidates}
    for home in ("onnx", FULL_ONNX):
        for variant in KINDS:
            stage, name = ("cascade", CASCADE) if variant == "cascade" else (home, CLASSIFIER)
            path = f"{home}/{variant}"
            if (folder.path / path / name).is_file():
                settings = {**read_json(folder.path / path / name), "threads": best.get(path)}
                for file, text in words_beside(folder.path / path, variant, settings).items():
                    folder.amend(stage, f"{path}/{file}", lambda _before, text=text: text)
