"""Tokenise once; hand out length-bucketed batches with dynamic padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerBase

from compressor.data.answers.tokens import first_tokens
from compressor.data.splits import Same, normalised
from compressor.data.tokenizer import tokenizing
from compressor.errors import UserError
from compressor.progress import Track, silent

if TYPE_CHECKING:
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, "Tensor")

Read = tuple[np.ndarray, np.ndarray]
"""Where the answers of a batch are read: the row of the batch and the token of each, both int64 [W]."""


@dataclass(frozen=True)
class Encodings:
    """Token ids of N rows, unpadded. `token_types` is None for families that have none (RoBERTa, DistilBERT).

    A row has one answer, or one for each of its `words`: W of them in all, one row after the other.
    """

    input_ids: list[list[int]]
    token_types: list[list[int]] | None
    pad_id: int
    words: list[list[int]] | None = None
    """The token at which each word of a row begins; None where a row has one answer."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @cached_property
    def _starts(self) -> np.ndarray:
        """The place of each row's first answer, and the number of all answers: int64 [N + 1]."""
        counts = [len(words) for words in self.words] if self.words is not None else [1] * len(self)
        return np.cumsum([0, *counts])

    @property
    def answers(self) -> int:
        """How many answers the rows have: N, or W."""
        return int(self._starts[-1])

    def answers_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the places of the answers of `rows` among all, int64, in the order of `rows`."""
        if self.words is None:
            return np.asarray(rows)
        return np.concatenate([np.arange(*self._starts[row : row + 2]) for row in rows])

    def read_at(self, rows: np.ndarray) -> Read | None:
        """Return where the answers of a batch of `rows` are read; None where the model's own head says that."""
        if self.words is None:
            return None
        counts = [len(self.words[row]) for row in rows]
        return np.repeat(np.arange(len(rows)), counts), np.concatenate([self.words[row] for row in rows])

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each row, special tokens included: int64 [N]."""
        return np.array([len(ids) for ids in self.input_ids], dtype=np.int64)

    def by_row(self, values: np.ndarray) -> np.ndarray:
        """Return the mean over the answers of each row [N] of values of all answers."""
        return values if self.words is None else np.add.reduceat(values, self._starts[:-1]) / np.diff(self._starts)

    def take(self, rows: np.ndarray) -> "Encodings":
        """Return the encodings of `rows` only, in that order."""
        token_types = None if self.token_types is None else [self.token_types[row] for row in rows]
        words = None if self.words is None else [self.words[row] for row in rows]
        return Encodings([self.input_ids[row] for row in rows], token_types, self.pad_id, words)


def join(parts: Sequence[Encodings]) -> Encodings:
    """Return the rows of all `parts`, one part after the other; they come from one tokenizer."""
    token_types = None
    if parts[0].token_types is not None:
        token_types = [types for part in parts for types in part.token_types]
    words = None if parts[0].words is None else [words for part in parts for words in part.words]
    return Encodings([ids for part in parts for ids in part.input_ids], token_types, parts[0].pad_id, words)


def read(outputs: Array, at: Read | None) -> Array:
    """Return the outputs [W, C] at the words of a batch out of those of all tokens [B, S, C]; outputs of rows as they are."""
    return outputs if at is None else outputs[at]


def encode(texts: list[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encodings:
    """Tokenise rows of one or two texts, each truncated to `max_length` tokens (the longer text of a pair first).

    Raises UserError where that leaves no room for text.
    """
    if not texts:
        return Encodings([], [] if "token_type_ids" in tokenizer.model_input_names else None, tokenizer.pad_token_id)
    check_room(tokenizer, len(texts[0]), max_length, "max_length")
    columns = [list(column) for column in zip(*texts, strict=True)]
    with tokenizing(str(tokenizer.name_or_path)):
        encoded = tokenizer(*columns, truncation=True, max_length=max_length, padding=False)
    return Encodings(encoded["input_ids"], encoded.get("token_type_ids"), tokenizer.pad_token_id)


def encode_words(texts: list[tuple[str, ...]], tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encodings:
    """Tokenise rows of words, each row truncated to `max_length` tokens; a word is read at the first of its tokens.

    Words without a token, and those of which the first was cut off, have no place in `words`: `data/words/fit.py` leaves
    them out before. Raises UserError where there is no room for text.
    """
    if not texts:
        return replace(encode([], tokenizer, max_length), words=[])
    check_room(tokenizer, 1, max_length, "max_length")
    rows = [list(words) for words in texts]
    with tokenizing(str(tokenizer.name_or_path)):
        encoded = tokenizer(rows, is_split_into_words=True, truncation=True, max_length=max_length, padding=False)
    places = [first_tokens(encoded.word_ids(row)) for row in range(len(rows))]
    return Encodings(
        encoded["input_ids"],
        encoded.get("token_type_ids"),
        tokenizer.pad_token_id,
        [list(found.values()) for found in places],
    )


def check_room(tokenizer: PreTrainedTokenizerBase, texts: int, max_length: int, field: str) -> None:
    """Raise UserError, naming `field`, where rows of so many `texts` (1 or 2) hold nothing but special tokens."""
    special = tokenizer.num_special_tokens_to_add(pair=texts == 2)
    if max_length <= special:
        raise UserError(
            f"{field}: {max_length} leaves no room for text, since {'pairs' if texts == 2 else 'texts'} take {special} special "
            "tokens of this tokenizer; raise it."
        )


def same_tokens(tokenizer: PreTrainedTokenizerBase) -> Same:
    """Return the key under which rows are copies of one text to a tokenizer: its words, before they are looked up.

    Case, accents, Unicode form, control characters and the space around punctuation then count only where they change
    the tokens; white space never does. A tokenizer that normalises nothing takes texts as they are (`normalised`).
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.normalizer is None:
        return normalised

    def words(text: str) -> str:
        with tokenizing(str(tokenizer.name_or_path)):
            plain = backend.normalizer.normalize_str(text)
            if backend.pre_tokenizer is not None:
                plain = " ".join(word for word, _ in backend.pre_tokenizer.pre_tokenize_str(plain))
        return " ".join(plain.split())

    return lambda texts: tuple(map(words, normalised(texts)))


