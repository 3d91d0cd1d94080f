"""ONNX Runtime sessions that run where they were asked to, and predictions through them."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from compressor.data.batches import Encodings, padded_batches
from compressor.errors import UserError
from compressor.measurement.environment import doctor, open_session
from compressor.progress import Track, silent


def session(path: Path, *, provider: str = "CPUExecutionProvider", threads: int | None = None) -> ort.InferenceSession:
    """Open an ONNX file on `provider` with `threads` (None: ONNX Runtime decides, usually one a physical core).

    Raises UserError when the file is missing or unreadable, or when ONNX Runtime would fall back to another provider.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    if not Path(path).is_file():
        raise UserError(f"{path}: no such ONNX file; `compressor export` writes one.")
    try:
        opened = open_session(str(path), provider, threads)
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.InvalidArgument, errors.Fail) as error:
        raise UserError(f"{path}: not a usable ONNX file ({_first_line(error)}); export it again.") from error
    if opened.get_providers()[0] != provider:
        diagnosis = doctor()
        remedy = diagnosis.remedies[0] if diagnosis.remedies else "use --device cpu"
        raise UserError(
            f"{path}: asked for {provider}, but ONNX Runtime would run on {opened.get_providers()[0]} "
            f"({diagnosis.summary}); {remedy}."
        )
    return opened


def feeds(names: list[str], batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the inputs [B, S] that a graph has; token types that the batch lacks are 0, as in PyTorch."""
    missing = {name: np.zeros_like(batch["input_ids"]) for name in names if name not in batch and "token_type" in name}
    return {name: missing[name] if name in missing else batch[name] for name in names}


def predict_onnx(
    session: ort.InferenceSession, encodings: Encodings, batch_size: int = 32, track: Track = silent
) -> np.ndarray:
    """Return the logits of every row, float32 [N, C], in the order of the rows; batches are padded to their longest."""
    names = [node.name for node in session.get_inputs()]
    output = session.get_outputs()[0]
    batches = padded_batches(encodings, batch_size)
    parts, rows = [], []
    for indices, batch in track(batches, "ONNX predictions", -(-len(encodings) // batch_size)):
        parts.append(session.run([output.name], feeds(names, batch))[0])
        rows.append(indices)
    if not parts:
        return np.zeros((0, int(output.shape[-1])), dtype=np.float32)
    logits = np.empty((len(encodings), parts[0].shape[1]), dtype=np.float32)
    logits[np.concatenate(rows)] = np.concatenate(parts)
    return logits


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200]
