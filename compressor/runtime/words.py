"""The answer to a text of words: a label for each, and the entities that the labels name."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from compressor.data.answers.tokens import OUTSIDE, Tags


def word_answer(
    words: Sequence[str], logits: np.ndarray, firsts: Mapping[int, int], names: Sequence[str]
) -> dict[str, Any]:
    """Return `words`, `labels` and `scores` (the probability of each label), and `entities` where labels are tags of them.

    logits [S, C]; `firsts` is word -> its first token, at which it is read. Words behind the longest input, and those that
    become no token, have None for label and score, and belong to no entity. An entity is {"label", "start", "end", "words"}:
    its type, and its words `words[start:end]`.
    """
    read = sorted(firsts)
    at = logits[[firsts[word] for word in read]].astype(np.float64).reshape(len(read), logits.shape[-1])
    shares = np.exp(at - at.max(1, keepdims=True)) if len(at) else at
    best = at.argmax(1)
    labels: list[str | None] = [None] * len(words)
    scores: list[float | None] = [None] * len(words)
    for word, label, share in zip(read, best, shares, strict=True):
        labels[word], scores[word] = names[label], float(share[label] / share.sum())
    answer: dict[str, Any] = {"words": list(words), "labels": labels, "scores": scores}
    tags = Tags((*names, *([] if OUTSIDE in names else [OUTSIDE])))
    if tags.are_entities:
        ids = np.full(len(words), tags.names.index(OUTSIDE))
        ids[read] = best
        answer["entities"] = [
            {"label": kind, "start": start, "end": last + 1, "words": list(words[start : last + 1])}
            for kind, start, last in (tags.entities(ids) if len(words) else [])
        ]
    return answer
