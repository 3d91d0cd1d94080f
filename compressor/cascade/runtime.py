"""Run an exported cascade: ONNX Runtime, numpy and tokenizers are all it needs; no torch, no transformers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from compressor.errors import UserError, first_line
from compressor.files import read_json
from compressor.measurement.machine.providers import require_provider

SETTINGS = "cascade.json"
HIDDEN = ("hidden",)
"""What a part gives the next one beside logits; the end of the layers gives nothing, and rows start again behind it."""
NEEDED = "exits", "layers", "thresholds", "label_names", "max_length", "pad_id"

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Answer:
    """One prediction: its label, the softmax of its logits at that label, and the layer behind which the text left."""

    label: str
    score: float
    layer: int


def margin(logits: np.ndarray) -> np.ndarray:
    """Return the distance [N] of the largest of the logits [N, C] to the next: what an exit's threshold is held against."""
    top = np.sort(logits, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


class CascadeClassifier:
    """A classifier that answers easy texts behind an early layer.

    `directory` holds cascade.json, the ONNX parts and tokenizer.json, as `compressor run` writes them to
    onnx/cascade. Rows that no exit answers go on together, so no work is done twice; where the last part is the full model
    in float32 (`settings["full"]`), rows that the end of the others is unsure of start again there. A row's answer does not
    depend on the batch that it comes in, but for the rounding of float32 sums. `settings["precision"]` is that of all parts
    but the full model. `stats()` counts where the rows left; `certified` says whether a bound on changed predictions holds
    (`settings["max_flips"]`), on texts like those it was certified on.
    """

    def __init__(
        self, directory: str | Path, *, providers: Sequence[str] = ("CPUExecutionProvider",), threads: int | None = None
    ) -> None:
        folder = Path(directory)
        self.settings = _settings(folder)
        if not providers:
            raise UserError(f"{folder}: providers is empty; name one, such as CPUExecutionProvider.")
        asked = providers[0] if isinstance(providers[0], str) else providers[0][0]  # or (name, options)
        require_provider(asked, str(folder))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or 0
        # the parts take turns: threads of one that spin on after its run would steal the cores of the next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._sessions = [
            _opened(folder / name, partial(ort.InferenceSession, sess_options=options, providers=list(providers)))
            for name in self.settings["parts"]
        ]
        other = [found for found in (session.get_providers()[0] for session in self._sessions) if found != asked]
        if other:
            raise UserError(
                f"{folder}: asked for {asked}, but ONNX Runtime would run on {other[0]}; `compressor doctor` says why."
            )
        for session in self._sessions:
            session.disable_fallback()  # a failing run raises, it does not move to another provider
        self._inputs = [[value.name for value in session.get_inputs()] for session in self._sessions]
        # null stands for a threshold that nothing reaches: JSON has no infinity
        self._thresholds = [np.inf if value is None else value for value in self.settings["thresholds"]]
        self._tokenizer = _opened(folder / "tokenizer.json", Tokenizer.from_file)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            self.settings["max_length"], direction=self.settings.get("truncation_side", "right")
        )
        self._layers = [*self.settings["exits"], self.settings["layers"]]
        self._left = np.zeros(len(self._sessions), dtype=np.int64)

    def __call__(self, texts: Text | Sequence[Text], batch_size: int = 32) -> list[Answer]:
        """Classify texts, or pairs of texts, in their order; batches are made of texts of like length.

        A single text, or for a model of pairs a single pair, may stand alone. Raises UserError where texts come to a model
        of pairs, or pairs to one of texts: nothing is certified of those.
        """
        if batch_size < 1:
            raise UserError(f"batch_size: {batch_size} is less than 1.")
        pairs = self.settings.get("texts", 1) == 2
        alone = isinstance(texts, str) or (
            pairs and isinstance(texts, tuple) and all(isinstance(t, str) for t in texts)
        )
        rows = [texts] if alone else list(texts)
        wrong = next((row for row in rows if isinstance(row, str) == pairs or (pairs and len(row) != 2)), None)
        if wrong is not None:
            wanted = "pairs of texts" if pairs else "single texts"
            raise UserError(f"this cascade classifies {wanted}, not {wrong!r}.")
        encoded = self.tokenize([row if isinstance(row, str) else tuple(row) for row in rows])
        order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))
        answers: list[Answer | None] = [None] * len(encoded)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            logits, exits = self.run(self._padded([encoded[row] for row in rows]))
            for row, row_logits, part in zip(rows, logits, exits, strict=True):
                answers[row] = self._answer(row_logits, int(part))
        return answers

    def tokenize(self, texts: Sequence[Text]) -> list[Encoding]:
        """Return the tokens of texts or pairs, cut to the length that the cascade was certified at, unpadded."""
        return self._tokenizer.encode_batch(list(texts))

    def run(self, batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits [B, C] and the index of the part that gave them [B] for inputs by name, int64 [B, S]."""
        logits, exits = self.compute(batch, self._thresholds)
        self._left += np.bincount(exits, minlength=len(self._left))
        return logits, exits

    def compute(self, batch: Mapping[str, np.ndarray], thresholds: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Do what `run` does with other thresholds, and do not count the rows."""
        rows = np.arange(len(batch["attention_mask"]))
        logits = np.zeros((len(rows), len(self.settings["label_names"])), dtype=np.float32)
        exits = np.full(len(rows), len(self._sessions) - 1)
        if not len(rows):  # ONNX Runtime divides by the number of rows and kills the process
            return logits, exits
        current = dict(batch)
        for part, session in enumerate(self._sessions[:-1]):
            *hidden, found = session.run(None, self._feeds(part, current))
            sure = margin(found).astype(np.float64) >= thresholds[part]  # in float64, as the certificate compares
            logits[rows[sure]], exits[rows[sure]] = found[sure], part
            if sure.all():
                return logits, exits
            rows = rows[~sure]
            # the end of the layers gives logits alone: what it is unsure of starts again from the ids
            current |= dict(zip(HIDDEN, hidden, strict=False))
            current = _trimmed({name: values[~sure] for name, values in current.items()})
        logits[rows] = self._sessions[-1].run(None, self._feeds(len(self._sessions) - 1, current))[0]
        return logits, exits

    def every_logit(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the logits [B, C] of every part for all rows, as if no row left early: what a certificate needs."""
        if not len(batch["attention_mask"]):
            return [np.zeros((0, len(self.settings["label_names"])), dtype=np.float32) for _ in self._sessions]
        current, found = dict(batch), []
        for part, session in enumerate(self._sessions[:-1]):
            *hidden, logits = session.run(None, self._feeds(part, current))
            current |= dict(zip(HIDDEN, hidden, strict=False))
            found.append(logits)
        return [*found, self._sessions[-1].run(None, self._feeds(len(found), current))[0]]

    @property
    def certified(self) -> bool:
        """Whether the thresholds passed their certificate; where not, no text leaves early."""
        return bool(self.settings.get("certified"))

    def stats(self) -> dict[str, object]:
        """Return how many rows `run` and calls have answered, and the share that left behind each layer."""
        rows = int(self._left.sum())
        shares = [
            {"layer": layer, "rows": int(left), "share": int(left) / rows if rows else 0.0}
            for layer, left in zip(self._layers, self._left, strict=True)
        ]
        if self.settings.get("full"):  # the last part is the full model, where rows started again
            shares[-1]["full"] = True
        return {"rows": rows, "exits": shares}

    def _answer(self, logits: np.ndarray, part: int) -> Answer:
        shifted = np.exp(logits - logits.max())
        best = int(logits.argmax())
        return Answer(self.settings["label_names"][best], float(shifted[best] / shifted.sum()), self._layers[part])

    def _feeds(self, part: int, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        lacking = np.zeros_like(batch["attention_mask"])  # token types that a batch lacks are 0
        return {name: batch.get(name, lacking) for name in self._inputs[part]}

    def _padded(self, encoded: Sequence[Encoding]) -> dict[str, np.ndarray]:
        longest = max(len(row.ids) for row in encoded)

        def stack(rows: list[list[int]], fill: int) -> np.ndarray:
            return np.array([row + [fill] * (longest - len(row)) for row in rows], dtype=np.int64)

        batch = {
            "input_ids": stack([row.ids for row in encoded], self.settings["pad_id"]),
            "attention_mask": stack([row.attention_mask for row in encoded], 0),
        }
        # a tokenizer may give segment ids that the model behind it does not embed
        if self.settings.get("token_types", True):
            batch["token_type_ids"] = stack([row.type_ids for row in encoded], 0)
        return batch


def _settings(folder: Path) -> dict:
    """Return the content of cascade.json; raises UserError where `folder` is no whole cascade."""
    below = folder / "onnx" / "cascade"
    if (below / SETTINGS).is_file():
        raise UserError(f"{folder}: a run directory; its cascade is {below}.")
    if not (folder / SETTINGS).is_file():
        raise UserError(f"{folder}: holds no {SETTINGS}; a run with `cascade:` in its recipe writes onnx/cascade.")
    try:
        settings = read_json(folder / SETTINGS)
        files = [*settings["parts"], "tokenizer.json"]
        lacking = [name for name in NEEDED if name not in settings]
        if lacking:
            raise KeyError(lacking[0])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / SETTINGS}: not the settings of a cascade ({error}); export it again.") from error
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: {', '.join(missing)} is missing; copy the whole folder, or run the recipe again.")
    return settings


def _opened(file: Path, reader: Callable[[str], Any]) -> Any:  # noqa: ANN401
    """Return what `reader` makes of the file; raises UserError, naming the file, where it cannot."""
    try:
        return reader(str(file))
    except Exception as error:  # ONNX Runtime and tokenizers raise whatever a damaged file leads them to
        raise UserError(
            f"{file}: cannot be opened ({first_line(error)[:200]}); copy the folder again, or export it again."
        ) from error


def _trimmed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut the columns on the right that are padding in every row that goes on: the long rows may have left."""
    used = np.flatnonzero(batch["attention_mask"].any(axis=0))
    stop = int(used[-1]) + 1 if len(used) else 1
    return {name: values[:, :stop] for name, values in batch.items()}
