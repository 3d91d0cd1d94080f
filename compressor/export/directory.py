"""`compressor export`: ONNX variants of any supported directory, checked against PyTorch."""

import errno
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from compressor.data.answers.kinds import TOKENS
from compressor.data.batches import encode, encode_words
from compressor.data.demo import generate
from compressor.data.splits import Split
from compressor.data.words.fit import fit_words
from compressor.errors import UserError
from compressor.export.onnx import STOCK, export_variants
from compressor.export.parity import Parity, check_parity, parity
from compressor.export.tail import choose_form
from compressor.measurement.machine.environment import granted_threads
from compressor.measurement.machine.providers import require_provider
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer, longest_input
from compressor.progress import Track, silent

PARITY_ROWS = 96


@granted_threads()
def export_directory(
    model_dir: Path,
    out: Path,
    variants: Sequence[str],
    *,
    tail: bool = True,
    opset: int | None = None,
    provider: str = "CPUExecutionProvider",
    track: Track = silent,
) -> dict[str, dict[str, Any]]:
    """Write the variants of a model below `out`; return per variant: path, bytes, fused nodes, form of the tail, parity.

    With `tail` the variants that may have a CLS-only tail get the form that is faster on `provider`. Parity is measured on
    generated English sentences of many lengths, since there is no evaluation set here. Raises UserError for a directory
    that is no usable model or a provider that does not work, RuntimeError for a file that does not answer like the model.
    """
    require_provider(provider, str(model_dir))
    source = find_model(str(model_dir), field="MODEL_DIR")
    model, tokenizer = load_classifier(source), load_tokenizer(source)
    task, texts, longest = source.task, parity_texts(), min(128, longest_input(source.config))
    if task.kind == TOKENS:
        rows = Split(
            [tuple(text.split()) for (text,) in texts],
            None,
            [f"generated:{row}" for row in range(len(texts))],
            by_word=True,
        )
        rows = fit_words(rows, tokenizer, longest)[0]
        task, encodings = task.bound(rows), encode_words(rows.texts, tokenizer, longest)
    else:
        encodings = encode(texts, tokenizer, longest)
    reference = predict(model, encodings)
    form = None
    if tail and set(variants) - set(STOCK):
        form = choose_form(model, family_of(source.config["model_type"]), provider, track=track).form
    found: dict[str, Parity] = {}

    def check(name: str, file: Path) -> None:
        found[name] = parity(reference, predict_onnx(session(file, provider=provider), encodings), task)
        check_parity(name, found[name])

    try:
        files = export_variants(model_dir, out, variants, form=form, opset=opset, check=check, track=track)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise UserError(f"--out {out}: the folder cannot be written ({error.strerror}); name another one.") from error
    return {
        name: {
            "path": str(file.path),
            "bytes": file.bytes,
            "fused": file.fused,
            "tail": None if name in STOCK else form,
            "parity": asdict(found[name]),
        }
        for name, file in files.items()
    }


def parity_texts() -> list[tuple[str]]:
    """Return generated texts of one to eight sentences."""
    sentences = [text for text, _ in generate(PARITY_ROWS, Random(0), set())]
    return [(" ".join(sentences[start : start + 1 + start % 8]),) for start in range(PARITY_ROWS)]
