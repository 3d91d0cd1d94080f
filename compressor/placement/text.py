"""Text for pre-training: read, cut into a training and a held-out part, tokenised and packed into full sequences."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from compressor.data.files import Table, read_lines, read_table
from compressor.data.hub import reading_hub
from compressor.errors import UserError, first_line
from compressor.recipe.placement import EncoderSpec, TextSpec

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
ALPHABET = 1000
"""Most letters that a trained vocabulary knows."""
SHARES = 10_000
"""Parts that the hash of a text is taken to, to tell held-out texts from the others."""


@dataclass(frozen=True)
class Packed:
    """N full sequences: ids int32 [N, S], and bool [N, S] whether a word begins at a token (never at a special one)."""

    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sha256(self) -> str:
        """Hex digest of the ids."""
        return hashlib.sha256(np.ascontiguousarray(self.ids, dtype="<i4")).hexdigest()


def read_texts(spec: TextSpec) -> list[str]:
    """Return the texts that the recipe names, white space trimmed, empty ones left out.

    Raises UserError where a file or column is missing, or nothing but empty texts is there.
    """
    source = spec.hub or ", ".join(spec.paths)
    found = _from_hub(spec) if spec.hub else [text for path in spec.paths for text in _from_file(Path(path), spec)]
    texts = [text for text in (value.strip() for value in found) if text]
    if not texts:
        raise UserError(f"text: no text in {source}; give a file or column that holds some.")
    return texts


def held_out(texts: Sequence[str], share: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Return (training, held-out) texts, each in the order given; a text's hash decides, so that equal texts stay together.

    Raises UserError where one side would be empty.
    """
    limit = share * SHARES
    late = [int(hashlib.sha256(f"{seed}:{text}".encode()).hexdigest()[:8], 16) % SHARES < limit for text in texts]
    sides = tuple([text for text, out in zip(texts, late, strict=True) if out is side] for side in (False, True))
    if not all(sides):
        raise UserError(
            f"text.held_out: {share:g} of {len(texts)} texts leaves one side empty; give more text or another share."
        )
    return sides


def make_tokenizer(texts: Sequence[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Train an uncased WordPiece tokenizer of at most `vocab_size` tokens, like BERT's; equal texts give equal tokenizers."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    # the trainer numbers the letters inside words as its hash table hands them out, and breaks ties by number: so they
    # are numbered here, as special tokens, which the tokenizer built from its vocabulary no longer knows as such
    first, inside = _letters(texts, tokenizer)
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        special_tokens=[*SPECIAL.values(), *first, *(f"##{letter}" for letter in inside)],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    made = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    made.normalizer = tokenizer.normalizer
    made.pre_tokenizer = tokenizer.pre_tokenizer
    made.decoder = decoders.WordPiece()
    ends = [(name, vocabulary[name]) for name in (SPECIAL["sep_token"], SPECIAL["cls_token"])]
    made.post_processor = processors.BertProcessing(*ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, **SPECIAL, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


def _letters(texts: Sequence[str], tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """Return the letters that begin words and those inside of words, at most `ALPHABET` of each, in order."""
    first: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for text in texts:
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)):
            first[word[0]] += 1
            inside.update(word[1:])
    return tuple(sorted(sorted(found, key=lambda each: (-found[each], each))[:ALPHABET]) for found in (first, inside))


def load_given_tokenizer(encoder: EncoderSpec) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the recipe names; raises UserError where it cannot be read or its vocabulary does not fit."""
    where = f"encoder.tokenizer {encoder.tokenizer!r}"
    if not Path(encoder.tokenizer).expanduser().is_dir():
        raise UserError(f"{where}: no such directory; name one that holds a tokenizer, or leave it out to train one.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            Path(encoder.tokenizer).expanduser(), trust_remote_code=False, local_files_only=True, use_fast=True
        )
    except Exception as error:  # the Rust tokenizers raise plain Exception for a damaged file
        raise UserError(f"{where}: it cannot be loaded ({first_line(error)}).") from error
    missing = [name for name in SPECIAL if getattr(tokenizer, name) is None]
    if missing or not tokenizer.is_fast:
        raise UserError(f"{where}: it has no {missing[0] if missing else 'fast form'}; use a tokenizer like BERT's.")
    if len(tokenizer) != encoder.vocab_size:
        raise UserError(
            f"{where}: vocabulary mismatch: it has {len(tokenizer)} tokens, encoder.vocab_size is {encoder.vocab_size}; "
            f"set encoder.vocab_size: {len(tokenizer)}."
        )
    return tokenizer


def pack(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Packed:
    """Return the texts as sequences of exactly `length` tokens: [CLS] text [SEP] text [SEP] ..., in order.

    A text that does not fit goes on in the next sequence; a last sequence that is not full is left out.
    """
    parts, starts = [], []
    for begin in range(0, len(texts), 1000):
        encoded = tokenizer(
            list(texts[begin : begin + 1000]), add_special_tokens=False, return_attention_mask=False, verbose=False
        )
        for row, ids in enumerate(encoded["input_ids"]):
            words = np.array(encoded.word_ids(row), dtype=np.int64)
            parts.append(np.array([*ids, tokenizer.sep_token_id], dtype=np.int32))
            starts.append(np.append(np.diff(words, prepend=-1) != 0, False))
    room = length - 1
    stream, begins = (np.concatenate(values) if values else np.zeros(0) for values in (parts, starts))
    count = len(stream) // room
    ids = np.full((count, length), tokenizer.cls_token_id, dtype=np.int32)
    heads = np.zeros((count, length), dtype=bool)
    ids[:, 1:] = stream[: count * room].reshape(count, room)
    heads[:, 1:] = begins[: count * room].reshape(count, room)
    # the rest of a word that began in the sequence before counts as a word
    heads[:, 1] |= ids[:, 1] != tokenizer.sep_token_id
    return Packed(ids, heads)


def unigram_loss(train: Packed, targets: np.ndarray, vocab_size: int) -> float:
    """Return the mean loss (nats) on `targets` [M] of a model that knows only how often each token occurs (add-one)."""
    counts = np.bincount(train.ids[:, 1:].ravel(), minlength=vocab_size) + 1.0
    return float(-np.log(counts[targets] / counts.sum()).mean())


def _from_file(path: Path, spec: TextSpec) -> Iterator[str]:
    if path.suffix.lower() == ".txt":
        yield from read_lines(path, "text.files")
        return
    table = read_table(path, "text.files").check()
    yield from _texts({name: table.column(name) for name in spec.columns}, table.source)


def _from_hub(spec: TextSpec) -> Iterator[str]:
    import datasets

    with reading_hub(f"text.hub: {spec.hub!r}", "give text.files of your own"):
        loaded = datasets.load_dataset(spec.hub, spec.config, split=spec.split)
    table = Table(
        f"{spec.hub} {spec.split}", {name: loaded[name] if name in spec.columns else [] for name in loaded.column_names}
    )
    yield from _texts({name: table.column(name) for name in spec.columns}, table.source)


def _texts(columns: dict[str, Sequence], source: str) -> Iterator[str]:
    for name, values in columns.items():
        for row, value in enumerate(values, start=1):
            if value is not None and not isinstance(value, str):
                raise UserError(
                    f"{source}: row {row}, column {name!r}: {type(value).__name__} is no text; name another column."
                )
            yield value or ""
