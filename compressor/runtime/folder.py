"""An exported folder: what it says of labels and texts, and the sentences for one that is not whole."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from compressor.data.tokenizer import no_panic
from compressor.errors import UserError, first_line
from compressor.files import lies_inside, read_json

CASCADE, CLASSIFIER = "cascade.json", "classifier.json"
"""The settings of a cascade, and those of a single file (`export/beside.py` writes them)."""
MODEL, TOKENIZER = "model.onnx", "tokenizer.json"
ALWAYS = "label_names", "max_length", "pad_id"
NEEDED = {CASCADE: ("exits", "layers", "parts", "thresholds", *ALWAYS), CLASSIFIER: ALWAYS}
"""What settings must hold. Others may be missing: `texts` (1, 2, or null where either may come), `truncation_side`,
`token_types`, `threads`."""
LONGEST = 100_000
"""Tokens of a text."""


def _whole(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value == value)


def _answers(told: object) -> bool:
    """Tell whether what is said of the answers has the types that their kind needs."""
    if not isinstance(told, dict):
        return False
    thresholds = told.get("thresholds", [])
    listed = isinstance(thresholds, list) and all(map(_number, thresholds)) and None not in thresholds
    return listed and told.get("kind", "single_label") in {*ANSWERS} and isinstance(told.get("sigmoid", False), bool)


ANSWERS = "single_label", "many_labels", "score", "ranking", "tokens"
"""Kinds of answers, as `data/answers/kinds.py` calls them."""
ALLOWED: dict[str, Callable[[Any], bool]] = {
    "label_names": lambda names: (
        isinstance(names, list) and bool(names) and all(isinstance(name, str) for name in names)
    ),
    "max_length": lambda length: _whole(length, 1, LONGEST),
    "pad_id": lambda token: _whole(token, 0, 2**31 - 1),
    "thresholds": lambda values: isinstance(values, list) and all(map(_number, values)),
    "parts": lambda parts: isinstance(parts, list) and bool(parts) and all(map(lies_inside, parts)),
    "texts": lambda texts: texts is None or _whole(texts, 1, 2),
    "truncation_side": lambda side: side in ("left", "right"),
    "token_types": lambda there: isinstance(there, bool),
    "threads": lambda count: count is None or _whole(count, 1, 10_000),
    "answers": _answers,
    "exits": lambda exits: isinstance(exits, list) and all(_whole(exit, 0, 10_000) for exit in exits),
    "layers": lambda layers: _whole(layers, 0, 10_000),
    "full": lambda full: full is None or isinstance(full, bool),
}
"""What each setting may be."""
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
        wrong = next((key for key, allows in ALLOWED.items() if key in settings and not allows(settings[key])), None)
        if wrong is not None:
            raise ValueError(f"{wrong} is {settings[wrong]!r}")
        if len(settings["thresholds"]) != len(settings["parts"]) - 1:
            raise ValueError("thresholds must be one fewer than parts")
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
        with no_panic(str(file)):
            return reader(str(file))
    except UserError:
        raise
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
