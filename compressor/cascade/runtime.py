"""Run an exported cascade: ONNX Runtime, numpy and tokenizers are all it needs; no torch, no transformers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compressor.runtime.engine import Engine, Providers, margin
from compressor.runtime.folder import CASCADE as SETTINGS
from compressor.runtime.folder import settings_in
from compressor.runtime.texts import Text

__all__ = ["SETTINGS", "Answer", "CascadeClassifier", "margin"]


@dataclass(frozen=True)
class Answer:
    """One prediction: its label, the softmax of its logits at that label, and the layer behind which the text left."""

    label: str
    score: float
    layer: int


class CascadeClassifier(Engine):
    """A classifier that answers easy texts behind an early layer, and says where they left.

    `directory` holds cascade.json, the ONNX parts and tokenizer.json, as `compressor run` writes them to
    onnx/cascade. `settings["precision"]` is that of all parts but the full model. `stats()` counts where the rows left;
    `certified` says whether a bound on changed predictions holds (`settings["max_flips"]`), on texts like those it was
    certified on.
    """

    def __init__(
        self, directory: str | Path, *, providers: Providers = ("CPUExecutionProvider",), threads: int | None = None
    ) -> None:
        folder = Path(directory)
        super().__init__(folder, settings_in(folder, (SETTINGS,)), providers=providers, threads=threads)
        self._layers = [*self.settings["exits"], self.settings["layers"]]
        self._left = np.zeros(len(self._sessions), dtype=np.int64)

    def __call__(self, texts: Text | Sequence[Text], batch_size: int = 32) -> list[Answer]:
        """Classify texts, or pairs of texts, in their order; batches are made of texts of like length.

        A single text, or for a model of pairs a single pair, may stand alone. Raises UserError where texts come to a model
        of pairs, or pairs to one of texts: nothing is certified of those.
        """
        found = self.answers(texts, batch_size)
        self._count(np.array([part for _, part in found], dtype=np.int64))
        return [Answer(answer["label"], answer["score"], self._layers[part]) for answer, part in found]

    def run(self, batch: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Do what `compute` does, and count where the rows left."""
        logits, exits = self.compute(batch)
        self._count(exits)
        return logits, exits

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

    def _count(self, exits: np.ndarray) -> None:
        self._left += np.bincount(exits, minlength=len(self._left))
