"""What outputs mean, by hand: answers, changes, divergences and their curvature, losses, groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compressor.data.answers.config import need_single_label, task_of
from compressor.data.answers.kinds import KINDS, MANY_LABELS, RANKING, SCORE, SINGLE, Task
from compressor.data.splits import Split
from compressor.errors import UserError
from compressor.recipe.data import DataSpec

MANY = Task(MANY_LABELS, thresholds=(0.5, 0.75))
SIGMOID = Task(SCORE, tolerance=0.05, sigmoid=True)
ODDS_3 = math.log(3)  # the logistic function is 3/4 there


def outputs(*rows):
    return np.array(rows, dtype=np.float64)


def test_the_kinds_are_those_of_recipes():
    allowed = DataSpec.model_fields["kind"].annotation.__args__[0].__args__
    assert tuple(KINDS) == allowed


def test_answers_by_hand():
    assert SINGLE.answers(outputs([1, 2, 0], [3, 2, 0])).tolist() == [1, 0]
    assert MANY.answers(outputs([0, ODDS_3], [-0.1, ODDS_3 - 0.01])).tolist() == [[1, 1], [0, 0]]
    assert Task(SCORE).answers(outputs([2.5], [-1])).tolist() == [2.5, -1]
    assert SIGMOID.answers(outputs([ODDS_3])).tolist() == pytest.approx([0.75])
    with pytest.raises(ValueError, match="two outputs or more"):
        SINGLE.answers(outputs([1.0]))


def test_changes_by_hand():
    assert SINGLE.changed(outputs([0, 1], [0, 1]), outputs([0, 2], [1, 0])).tolist() == [False, True]
    assert MANY.changed(outputs([1, 0], [1, 0]), outputs([2, 1], [2, 2])).tolist() == [False, True]
    score = Task(SCORE, tolerance=0.5)
    assert score.changed(outputs([1], [1], [1]), outputs([1.5], [1.51], [np.nan])).tolist() == [False, True, True]
    assert SIGMOID.changed(outputs([0.0]), outputs([0.1])).tolist() == [False]  # 0.525 against 0.5


def test_right_by_hand():
    assert SINGLE.right(outputs([0, 1], [1, 0]), np.array([1, 1])).tolist() == [True, False]
    assert MANY.right(outputs([1, 2], [1, 2]), np.array([[1, 1], [1, 0]])).tolist() == [True, False]
    with pytest.raises(ValueError, match="near or far"):
        Task(SCORE).right(outputs([1]), np.array([1.0]))


def test_divergences_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4): 1/2 ln 2 + 1/2 ln (2/3)
    half = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert SINGLE.divergence(outputs([0, 0]), outputs([0, ODDS_3])) == pytest.approx(half)
    assert SINGLE.divergence(np.ones((4, 3)), 5 + np.ones((4, 3))) == pytest.approx(0)
    assert MANY.divergence(outputs([0, 0]), outputs([ODDS_3, ODDS_3])) == pytest.approx(2 * half)
    assert Task(SCORE).divergence(outputs([1], [1]), outputs([3], [1])) == pytest.approx((2 + 0) / 2)
    assert SIGMOID.divergence(outputs([0]), outputs([ODDS_3])) == pytest.approx(half)


@given(st.sampled_from([(SINGLE, 4), (MANY, 2), (Task(SCORE), 1), (SIGMOID, 1)]), st.integers(0, 10**6))
def test_directions_give_the_divergence_of_a_small_change(case, seed):
    task, count = case
    generator = torch.Generator().manual_seed(seed)
    full = 2 * torch.randn(3, count, generator=generator, dtype=torch.float64)
    change = 1e-3 * torch.randn(3, count, generator=generator, dtype=torch.float64)
    along = torch.einsum("nc,nck->nk", change, task.directions(full))
    assert along.shape[1] == task.count_directions(count)
    torch.testing.assert_close(along.square().sum(1) / 2, task.divergences(full + change, full), rtol=2e-2, atol=1e-12)


def test_the_largest_of_many_directions_are_kept():
    full = torch.tensor([[0.0, 5.0, 1.0]])
    found = Task(MANY_LABELS, thresholds=(0.5,) * 3).directions(full, most=2)[0]
    assert found.shape == (3, 2)
    assert found[:, 0].tolist() == [0.5, 0, 0]
    assert found[1].tolist() == [0, 0]  # 5 is the surest


def test_losses_leave_out_rows_without_labels_and_weigh_all_rows():
    two = torch.zeros(2, 2)
    assert float(SINGLE.loss(two, torch.tensor([1, -1]))) == pytest.approx(math.log(2) / 2)
    assert float(MANY.loss(two, torch.tensor([[1, 0], [-1, -1]]))) == pytest.approx(math.log(2) / 2)
    score = Task(SCORE)
    assert float(score.loss(torch.tensor([[1.0], [9.0]]), torch.tensor([3.0, math.nan]))) == pytest.approx(2 / 2)
    assert float(SIGMOID.loss(torch.zeros(1, 1), torch.tensor([1.0]))) == pytest.approx(math.log(2))
    for task, outs in ((SINGLE, 2), (MANY, 2), (score, 1)):
        nothing = torch.from_numpy(task.no_labels(3, outs))
        assert float(task.loss(torch.ones(3, outs), nothing)) == 0.0
        assert not task.known(nothing.numpy()).any()


def test_groups_by_hand():
    assert SINGLE.groups(np.array([1, 0]))[1] is None
    tenths, members = Task(SCORE).groups(np.arange(100) / 7)
    assert (members, np.bincount(tenths).tolist()) == (None, [10] * 10)
    assert Task(SCORE).groups(np.array([1.0, 1.0, 5.0]))[0].tolist() == [0, 0, 1]
    group, members = MANY.groups(np.array([[1, 0], [0, 0], [1, 0]]))
    assert members[group].tolist() == [[1, 0], [0, 0], [1, 0]]
    assert len(members) == 2


def test_margins_by_hand():
    assert SINGLE.margins(outputs([1, 4, 2])).tolist() == [2]
    assert MANY.margins(outputs([-3, ODDS_3 + 1])).tolist() == pytest.approx([1])
    assert Task(SCORE).margins(outputs([7])).tolist() == [0]


RANKED = Task(RANKING, within=np.array([0, 1, 0, 1, 0]))


def test_rankings_by_hand():
    full, other = outputs([3], [1], [2], [5], [0]), outputs([3], [7], [2], [5], [9])
    assert RANKED.changed(full, other).tolist() == [True, True]
    assert RANKED.changed(full, 10 * full).tolist() == [False, False]
    assert RANKED.changed(full, outputs([3], [np.nan], [2], [5], [0])).tolist() == [False, True]
    relevant = np.array([1.0, 0, 2, 0, 0])
    assert RANKED.right(full, relevant).tolist() == [False, True]  # no document of query 1 is better than that on top
    assert RANKED.margins(full).tolist() == [1, 4]
    assert RANKED.count(5) == 2
    assert SINGLE.count(5) == 5
    with pytest.raises(ValueError, match="bind it to its rows first"):
        Task(RANKING).changed(full, other)


def test_rankings_are_grouped_less_the_mean_of_their_query():
    # 10 queries of the same ten steps around means far apart: tenths of the steps, not of the means
    answers, within = (100 * np.arange(10)[:, None] + np.arange(10)).reshape(-1) * 1.0, np.repeat(np.arange(10), 10)
    groups, members = Task(RANKING, within=within).groups(answers)
    assert members is None
    assert groups.tolist() == list(range(10)) * 10


def test_a_task_is_bound_to_splits_one_after_the_other():
    one = Split([("a",)] * 3, None, ["x"] * 3, ["q", "p", "q"])
    bound = Task(RANKING).bound(one, one)
    assert bound.within.tolist() == [0, 1, 0, 2, 3, 2]
    assert bound == Task(RANKING)  # what decides an answer is the same
    assert SINGLE.bound(one) is SINGLE
    assert "within" not in bound.told()


def config(outs, **more):
    return {"id2label": {place: f"LABEL_{place}" for place in range(outs)}, **more}


def test_the_task_of_a_configuration():
    assert task_of(config(3), "here") == SINGLE
    assert task_of(config(1), "here") == Task(SCORE)
    assert task_of(config(2, problem_type="multi_label_classification"), "here").thresholds == (0.5, 0.5)
    named = "torch.nn.modules.activation.Sigmoid"
    assert task_of(config(1, sentence_transformers={"activation_fn": named}), "here").sigmoid
    assert task_of(config(1, sbert_ce_default_activation_function=named), "here").sigmoid
    assert not task_of(
        config(1, sentence_transformers={"activation_fn": "torch.nn.modules.linear.Identity"}), ""
    ).sigmoid
    for wrong, words in (
        (config(2, problem_type="regression"), "here: problem_type is regression with 2 outputs"),
        (
            config(1, sentence_transformers={"activation_fn": "torch.nn.Tanh"}),
            "activation is torch.nn.Tanh; use identity or",
        ),
    ):
        with pytest.raises(UserError, match=words):
            task_of(wrong, "here")
    with pytest.raises(UserError, match="MODEL: it counts, and this model gives a score"):
        need_single_label(SCORE, "MODEL", "it counts")
