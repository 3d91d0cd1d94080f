"""What every exported folder is run by: tokens, batches of like length, and the ONNX parts in turn."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from tokenizers import Encoding, Tokenizer

from compressor.data.answers.tokens import first_tokens
from compressor.data.tokenizer import check_tokenizer, probe, tokenizing
from compressor.errors import UserError, first_line
from compressor.measurement.machine.environment import granted_fewer
from compressor.measurement.machine.providers import STRICT, require_provider
from compressor.runtime.folder import TOKENIZER, opened
from compressor.runtime.texts import Text, rows_of, words_of
from compressor.runtime.words import word_answer

HIDDEN = ("hidden",)
"""What a part gives the next one beside logits; the end of the layers gives nothing, and rows start again behind it."""
Providers = Sequence[str | tuple[str, Mapping[str, Any]]]


def margin(logits: np.ndarray) -> np.ndarray:
    """Return the distance [N] of the largest of the logits [N, C] to the next: what an exit's threshold is held against."""
    top = np.sort(logits, axis=1)[:, -2:]
    return top[:, 1] - top[:, 0]


class Engine:
    """The parts of one folder and its tokenizer; `settings` is what `settings_in` read there.

    Rows that no exit answers go on together, so no work is done twice; where the last part is the full model in float32
    (`settings["full"]`), rows that the end of the others is unsure of start again there. A row's answer does not depend on
    the batch that it comes in, but for the rounding of float32 sums and of 8 bits.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], *, providers: Providers, threads: int | None) -> None:
        self.folder, self.settings = folder, settings
        self.threads = settings.get("threads") if threads is None else threads
        if not providers or isinstance(providers, str):
            raise UserError(
                f"{folder}: providers is {providers!r}; name one or several in a list, such as CPUExecutionProvider."
                if providers
                else f"{folder}: providers is empty; name one, such as CPUExecutionProvider."
            )
        if self.threads is not None and (not isinstance(self.threads, int) or self.threads < 1):
            raise UserError(f"{folder}: threads is {self.threads!r}; give a whole number from 1, or None.")
        asked = providers[0] if isinstance(providers[0], str) else providers[0][0]  # or (name, options)
        require_provider(asked, str(folder))
        options = ort.SessionOptions()
        # of its own ONNX Runtime takes as many as there are cores, of which a container may grant few
        options.intra_op_num_threads = self.threads or granted_fewer() or 0
        # the parts take turns: threads of one that spin on after its run would steal the cores of the next
        options.add_session_config_entry("session.force_spinning_stop", "1")
        # a single file computes as it was measured, a cascade as it was certified
        chosen = strict(providers) if len(settings["parts"]) == 1 else list(providers)
        self._sessions = [
            opened(folder / name, partial(ort.InferenceSession, sess_options=options, providers=chosen))
            for name in settings["parts"]
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
        self._thresholds = [np.inf if value is None else value for value in settings["thresholds"]]
        check_tokenizer(folder / TOKENIZER, str(folder))
        self._tokenizer = opened(folder / TOKENIZER, Tokenizer.from_file)
        probe(self._tokenizer.encode, str(folder))
        self._tokenizer.no_padding()
        length, side = settings["max_length"], settings.get("truncation_side", "right")
        with _said(f"{folder}: texts cannot be cut to max_length {length}"):
            self._tokenizer.enable_truncation(length, direction=side)
            special = self._tokenizer.num_special_tokens_to_add(settings.get("texts", 1) == 2)
            if length <= special:
                raise ValueError(f"{special} tokens of them are special")
        outputs = [session.get_outputs()[-1].shape[-1:] for session in self._sessions]
        wrong = next(
            (size for (size, *_) in outputs if isinstance(size, int) and size != len(settings["label_names"])), None
        )
        if wrong is not None:
            raise UserError(
                f"{folder}: the file gives {wrong} numbers for {len(settings['label_names'])} labels; export it again."
            )

    def tokenize(self, texts: Sequence[Text]) -> list[Encoding]:
        """Return the tokens of texts, pairs or texts of words, cut to the length that the folder was made for, unpadded."""
        with tokenizing(str(self.folder)):
            return self._tokenizer.encode_batch(list(texts), is_pretokenized=self.by_word)

    @property
    def by_word(self) -> bool:
        """Whether there is an answer for each word of a text."""
        return self.settings.get("answers", {}).get("kind") == "tokens"

    def compute(
        self, batch: Mapping[str, np.ndarray], thresholds: Sequence[float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the logits [B, C] and the index of the part that gave them [B] for inputs by name, int64 [B, S].

        `thresholds` stand in for those of the settings. Where words have answers, the logits are those of all tokens, [B, S, C].
        """
        thresholds = self._thresholds if thresholds is None else thresholds
        rows = np.arange(len(batch["attention_mask"]))
        logits = np.zeros((len(rows), len(self.settings["label_names"])), dtype=np.float32)
        exits = np.full(len(rows), len(self._sessions) - 1)
        if not len(rows):  # ONNX Runtime divides by the number of rows and kills the process
            return logits, exits
        if len(self._sessions) == 1:
            return self._run(0, batch)[0], exits
        current = dict(batch)
        for part in range(len(self._sessions) - 1):
            *hidden, found = self._run(part, current)
            sure = margin(found).astype(np.float64) >= thresholds[part]  # in float64, as the certificate compares
            logits[rows[sure]], exits[rows[sure]] = found[sure], part
            if sure.all():
                return logits, exits
            rows = rows[~sure]
            # the end of the layers gives logits alone: what it is unsure of starts again from the ids
            current |= dict(zip(HIDDEN, hidden, strict=False))
            current = _trimmed({name: values[~sure] for name, values in current.items()})
        logits[rows] = self._run(len(self._sessions) - 1, current)[0]
        return logits, exits

    def every_logit(self, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the logits [B, C] of every part for all rows, as if no row left early: what a certificate needs."""
        if not len(batch["attention_mask"]):
            return [np.zeros((0, len(self.settings["label_names"])), dtype=np.float32) for _ in self._sessions]
        current, found = dict(batch), []
        for part in range(len(self._sessions) - 1):
            *hidden, logits = self._run(part, current)
            current |= dict(zip(HIDDEN, hidden, strict=False))
            found.append(logits)
        return [*found, self._run(len(found), current)[0]]

    def answers(self, texts: Text | Sequence[Text], batch_size: int) -> list[tuple[dict[str, Any], int]]:
        """Return the answer (see `answer_of`) to each text in its order, and the index of the part that gave it.

        Batches are made of texts of like length. Raises UserError for what is no text, or a pair where texts are wanted and
        the other way round.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise UserError(f"batch_size: {batch_size!r} is no whole number from 1.")
        if self.by_word:
            return self._word_answers(words_of(texts, str(self.folder)), batch_size)
        encoded = self.tokenize(rows_of(texts, self.settings.get("texts", 1), str(self.folder)))
        found: list = [None] * len(encoded)
        for rows in _by_length(encoded, batch_size):
            logits, exits = self.compute(self.padded([encoded[row] for row in rows]))
            made = answers_of(logits, self.settings["label_names"], self.settings.get("answers", {}))
            for row, answer, part in zip(rows, made, exits, strict=True):
                found[row] = answer, int(part)
        return found

    def _word_answers(self, texts: list[list[str]], batch_size: int) -> list[tuple[dict[str, Any], int]]:
        encoded, names = self.tokenize(texts), self.settings["label_names"]
        found: list = [None] * len(encoded)
        for rows in _by_length(encoded, batch_size):
            logits, _ = self.compute(self.padded([encoded[row] for row in rows]))
            for row, own in zip(rows, logits, strict=True):
                found[row] = word_answer(texts[row], own, first_tokens(encoded[row].word_ids), names), 0
        return found

    def padded(self, encoded: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """Return the inputs of a batch by name, int64 [B, S], padded on the right to its longest row."""
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

    def _run(self, part: int, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of a part; raises UserError for tokens or shapes that do not belong to its file."""
        lacking = np.zeros_like(batch["attention_mask"])  # token types that a batch lacks are 0
        feeds = {name: batch.get(name, lacking) for name in self._inputs[part]}
        with _said(f"{self.folder / self.settings['parts'][part]}: it cannot be run"):
            return self._sessions[part].run(None, feeds)


@contextmanager
def _said(what: str) -> Iterator[None]:
    """Turn whatever ONNX Runtime and tokenizers raise for files that do not belong together into a UserError."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({first_line(error)[:200]}); copy the folder again, or export it again.") from error


def strict(providers: Providers) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the providers with the options of `STRICT`, which what a caller gives goes before."""
    pairs = [(entry, {}) if isinstance(entry, str) else entry for entry in providers]
    return [(name, {**STRICT.get(name, {}), **options}) for name, options in pairs]


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities [B, C] of logits [B, C]."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def answers_of(logits: np.ndarray, names: Sequence[str], told: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the answers to logits [B, C]; `told` is what the settings say of them, one label a row where that is nothing.

    One label: `label` and its probability `score`. A score, by which documents are ranked too: `label` is the name of the
    output and `score` the number. Many labels: `labels` those given, and `scores` the probability of every one by name.
    """
    kind = told.get("kind", "single_label")
    if kind == "many_labels":
        shares = sigmoid(logits)
        given = shares >= np.array(told["thresholds"])
        return [
            {
                "labels": [name for name, chosen in zip(names, row, strict=True) if chosen],
                "scores": dict(zip(names, map(float, share), strict=True)),
            }
            for row, share in zip(given, shares, strict=True)
        ]
    if kind in {"score", "ranking"}:
        scores = sigmoid(logits) if told.get("sigmoid") else logits.astype(np.float64)
        return [{"label": names[0], "score": float(score)} for score in scores[:, 0]]
    best, shares = logits.argmax(1), softmax(logits)
    return [{"label": names[label], "score": float(row[label])} for label, row in zip(best, shares, strict=True)]


def sigmoid(logits: np.ndarray) -> np.ndarray:
    """Return the logistic function of logits, float64."""
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def _by_length(encoded: Sequence[Encoding], batch_size: int) -> Iterator[list[int]]:
    order = sorted(range(len(encoded)), key=lambda row: len(encoded[row].ids))
    return (order[start : start + batch_size] for start in range(0, len(order), batch_size))


def _trimmed(batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Cut the columns on the right that are padding in every row that goes on: the long rows may have left."""
    used = np.flatnonzero(batch["attention_mask"].any(axis=0))
    stop = int(used[-1]) + 1 if len(used) else 1
    return {name: values[:, :stop] for name, values in batch.items()}
