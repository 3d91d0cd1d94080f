"""The guided search: how many sets it tries, which first, and that trials correct the score that leads it."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from compressor.selection.guided import BATCH, guided_search, guided_sets
from compressor.selection.trials import Trial

DAMAGE = dict(zip(range(1, 13), 0.01 * 1.6 ** np.arange(12)[::-1], strict=True))
"""The KL that each of twelve layers costs, the last the least."""


def searched(order, size, damage=DAMAGE):
    """Return the sets in the order in which they were tried, with batches; a set costs what its layers cost together."""
    batches = []

    def evaluate(sets, description):
        assert description == f"guided search, {size} skipped"
        batches.append(list(sets))
        return [Trial(skip, 0.9, sum(damage[layer] for layer in skip), 0.9, 0.1, *[None] * 4) for skip in sets]

    guided_search(evaluate, order, [size])
    assert all(len(batch) <= BATCH for batch in batches)
    return [skip for batch in batches for skip in batch]


@pytest.mark.parametrize("size", range(12))
def test_a_tenth_of_the_sets_is_tried_each_once(size):
    tried = searched(range(12, 0, -1), size)
    assert len(tried) == len(set(tried)) == guided_sets(12, size)
    assert len(tried) <= max(3, comb(12, size) / 10)
    assert all(len(skip) == size and list(skip) == sorted(skip) for skip in tried)


def test_few_sets_are_all_tried():
    assert guided_sets(3, 1) == 3
    assert guided_sets(4, 4) == 1
    assert sorted(searched([3, 1, 2], 2)) == [(1, 2), (1, 3), (2, 3)]


def test_the_first_set_is_the_one_that_the_score_would_skip():
    assert searched([5, 7, 2, *(layer for layer in range(1, 13) if layer not in (2, 5, 7))], 3)[0] == (2, 5, 7)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 6])
def test_a_right_order_finds_the_best_set_at_once_and_a_wrong_layer_in_it_is_found_out(size):
    best = tuple(range(13 - size, 13))
    assert searched(range(12, 0, -1), size)[0] == best
    misled = [1, *range(12, 1, -1)]  # the layer that costs most comes first
    tried = searched(misled, size)
    assert 1 in tried[0]
    assert best in tried
    assert sum(1 in skip for skip in tried) < len(tried) / 2 or size == 2


def test_layers_that_are_not_in_the_order_are_never_tried():
    tried = searched([9, 4, 7, 1, 12], 2)
    assert set(tried) <= set(combinations([1, 4, 7, 9, 12], 2))


def test_equal_trials_teach_nothing():
    order = list(range(12, 0, -1))
    flat = searched(order, 3, dict.fromkeys(range(1, 13), 0.0))
    assert flat[0] == (10, 11, 12)
    assert len(flat) == 22