def pad(encodings: Encodings, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the model inputs of `rows`, each int64 [B, S], padded on the right to the longest row among them."""
    width = max(len(encodings.input_ids[row]) for row in rows)
    shape = len(rows), width
    inputs = {
        "input_ids": np.full(shape, encodings.pad_id, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
    }
    if encodings.token_types is not None:
        inputs["token_type_ids"] = np.zeros(shape, dtype=np.int64)
    for index, row in enumerate(rows):
        ids = encodings.input_ids[row]
        inputs["input_ids"][index, : len(ids)] = ids
        inputs["attention_mask"][index, : len(ids)] = 1
        if encodings.token_types is not None:
            inputs["token_type_ids"][index, : len(ids)] = encodings.token_types[row]
    return inputs


def bucketed_rows(lengths: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Return row indices in batches of similar length, longest first so that memory peaks at once, not at the end."""
    order = np.argsort(-lengths, kind="stable")
    return [order[start : start + batch_size] for start in range(0, len(order), batch_size)]


def shuffled_rows(lengths: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Return row indices in random batches whose rows have similar lengths: shuffle, sort pools of 32 batches, shuffle."""
    order = generator.permutation(len(lengths))
    batches = []
    for start in range(0, len(order), 32 * batch_size):
        pool = order[start : start + 32 * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[begin : begin + batch_size] for begin in range(0, len(pool), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def padded_batches(
    encodings: Encodings, batch_size: int, track: Track = silent, description: str = ""
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]]]:
    """Yield (row indices [B], inputs) in length buckets; the indices put results back into the order of the rows.

    `track` shows under `description` how many of the batches are done.
    """
    batches = bucketed_rows(encodings.lengths, batch_size)
    for rows in track(batches, description, total=len(batches)):
        yield rows, pad(encodings, rows)
