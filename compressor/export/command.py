"""`compressor export`: ONNX variants of any supported directory, checked against PyTorch."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from compressor.data.batches import encode
from compressor.data.demo import generate
from compressor.export.onnx import export_variants
from compressor.export.parity import check_parity, parity
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.progress import Track, silent

PARITY_ROWS = 96


def export_directory(
    model_dir: Path, out: Path, variants: Sequence[str], *, track: Track = silent
) -> dict[str, dict[str, Any]]:
    """Write the variants of a model below `out`; return per variant: path, bytes, fused nodes, parity.

    Parity is measured on generated English sentences of many lengths, since there is no evaluation set here. Raises
    UserError for a directory that is no usable model, RuntimeError for a file that does not answer like the model.
    """
    source = find_model(str(model_dir))
    model, tokenizer = load_classifier(source), load_tokenizer(source)
    longest = min(128, source.config.get("max_position_embeddings", 512) - 2)
    encodings = encode(parity_texts(), tokenizer, longest)
    reference = predict(model, encodings)
    written = {}
    for name, file in export_variants(model_dir, out, variants, track=track).items():
        found = parity(reference, predict_onnx(session(file.path), encodings))
        check_parity(name, found)
        written[name] = {"path": str(file.path), "bytes": file.bytes, "fused": file.fused, "parity": asdict(found)}
    return written


def parity_texts() -> list[tuple[str]]:
    """Return generated texts of one to eight sentences."""
    sentences = [text for text, _ in generate(PARITY_ROWS, Random(0), set())]
    return [(" ".join(sentences[start : start + 1 + start % 8]),) for start in range(PARITY_ROWS)]
