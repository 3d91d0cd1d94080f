"""Rows that are counted within something: the documents of a query. Functions of a value for each row."""

import numpy as np


def need_within(within: np.ndarray | None) -> np.ndarray:
    """Return what each row is counted within; raises ValueError where a task was not told (`Task.bound`)."""
    if within is None:
        raise ValueError("this kind of task is counted within queries or texts: bind it to its rows first")
    return within


def best_two(values: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows with the largest and the second largest value of each query: int64 [Q] each.

    `values` is float [N], `within` int64 [N] from 0 to Q - 1, each of them two times or more. Of equal values the first row
    counts; NaN is the smallest.
    """
    order, starts = ranked(values, within)
    return order[starts], order[starts + 1]


def ranked(values: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one query after the other, each query's largest value first, and where each begins: [N], [Q]."""
    order = np.lexsort((-values, within))
    return order, np.searchsorted(within[order], np.arange(within.max() + 1))


def centred(values: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return values [N] less the mean of their query."""
    return values - (np.bincount(within, values) / np.bincount(within))[within]
