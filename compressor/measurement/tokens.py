"""Figures of labels of words: entity F1 or token accuracy, and the paired difference of two models with its uncertainty."""

from collections.abc import Collection

import numpy as np
from scipy.stats import norm

from compressor.data.answers.kinds import Task
from compressor.data.answers.tokens import Tags, counts, first_words, ratio

DRAWS, COUNTS_AT_ONCE = 1000, 2_000_000
"""Bootstrap draws, and the texts that are drawn at a time."""


def token_metrics(
    task: Task, answers: np.ndarray, labels: np.ndarray
) -> tuple[float, tuple[float, float], dict[str, float]]:
    """Return the task's own metric of answers [W] against labels [W], its 95 % interval, and other figures.

    The metric is micro F1 of entities (as seqeval has it) where labels are tags of them, else the share of words that are
    right. The interval is the normal one of a bootstrap over the texts, since words
    of one text are right and wrong together; with the two texts more of `token_delta`.
    """
    parts, within = counts(task.tags, answers, labels, task.within), task.within
    value, error = float(ratio(parts.sum(0))), float(np.hypot(_drawn(parts).std(ddof=1), 1 / len(parts)))
    reach = norm.ppf(0.975) * error
    more = {"token_accuracy": float((answers == labels).mean())}
    if task.tags.are_entities:
        shared = task.tags.shared(answers, labels, within).sum()
        for name, tags in (("precision", answers), ("recall", labels)):
            found = (task.tags.spans(tags, within)[0] > 0).sum()
            more[name] = float(shared / found) if found else 0.0
    return value, (max(0.0, value - reach), min(1.0, value + reach)), more


def token_delta(
    task: Task, full: np.ndarray, other: np.ndarray, labels: np.ndarray, seed: int = 0
) -> tuple[float, float]:
    """Return how much higher the metric of answers `other` [W] is than that of `full` [W], and its error.

    The error is the standard deviation of the paired bootstrap over texts (Efron and Tibshirani 1993, chapter 6): the same
    texts are drawn for both, and their counts added up. To its square comes that of two texts more, one gained and one lost,
    with half a weight each (as Agresti and Min 2005 do for counts): of a few changed texts the draws alone make too little.
    """
    both = np.concatenate([counts(task.tags, part, labels, task.within) for part in (full, other)], axis=1)
    of_full, of_other = ratio(both.sum(0).reshape(2, 2))
    drawn = _drawn(both, seed)
    return float(of_other - of_full), float(np.hypot((drawn[:, 1] - drawn[:, 0]).std(ddof=1), 1 / len(both)))


def token_examples(
    task: Task,
    full: np.ndarray,
    other: np.ndarray,
    labels: np.ndarray | None,
    texts: list[tuple[str, ...]],
    ids: list[str],
    limit: int,
) -> list[dict]:
    """Return the texts whose answer changed, those whose outputs [W, C] moved most first, at most `limit`.

    Each has id, texts (its words in one line), gold, full and compressed {label, confidence None}, and outcome. Labels are
    those entities that differ, and what else is at their words (`written_words`); a text is gained where all of it is right now.
    """
    firsts = first_words(task.within)
    moved = np.maximum.reduceat(np.abs(full - other).max(axis=1), firsts)
    changed = np.flatnonzero(task.changed(full, other))
    cut = {
        name: np.split(part, firsts[1:])
        for name, part in (("full", task.answers(full)), ("compressed", task.answers(other)))
    }
    gold, outcomes = None, np.full(len(firsts), "unlabelled", dtype=object)
    if labels is not None:
        gold, right = np.split(labels, firsts[1:]), [task.right(part, labels) for part in (full, other)]
        outcomes[:] = np.select([right[1] & ~right[0], right[0] & ~right[1]], ["gained", "lost"], "both wrong")
    examples = []
    for text in changed[np.argsort(-moved[changed], kind="stable")][:limit]:
        shown = _differing_words(task.tags, cut["full"][text], cut["compressed"][text])
        examples.append(
            {
                "id": ids[text],
                "texts": [" ".join(texts[text])],
                "gold": None if gold is None else written_words(task.tags, texts[text], gold[text], shown),
                **{
                    side: {"label": written_words(task.tags, texts[text], found[text], shown), "confidence": None}
                    for side, found in cut.items()
                },
                "outcome": str(outcomes[text]),
            }
        )
    return examples


def written_words(tags: Tags, words: tuple[str, ...], answer: np.ndarray, shown: Collection[int]) -> str:
    """Return the entities at the words `shown` (places) of a text; where labels are no tags of entities, the labels of these."""
    if not tags.are_entities:
        return ", ".join(f"{words[word]}: {tags.names[answer[word]]}" for word in sorted(shown))
    found = [entity for entity in tags.entities(answer) if not {*shown}.isdisjoint(range(entity[1], entity[2] + 1))]
    return ", ".join(f"{kind}: {' '.join(words[first : last + 1])}" for kind, first, last in found) or "no entity"


def _differing_words(tags: Tags, one: np.ndarray, other: np.ndarray) -> set[int]:
    """Return the words of a text that entities of one answer alone cover; of other labels those that differ."""
    if not tags.are_entities:
        return {*np.flatnonzero(one != other).tolist()}
    alone = {*tags.entities(one)} ^ {*tags.entities(other)}
    return {word for _, first, last in alone for word in range(first, last + 1)}


def _drawn(parts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the ratios [DRAWS, M] of the sums of counts [N, 2 M] over texts drawn with replacement."""
    generator, texts, found = np.random.default_rng(seed), len(parts), []
    for start in range(0, DRAWS, step := max(1, COUNTS_AT_ONCE // texts)):
        times = generator.multinomial(texts, np.full(texts, 1 / texts), size=min(step, DRAWS - start))
        sums = times @ parts
        found.append(ratio(sums.reshape(len(sums), -1, 2)))
    return np.concatenate(found)
