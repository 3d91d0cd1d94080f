"""An exported folder: what it says of labels and texts, and the sentences for one that is not whole."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from compressor.errors import UserError, first_line
from compressor.files import lies_inside, read_json

CASCADE, CLASSIFIER = "cascade.json", "classifier.json"
"""The settings of a cascade, and those of a single file (`export/beside.py` writes them)."""
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
ALWAYS = "label_names", "max_length", "pad_id"
NEEDED = {CASCADE: ("exits", "layers", "parts", "thresholds", *ALWAYS), CLASSIFIER: ALWAYS}
"""What settings must hold. Others may be missing: `texts` (1, 2, or null where either may come), `truncation_side`,
`token_types`, `threads`."""
TYPES = {"label_names": list, "max_length": int, "pad_id": int, "thresholds": list}
SINGLE = {"parts": [MODEL], "thresholds": []}
"""A single file is a cascade of one part, which no text leaves early."""


def settings_in(folder: Path, kinds: Collection[str] = (CASCADE, CLASSIFIER)) -> dict[str, Any]:
    """Return the settings in `folder`, of the first of `kinds` that is there; raises UserError where it is not whole."""
    name = next((kind for kind in kinds if (folder / kind).is_file()), None)
    below = [kind.parent for kind in sorted(folder.glob("onnx/*/*.json")) if kind.name in kinds]
    if below and not (folder / CLASSIFIER).is_file():  # a run has a cascade.json too, of another kind
        own = "its cascade is" if tuple(kinds) == (CASCADE,) else "name one of its folders:"
        raise UserError(f"{folder}: a run directory; {own} {', '.join(map(str, below))}.")
    if name is None:
        raise UserError(f"{folder}: {_lacks(folder, kinds)}")
    try:
        settings = {**(SINGLE if name == CLASSIFIER else {}), **read_json(folder / name)}
        files = [*settings["parts"], TOKENIZER]
        lacking = [key for key in NEEDED[name] if key not in settings]
        if lacking:
            raise KeyError(lacking[0])
        wrong = next((key for key, kind in TYPES.items() if not isinstance(settings[key], kind)), None)
        if wrong is not None:
            raise ValueError(f"{wrong} is {settings[wrong]!r}")
        outside = next((part for part in settings["parts"] if not lies_inside(part)), None)
        if outside is not None:
            raise ValueError(f"it names {outside!r}, which lies elsewhere")
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = "a cascade" if name == CASCADE else "a classifier"
        raise UserError(f"{folder / name}: not the settings of {what} ({error}); export it again.") from error
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} is missing; copy the whole folder, or run the recipe again.")
    return settings


def opened(file: Path, reader: Callable[[str], Any]) -> Any:  # noqa: ANN401
    """Return what `reader` makes of the file; raises UserError, naming the file, where it cannot."""
    try:
        return reader(str(file))
    except Exception as error:  # ONNX Runtime and tokenizers raise whatever a damaged file leads them to
        raise UserError(
            f"{file}: cannot be opened ({first_line(error)[:200]}); copy the folder again, or export it again."
        ) from error


def _lacks(folder: Path, kinds: Collection[str]) -> str:
    if not folder.is_dir():
        return "no such folder; name one that `compressor run` or `compressor export` wrote."
    if CLASSIFIER not in kinds:
        return f"holds no {CASCADE}; a run with `cascade:` in its recipe writes onnx/cascade."
    if (folder / MODEL).is_file():
        return f"holds no {CLASSIFIER}, as exports of earlier versions; export it again."
    return f"holds no {CLASSIFIER}; name a folder that `compressor run` or `compressor export` wrote, such as onnx/optimized."
