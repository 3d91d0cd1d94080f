"""`Classifier`: texts in, labels and scores out, as from a text-classification pipeline of transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.runtime.engine import Engine, Providers
from compressor.runtime.folder import settings_in
from compressor.runtime.texts import Text


class Classifier:
    """A text classifier from an exported folder: a variant that `compressor run` or `compressor export` wrote, or a cascade.

    `threads` None takes the number that the run found best for this folder, where it timed it, else ONNX Runtime's own
    choice, or what a container's limit grants where that is less. `label_names` are in the order of the logits; longer texts are
    cut to `max_length` tokens. Raises UserError for a folder that is not whole and for a provider that does not work here.

    ```python
    classify = Classifier("runs/demo/onnx/int8")
    classify(["a gripping film", "not without its charms, alas"])  # [{"label": ..., "score": ...}, ...]
    ```
    """

    def __init__(
        self, directory: str | Path, *, threads: int | None = None, providers: Providers = ("CPUExecutionProvider",)
    ) -> None:
        folder = Path(directory)
        self._engine = Engine(folder, settings_in(folder), providers=providers, threads=threads)
        self.threads = self._engine.threads
        self.label_names: list[str] = self._engine.settings["label_names"]
        self.max_length: int = self._engine.settings["max_length"]

    def __call__(self, texts: Text | Sequence[Text], batch_size: int = 32) -> list[dict[str, Any]]:
        """Return `{"label", "score"}` of each text in its order; of a single text a list of one.

        Of a model that gives a score, `score` is that number. Of one that gives any number of labels the dict has `labels`,
        those given, and `scores`, the probability of every label by name.

        A row is a string, or for a model of pairs a tuple of two. Raises UserError for anything else, naming it.
        """
        return [answer for answer, _ in self._engine.answers(texts, batch_size)]

    def rank(self, query: str, documents: Sequence[str], batch_size: int = 32) -> list[dict[str, Any]]:
        """Return `{"index", "score"}` of each document in the order of their scores for a query, the best first.

        `index` is its place in `documents`; of equal scores the first goes first. Raises UserError for a folder that does not
        give scores of pairs.
        """
        kind = self._engine.settings.get("answers", {}).get("kind")
        if kind not in {"score", "ranking"} or self._engine.settings.get("texts", 1) == 1:
            raise UserError(
                f"{self._engine.folder}: documents are ranked by a score of pairs, which this model does not give."
            )
        scores = [answer["score"] for answer in self([(query, document) for document in documents], batch_size)]
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [{"index": index, "score": scores[index]} for index in order]
