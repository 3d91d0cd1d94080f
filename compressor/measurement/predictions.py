"""Predictions of a PyTorch model, their fingerprint, and the examples that changed."""

import hashlib

import numpy as np
import torch
from scipy.special import softmax
from transformers import PreTrainedModel

from compressor.data.answers.kinds import RANKING, SINGLE, SINGLE_LABEL, TOKENS, Task
from compressor.data.answers.within import best_two, need_within
from compressor.data.batches import Encodings, padded_batches, read
from compressor.measurement.tokens import token_examples
from compressor.progress import Track, silent


def predict(
    model: PreTrainedModel,
    encodings: Encodings,
    *,
    batch_size: int = 32,
    track: Track = silent,
    description: str = "predict",
) -> np.ndarray:
    """Return the logits [N, C] float32 of all answers (rows, or words: `Encodings`), in row order."""
    logits = np.zeros((encodings.answers, model.config.num_labels), dtype=np.float32)
    with torch.inference_mode():
        for rows, inputs in padded_batches(encodings, batch_size, track, description):
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            found = read(model(**tensors).logits, encodings.read_at(rows))
            logits[encodings.answers_of(rows)] = found.float().cpu().numpy()
    return logits


def fingerprint(logits: np.ndarray, task: Task = SINGLE) -> str:
    """Return the sha256 of the answers, in row order."""
    return hashlib.sha256(task.packed(task.answers(logits))).hexdigest()


def flipped_examples(
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    texts: list[tuple[str, ...]],
    ids: list[str],
    names: list[str],
    limit: int = 50,
    task: Task = SINGLE,
) -> list[dict]:
    """Return the rows whose answer changed, the full model's most confident first, at most `limit`.

    Each has id, texts, gold, full and compressed {label, confidence}, and outcome: gained, lost, both wrong, unlabelled.
    Scores and sets of labels are written out under `label`, without a confidence, those whose outputs moved most first; a
    score is gained where it is nearer to its label. Of rankings an entry is a query, whose answer is the document on top; of
    tokens a text (`token_examples`).
    """
    if task.kind == RANKING:
        return _other_tops(full, other, labels, texts, ids, limit, task)
    if task.kind == TOKENS:
        return token_examples(task, full, other, labels, texts, ids, limit)
    if task.kind != SINGLE_LABEL:
        return _other_answers(full, other, labels, texts, ids, names, limit, task)
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


def _other_answers(
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    texts: list[tuple[str, ...]],
    ids: list[str],
    names: list[str],
    limit: int,
    task: Task,
) -> list[dict]:
    answers = {"full": task.answers(full), "compressed": task.answers(other)}
    changed = np.flatnonzero(task.changed(full, other))
    moved = np.abs(full - other)[changed].max(axis=1, initial=0)
    outcomes = np.full(len(full), "unlabelled", dtype=object)
    if labels is not None:
        near = [_nearness(task, part, labels) for part in (full, other)]
        outcomes[:] = np.select([near[1] > near[0], near[1] < near[0]], ["gained", "lost"], "both wrong")
    return [
        {
            "id": ids[row],
            "texts": list(texts[row]),
            "gold": None if labels is None else written(labels[row], names),
            **{side: {"label": written(found[row], names), "confidence": None} for side, found in answers.items()},
            "outcome": str(outcomes[row]),
        }
        for row in changed[np.argsort(-moved, kind="stable")][:limit]
    ]


def _other_tops(
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    texts: list[tuple[str, ...]],
    ids: list[str],
    limit: int,
    task: Task,
) -> list[dict]:
    within = need_within(task.within)
    tops = {side: best_two(task.answers(part), within)[0] for side, part in (("full", full), ("compressed", other))}
    changed = np.flatnonzero(task.changed(full, other))
    moved = np.array([np.abs(full - other)[within == query].max() for query in changed])
    outcomes = np.full(len(tops["full"]), "unlabelled", dtype=object)
    if labels is not None:
        best = best_two(labels, within)[0]
        reached = [labels[tops[side]] for side in ("full", "compressed")]
        outcomes[:] = np.select(
            [reached[1] > reached[0], reached[1] < reached[0]], ["gained", "lost"], "equally relevant"
        )
    return [
        {
            "id": ids[tops["full"][query]],
            "texts": list(texts[tops["full"][query]][:-1]),
            "gold": None if labels is None else texts[best[query]][-1],
            **{side: {"label": texts[rows[query]][-1], "confidence": None} for side, rows in tops.items()},
            "outcome": str(outcomes[query]),
        }
        for query in changed[np.argsort(-moved, kind="stable")][:limit]
    ]


def _nearness(task: Task, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return how good each answer is [N]: right or wrong, of scores minus the distance from the label."""
    return task.right(outputs, labels) if task.row.countable else -np.abs(task.answers(outputs) - labels)


def written(answer: np.ndarray, names: list[str]) -> str:
    """Return a score, or a set of labels, in words."""
    if np.ndim(answer) == 0:
        return f"{float(answer):.4g}"
    return ", ".join(name for name, given in zip(names, answer, strict=True) if given) or "no label"
