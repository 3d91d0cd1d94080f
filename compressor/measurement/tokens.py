"""Figures of labels of words: entity F1 or token accuracy, and the paired difference of two models with its uncertainty."""

import numpy as np
from scipy.stats import norm

from compressor.data.answers.kinds import Task
from compressor.data.answers.tokens import counts, first_words, ratio

DRAWS, COUNTS_AT_ONCE = 1000, 2_000_000
"""Bootstrap draws, and the texts that are drawn at a time."""


def token_metrics(
    task: Task, answers: np.ndarray, labels: np.ndarray
) -> tuple[float, tuple[float, float], dict[str, float]]:
    """Return the task's own metric of answers [W] against labels [W], its 95 % interval, and other figures.

    The metric is micro F1 of entities (as seqeval has it) where labels are tags of them, else the share of words that are
    right; texts are whole where all of theirs are. The interval is the normal one of a bootstrap over the texts, since words
    of one text are right and wrong together.
    """
    parts, within = counts(task.tags, answers, labels, task.within), task.within
    value, error = float(ratio(parts.sum(0))), float(_drawn(parts).std(ddof=1))
    reach = norm.ppf(0.975) * error
    right = answers == labels
    more = {
        "token_accuracy": float(right.mean()),
        "whole_texts": float(np.logical_and.reduceat(right, first_words(within)).mean()),
    }
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
    texts are drawn for both, and their counts added up. 0 where every text has the same counts.
    """
    both = np.concatenate([counts(task.tags, part, labels, task.within) for part in (full, other)], axis=1)
    drawn = _drawn(both, seed)
    of_full, of_other = (ratio(sums) for sums in (both[:, :2].sum(0), both[:, 2:].sum(0)))
    return float(of_other - of_full), 0.0 if np.array_equal(both[:, :2], both[:, 2:]) else float(
        (drawn[:, 1] - drawn[:, 0]).std(ddof=1)
    )


def _drawn(parts: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return the ratios [DRAWS, M] of the sums of counts [N, 2 M] over texts drawn with replacement."""
    generator, texts, found = np.random.default_rng(seed), len(parts), []
    for start in range(0, DRAWS, step := max(1, COUNTS_AT_ONCE // texts)):
        times = generator.multinomial(texts, np.full(texts, 1 / texts), size=min(step, DRAWS - start))
        sums = times @ parts
        found.append(ratio(sums.reshape(len(sums), -1, 2)))
    return np.concatenate(found)
