"""The trie search against plain forward passes, its cost, and every way to choose a plan."""

from itertools import combinations

import numpy as np
import pytest
import torch

from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import capture_calls
from compressor.model.families import head_logits, layer_list
from compressor.model.surgery import drop_layers
from compressor.recipe import SelectionSpec
from compressor.selection.search import (
    call_groups,
    candidate_sets,
    check_selection,
    count_applications,
    find_plan,
    ranked_set,
    walk_sets,
)

ALL_SETS = [skip for size in range(5) for skip in combinations(range(1, 5), size)]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert", "electra"])
def test_trie_equals_naive_search_on_all_sets_and_applies_each_prefix_once(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    calls, _ = capture_calls(model, family, encodings, batch_size=5)
    applied = []
    found = {}
    for skip, hidden in walk_sets(list(layer_list(model, family)), calls, ALL_SETS, applied=lambda: applied.append(1)):
        with torch.inference_mode():
            states = torch.cat([state[:, 0] for state in hidden])[torch.cat([call.rows for call in calls]).argsort()]
            found[skip] = head_logits(model, family, states).numpy()
    assert len(applied) == count_applications(4, ALL_SETS) == 2**4 - 1
    assert sorted(found) == sorted(ALL_SETS)
    for skip in ALL_SETS[:-1]:  # the set that skips all layers leaves no model to compare with
        naive = predict(drop_layers(model, family, skip), encodings)
        np.testing.assert_allclose(found[skip], naive, atol=2e-5)


def test_sets_of_one_size_share_prefixes():
    # skipping one of four layers: 3 + 2 + 1 + 0 applications behind the skip, and 1, 2, 3 on the way to it
    assert count_applications(4, candidate_sets(4, 1, [])) == (3 + 2 + 1 + 0) + 3
    assert count_applications(12, [s for n in range(13) for s in combinations(range(1, 13), n)]) == 4095


def plan_of(tiny, **spec):
    model, family, encodings, _ = tiny("bert")
    calls, teacher = capture_calls(model, family, encodings)
    gains = {1: 0.3, 2: 0.1, 3: 0.2, 4: 0.9}
    return find_plan(model, family, calls, teacher, gains, SelectionSpec(**spec))


def test_exhaustive_takes_the_best_set_and_reports_the_regret_of_the_ranked_plan(tiny):
    plan = plan_of(tiny, search="exhaustive", layers=2)
    assert (plan.sets_evaluated, plan.sets_total) == (6, 6)
    assert plan.chosen == min(plan.trace, key=lambda trial: (-trial.agreement, trial.kl, trial.skip))
    assert plan.ranked.skip == (2, 3)
    assert plan.regret["agreement"] == plan.chosen.agreement - plan.ranked.agreement >= 0
    assert sorted(plan.skip + plan.keep) == [1, 2, 3, 4]


def test_ranked_skips_the_lowest_gains_and_tries_only_that_set(tiny):
    plan = plan_of(tiny, search="ranked", layers=2)
    assert (plan.skip, plan.sets_evaluated, plan.regret) == ((2, 3), 1, None)


def test_greedy_adds_one_layer_after_the_other(tiny):
    plan, single = plan_of(tiny, search="greedy", layers=2), plan_of(tiny, search="exhaustive", layers=1)
    assert set(single.skip) <= set(plan.skip)
    assert plan.regret["agreement"] >= 0


def test_rows_walked_in_groups_give_the_same_plan(tiny, monkeypatch):
    whole = plan_of(tiny, search="exhaustive", layers=2)
    model, family, encodings, _ = tiny("bert")
    calls, _ = capture_calls(model, family, encodings, batch_size=4)
    groups = call_groups(calls, 4, budget=calls[0].hidden.nbytes * 5)
    assert len(groups) > 2
    assert [id(call) for group in groups for call in group] == [id(call) for call in calls]
    monkeypatch.setattr("compressor.selection.search.call_groups", lambda calls, layers: [[call] for call in calls])
    assert [trial.skip for trial in plan_of(tiny, search="exhaustive", layers=2).trace] == [t.skip for t in whole.trace]


def test_fixed_does_as_told(tiny):
    assert plan_of(tiny, search="fixed", skip=[3, 1]).skip == (1, 3)


@pytest.mark.parametrize("search", ["ranked", "greedy", "exhaustive"])
def test_protected_layers_stay(tiny, search):
    assert plan_of(tiny, search=search, layers=2, protect=[2, 3]).skip == (1, 4)


def test_ranked_set_prefers_later_layers_on_a_tie():
    assert ranked_set({1: 0.5, 2: 0.1, 3: 0.1}, 1, []) == (3,)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"layers": 4}, "cannot skip 4 of the model's 4 layers"),
        ({"layers": 2, "protect": [1, 2, 3]}, "only 1 of 4"),
        ({"layers": 1, "protect": [5]}, "layer 5 does not exist"),
        ({"search": "fixed", "skip": [5]}, "layers are 1..4"),
        ({"search": "fixed", "skip": [1, 2, 3, 4]}, "leaves none"),
    ],
)
def test_impossible_selections_are_refused(spec, words):
    with pytest.raises(UserError, match=words):
        check_selection(SelectionSpec(**spec), 4)
