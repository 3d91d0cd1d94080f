"""What a classifier answers for which label, and whether its classes are only in another order than the data's."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.special import gammaln
from scipy.stats import binom

SURE = 1e-6
"""Largest chance, over all orders of the classes, at which answers that are not swapped may be called so."""
WHOLE, MOST = 6, 5
"""Classes up to which a confusion matrix is shown whole, and the most frequent confusions of a larger one."""


def confusion(labels: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Return how often each class was answered for each label: int64 [C, C], a row a label."""
    matrix = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(matrix, (labels, answers), 1)
    return matrix


def swapped_order(matrix: np.ndarray) -> np.ndarray | None:
    """Return the class that each answer stands for, int64 [C], where that is surely not the class it names; else None.

    `matrix` is a confusion matrix [C, C]. The order is that with most right answers (linear sum assignment). It counts
    where it halves the errors at least, and exact one-sided binomial tests are sure, times the C! orders there are, that it
    is right more often than the given order (where one of the two is right) and than the larger class.
    """
    rows, answers = linear_sum_assignment(matrix, maximize=True)
    order = np.empty_like(rows)
    order[answers] = rows
    total, given, reordered = matrix.sum(), np.trace(matrix), matrix[rows, answers].sum()
    changed = rows != answers
    gained, lost = matrix[rows, answers][changed].sum(), np.diag(matrix)[changed].sum()
    if not total or 2 * (total - reordered) > total - given or gained <= lost:
        return None
    largest = matrix.sum(axis=1).max() / total
    chances = binom.logsf(gained - 1, gained + lost, 0.5), binom.logsf(reordered - 1, total, largest)
    return order if max(chances) + gammaln(len(matrix) + 1) < np.log(SURE) else None


def confusion_text(matrix: np.ndarray, names: Sequence[str]) -> str:
    """Return a confusion matrix in words: whole for a few classes, else what is confused most often."""
    if len(names) <= WHOLE:
        rows = ", ".join(f"{name!r} {row}" for name, row in zip(names, matrix.tolist(), strict=True))
        return f"confusion matrix, a row a label and a column an answer: {rows}"
    errors = matrix * (1 - np.eye(len(names), dtype=np.int64))
    label, answer = np.unravel_index(np.argsort(-errors, axis=None, kind="stable")[:MOST], errors.shape)
    cells = [f"{names[i]!r} answered as {names[j]!r} {errors[i, j]} times" for i, j in zip(label, answer, strict=True)
             if errors[i, j]]  # fmt: skip
    return f"of the confusion matrix the largest errors: {', '.join(cells) or 'none'}"
