"""ONNX Runtime sessions that run where they were asked to, and predictions through them."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from compressor.data.batches import Encodings, padded_batches, read
from compressor.errors import UserError, first_line
from compressor.measurement.machine.providers import open_session, what_stands_in_the_way
from compressor.progress import Track, silent


def session(
    path: Path,
    *,
    provider: str = "CPUExecutionProvider",
    threads: int | None = None,
    options: Mapping[str, str] | None = None,
) -> ort.InferenceSession:
    """Open an ONNX file on `provider` with `threads` (None: ONNX Runtime decides, usually one a physical core).

    `options` are the provider's own. A session never moves to another provider later: a failing run raises. Raises
    UserError when the file is missing or unreadable, or when ONNX Runtime would fall back to another provider at once.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    if not Path(path).is_file():
        raise UserError(f"{path}: no such ONNX file; `compressor export` writes one.")
    try:
        opened = open_session(str(path), provider, threads, options)
    except (
        *(errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail),
        UnicodeDecodeError,  # of a message that quotes the file
    ) as error:
        raise UserError(f"{path}: not a usable ONNX file ({first_line(error)[:200]}); export it again.") from error
    if opened.get_providers()[0] != provider:
        found = what_stands_in_the_way(provider)
        raise UserError(
            f"{path}: asked for {provider}, but ONNX Runtime would run on {opened.get_providers()[0]} "
            f"({found.problem}); {found.remedy}, or use the CPU."
        )
    opened.disable_fallback()
    return opened


def feeds(names: list[str], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs [B, S] that a graph has; token types that the batch lacks are 0, as in PyTorch."""
    missing = {name: np.zeros_like(batch["input_ids"]) for name in names if name not in batch and "token_type" in name}
    return {name: missing[name] if name in missing else batch[name] for name in names}


def predict_onnx(
    session: ort.InferenceSession, encodings: Encodings, batch_size: int = 32, track: Track = silent
) -> np.ndarray:
    """Return the logits of every answer, float32 [N, C], in the order of the rows; batches are padded to their longest."""
    names = [node.name for node in session.get_inputs()]
    output = session.get_outputs()[0]
    parts, rows = [], []
    for indices, batch in padded_batches(encodings, batch_size, track, "ONNX predictions"):
        found = session.run([output.name], feeds(names, batch))[0]
        parts.append(read(found, encodings.read_at(indices)))
        rows.append(encodings.answers_of(indices))
    if not parts:
        return np.zeros((0, int(output.shape[-1])), dtype=np.float32)
    logits = np.empty((encodings.answers, parts[0].shape[1]), dtype=np.float32)
    logits[np.concatenate(rows)] = np.concatenate(parts)
    return logits
