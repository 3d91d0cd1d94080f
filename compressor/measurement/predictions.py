"""Predictions of a PyTorch model, their fingerprint, and the examples that changed."""

import hashlib

import numpy as np
import torch
from scipy.special import softmax
from transformers import PreTrainedModel

from compressor.data.batches import Encodings, padded_batches
from compressor.progress import Track, silent


def predict(
    model: PreTrainedModel,
    encodings: Encodings,
    *,
    batch_size: int = 32,
    track: Track = silent,
    description: str = "predict",
) -> np.ndarray:
    """Return the logits [N, C] float32 of all rows, in row order."""
    logits = np.zeros((len(encodings), model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for rows, inputs in padded_batches(encodings, batch_size, track, description):
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            logits[rows] = model(**tensors).logits.float().cpu().numpy()
    return logits


def fingerprint(logits: np.ndarray) -> str:
    """Return the sha256 of the predicted labels, in row order."""
    return hashlib.sha256(logits.argmax(1).astype("<i8").tobytes()).hexdigest()


def flipped_examples(
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    texts: list[tuple[str, ...]],
    ids: list[str],
    names: list[str],
    limit: int = 50,
) -> list[dict]:
    """Return the rows whose predicted label changed, the full model's most confident first, at most `limit`.

    Each has id, texts, gold, full and compressed {label, confidence}, and outcome: gained, lost, both wrong, unlabelled.
    """
    sides = {"full": softmax(full.astype(np.float64), axis=1), "compressed": softmax(other.astype(np.float64), axis=1)}
    changed = np.flatnonzero(full.argmax(1) != other.argmax(1))
    changed = changed[np.argsort(-sides["full"][changed].max(axis=1), kind="stable")][:limit]
    examples = []
    for row in changed:
        predicted = {side: int(p[row].argmax()) for side, p in sides.items()}
        gold = None if labels is None else int(labels[row])
        outcomes = {None: "unlabelled", predicted["compressed"]: "gained", predicted["full"]: "lost"}
        examples.append(
            {
                "id": ids[row],
                "texts": list(texts[row]),
                "gold": None if gold is None else names[gold],
                **{
                    side: {"label": names[predicted[side]], "confidence": float(p[row].max())}
                    for side, p in sides.items()
                },
                "outcome": outcomes.get(gold, "both wrong"),
            }
        )
    return examples
