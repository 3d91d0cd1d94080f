"""Scores of [CLS] states: worked by hand, merged batch by batch, and where nothing can be separated."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.errors import UserError
from compressor.model.states.geometry import Geometry
from compressor.model.states.sums import ClassStates, Moments
from compressor.selection.separability import (
    POOLED,
    SCORES,
    h_score,
    linear_probe,
    score_layers,
    shrunk_fisher,
    trace_ratio,
    trace_ratio_gradient,
)


def moments_of(states, labels, parts=1):
    moments = Moments.empty(states.shape[0], int(labels.max()) + 1, states.shape[2])
    for rows in np.array_split(np.arange(len(labels)), parts):
        if len(rows):
            moments.add(states[:, rows], labels[rows])
    return moments


def class_states(states, labels):
    geometry = Geometry(len(states))
    read = [torch.from_numpy(state) for state in states]
    geometry.add([state[:, None] for state in read], read, torch.ones(len(labels), 1))
    moments = moments_of(states, labels)  # every text is one token, so that its mean over tokens is its [CLS] state
    return ClassStates(moments, moments, states, labels, np.zeros((len(labels), 2)), geometry)


def test_trace_ratio_by_hand():
    # classes {0, 2} and {10, 12}: means 1 and 11, overall 6, between 25, within 1
    moments = moments_of(np.array([[[0.0], [2.0], [10.0], [12.0]]]), np.array([0, 0, 1, 1]))
    assert trace_ratio(moments.count, moments.mean[0], moments.squares[0]) == 25.0


def test_trace_ratio_weighs_classes_by_their_share():
    # classes {0, 0, 0} and {4}: overall mean 1, between 3/4 * 1 + 1/4 * 9 = 3, within 0 + nothing
    moments = moments_of(np.array([[[0.0], [0.0], [0.0], [4.0]]]), np.array([0, 0, 0, 1]))
    assert trace_ratio(moments.count, moments.mean[0], moments.squares[0]) == float("inf")
    moments = moments_of(np.array([[[-1.0], [0.0], [1.0], [4.0]]]), np.array([0, 0, 0, 1]))
    assert trace_ratio(moments.count, moments.mean[0], moments.squares[0]) == pytest.approx(3 / (2 / 4))


def test_gradient_of_the_trace_ratio_by_hand():
    # classes {0, 2} and {10, 12}: J = 25, overall 6, within 1; the first row: 2/4 (1 - 6 - 25 (0 - 1))
    states, labels = np.array([[[0.0], [2.0], [10.0], [12.0]]]), np.array([0, 0, 1, 1])
    moments = moments_of(states, labels)
    found = trace_ratio_gradient(states[0, :1], labels[:1], moments.count, moments.mean[0], moments.squares[0])
    np.testing.assert_allclose(found, [[10.0]])
    nothing = moments_of(np.ones((1, 4, 1)), labels)
    assert not trace_ratio_gradient(states[0], labels, nothing.count, nothing.mean[0], nothing.squares[0]).any()


def test_gradient_of_the_trace_ratio_is_that_of_differences():
    generator = np.random.default_rng(0)
    states, labels = generator.normal(size=(1, 9, 3)), np.arange(9) % 3 % 2  # classes of six and three rows
    moments = moments_of(states, labels)
    found = trace_ratio_gradient(states[0], labels, moments.count, moments.mean[0], moments.squares[0])
    for row, column in ((0, 0), (1, 2), (8, 1)):
        values = []
        for step in (1e-5, -1e-5):
            moved = states.copy()
            moved[0, row, column] += step
            there = moments_of(moved, labels)
            values.append(trace_ratio(there.count, there.mean[0], there.squares[0]))
        assert found[row, column] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.integers(2, 40), st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**31))
def test_merged_moments_equal_one_batch(rows, parts, classes, seed):
    generator = np.random.default_rng(seed)
    states = generator.normal(100, 3, size=(2, rows, 5)).astype(np.float32)
    labels = generator.integers(classes, size=rows)
    labels[-1] = classes - 1
    merged, whole = moments_of(states, labels, parts), moments_of(states, labels)
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(merged.squares, whole.squares, rtol=1e-9, atol=1e-9)
    for label in np.unique(labels):
        group = states[0, labels == label].astype(np.float64)
        np.testing.assert_allclose(whole.squares[0, label], group.var(0).sum() * len(group), rtol=1e-9, atol=1e-9)


def test_one_point_for_all_rows_is_degenerate_and_scores_zero():
    states = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    states[0] = 0.3
    scores = score_layers(class_states(states, np.arange(30) % 2), "trace_ratio", "gold")
    first = scores.layers[0]
    assert (first.degenerate, first.separability, first.gain, first.shrunk_fisher) == (True, 0.0, None, 0.0)
    assert first.linear_probe == 0.5  # chance
    assert not scores.layers[1].degenerate


def test_the_pooled_score_reads_all_tokens_where_the_cls_state_is_one_point():
    states = np.random.default_rng(0).normal(size=(2, 30, 4)).astype(np.float32)
    at_cls, labels = states.copy(), np.arange(30) % 2
    at_cls[0] = 0.3
    known, pooled = class_states(at_cls, labels), moments_of(states, labels)
    first = score_layers(replace(known, pooled=pooled), POOLED, "gold").layers[0]
    assert first.degenerate
    assert first.trace_ratio == 0
    wanted = trace_ratio(pooled.count, pooled.mean[0], pooled.squares[0])
    assert first.separability == first.pooled_trace_ratio == wanted > 0


@pytest.mark.parametrize("score", list(SCORES))
def test_every_score_rises_with_separation_and_gains_are_differences(score):
    generator = np.random.default_rng(1)
    labels = np.arange(200) % 2
    noise = generator.normal(size=(3, 200, 6))
    states = (noise + np.array([0, 0.5, 3])[:, None, None] * labels[None, :, None]).astype(np.float32)
    layers = score_layers(class_states(states, labels), score, "gold").layers
    values = [entry.separability for entry in layers]
    assert values == sorted(values)
    assert layers[2].gain == values[2] - values[1]


def test_shrunk_fisher_ignores_scale_and_survives_fewer_rows_than_dimensions():
    generator = np.random.default_rng(2)
    labels = np.arange(20) % 2
    states = generator.normal(size=(20, 50)) + labels[:, None]
    value = shrunk_fisher(states, labels)
    assert np.isfinite(value)
    assert shrunk_fisher(1000 * states, labels) == pytest.approx(value, rel=1e-6)


def test_h_score_is_the_share_of_scatter_between_the_classes():
    # one dimension: S_b / S_t = 25 / 26 where nothing is shrunk (a single dimension leaves Ledoit-Wolf nothing to shrink)
    states, labels = np.array([[0.0], [2.0], [10.0], [12.0]]), np.array([0, 0, 1, 1])
    assert h_score(states, labels) == pytest.approx(25 / 26)
    assert h_score(100 * states + 3, labels) == pytest.approx(25 / 26)


def test_linear_probe_leaves_out_classes_of_one_row():
    states = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    assert linear_probe(states, np.array([0, 0, 1, 1, 2])) == 1.0


def test_one_class_is_refused():
    states = np.zeros((2, 5, 3), dtype=np.float32)
    with pytest.raises(UserError, match="have 5 rows"):
        score_layers(class_states(states, np.zeros(5, dtype=np.int64)), "trace_ratio", "teacher")
