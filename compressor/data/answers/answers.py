"""What an answer is for each kind of task, and when two differ: functions of a task and outputs [N, C] or answers."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.special import expit

from compressor.data.answers.tokens import Tags, differing_texts
from compressor.data.answers.within import best_two, need_within


class Task(Protocol):
    """What of a task (`kinds.Task`) decides an answer."""

    tolerance: float
    thresholds: tuple[float, ...]
    sigmoid: bool
    within: np.ndarray | None

    @property
    def tags(self) -> Tags:
        """What the labels of words mean."""


def label_answers(_task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return the class with the largest output, int64 [N]."""
    if outputs.shape[1] < 2:
        raise ValueError(f"one of several labels needs two outputs or more, not {outputs.shape[1]}")
    return outputs.argmax(1)


def score_answers(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return the one output, or its logistic function, float64 [N]."""
    scores = outputs[:, 0].astype(np.float64)
    return expit(scores) if task.sigmoid else scores


def many_answers(task: Task, outputs: np.ndarray) -> np.ndarray:
    """Return which labels are probable enough, int64 [N, C] of 0 and 1."""
    return (expit(outputs.astype(np.float64)) >= np.array(task.thresholds)).astype(np.int64)


def other_label(_task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return bool [N]: the classes differ."""
    return one != other


def moved(task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return bool [N]: the scores are further apart than the tolerance."""
    return ~(np.abs(one - other) <= task.tolerance)  # NaN is another answer


def other_set(_task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return bool [N]: any label differs."""
    return (one != other).any(axis=1)


def other_words(task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return bool [N texts]: any entity (or any word's label) differs."""
    return differing_texts(task.tags, one, other, need_within(task.within))


def other_top(task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return bool [Q]: another row of the query is on top."""
    within = need_within(task.within)
    tops = [best_two(scores, within)[0] for scores in (one, other)]
    broken = np.isin(np.arange(within.max() + 1), within[np.isnan(other) | np.isnan(one)])  # NaN is another answer
    return (tops[0] != tops[1]) | broken


def top_is_best(task: Task, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return bool [Q]: no row of the query is more relevant than the one on top."""
    within = need_within(task.within)
    return labels[best_two(scores, within)[0]] == labels[best_two(labels, within)[0]]
