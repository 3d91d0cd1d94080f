"""What a model and its files answer to ten generated texts, which a manifest keeps so that they can be asked again.

The texts are generated, never the run's own: a manifest travels with the model, and texts of a run may be nobody else's.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compressor.data.answers.kinds import TOKENS
from compressor.data.answers.tokens import first_tokens, texts_of
from compressor.data.batches import encode, encode_words
from compressor.export.directory import parity_texts
from compressor.export.onnx import quiet
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_classifier, load_tokenizer, longest_input
from compressor.runtime.engine import Engine
from compressor.runtime.folder import settings_in

ROWS = 10
DIGITS = 6
"""Decimals of a logit in a manifest: finer than float32 rounds."""
CPU = ("CPUExecutionProvider",)


def probe_texts(columns: int) -> list[tuple[str, ...]]:
    """Return `ROWS` generated rows of one text of one to eight sentences, or of two (`columns`)."""
    texts = [text for (text,) in parity_texts()]
    return [tuple(texts[row : row + columns]) for row in range(ROWS)]


def torch_logits(directory: Path, texts: Sequence[tuple[str, ...]], max_length: int) -> np.ndarray:
    """Return the logits [N, C] of a Hugging Face directory in PyTorch, float32, on the CPU; errors of `load_classifier`.

    Of a model that labels words, N are those of the texts, cut at white space.
    """
    source = find_model(str(directory), field="MODEL_DIR")
    length = min(max_length, longest_input(source.config))
    tokenizer = load_tokenizer(source)
    if source.task.kind == TOKENS:
        return predict(
            load_classifier(source), encode_words([tuple(text.split()) for text, *_ in texts], tokenizer, length)
        )
    return predict(load_classifier(source), encode(list(texts), tokenizer, length))


def file_logits(folder: Path, texts: Sequence[tuple[str, ...]]) -> list[np.ndarray]:
    """Return the logits [N, C] of every part of an ONNX folder (one, of an early exit several), on the CPU.

    Raises UserError for a folder that is not whole or a file that this machine cannot run.
    """
    with quiet():
        engine = Engine(folder, settings_in(folder), providers=CPU, threads=None)
        if engine.by_word:
            encoded = engine.tokenize([text.split() for text, *_ in texts])
            firsts = [list(first_tokens(row.word_ids).values()) for row in encoded]
            at = texts_of([len(places) for places in firsts]), np.concatenate(firsts)
            return [part[at] for part in engine.every_logit(engine.padded(encoded))]
        rows = [row if len(row) > 1 else row[0] for row in texts]
        return engine.every_logit(engine.padded(engine.tokenize(rows)))


def kept(logits: np.ndarray) -> list[list[float]]:
    """Return logits [N, C] as a manifest holds them; null stands for what is not finite, since JSON has no word for it."""
    return [[round(float(value), DIGITS) if np.isfinite(value) else None for value in row] for row in logits]


def read(logits: Sequence[Sequence[float | None]]) -> np.ndarray:
    """Return logits float32 [N, C] from a manifest; raises ValueError or TypeError for what are none."""
    rows = [[np.nan if value is None else float(value) for value in row] for row in logits]
    return np.array(rows, dtype=np.float32)
