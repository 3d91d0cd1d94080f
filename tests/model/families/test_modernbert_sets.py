"""Sets of layers of a ModernBERT: which may go, what a search tries, what is refused."""

import json
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny import save_model, sets

from compressor.data.answers.kinds import SINGLE
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import capture_calls
from compressor.model.families import FAMILIES, layer_kinds, layer_list
from compressor.model.load import find_model
from compressor.model.states.reading import head_logits, read_state
from compressor.model.surgery import drop_layers
from compressor.model.units import kept_period
from compressor.recipe.compression import GoalsSpec, SelectionSpec
from compressor.selection.allowed import allowed_sets, count_sets, may_go
from compressor.selection.search import SEARCHES, check_selection, find_plan, most_sets
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import walk_sets

FAMILY = FAMILIES["modernbert"]
KINDS = (True, False, False, True, False, False)
"""Six layers, every third global."""
SETS = {
    # without 4, one global layer leads whatever local ones stay; with it, no more may follow it than stand in front of it
    1: [(4,), (5,), (6,)],
    2: [(2, 4), (2, 5), (2, 6), (3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)],
    3: [(2, 3, 4), (2, 4, 5), (2, 4, 6), (2, 5, 6), (3, 4, 5), (3, 4, 6), (3, 5, 6), (4, 5, 6)],
    4: [(2, 3, 4, 5), (2, 3, 4, 6), (2, 3, 5, 6), (2, 4, 5, 6), (3, 4, 5, 6)],
    5: [(2, 3, 4, 5, 6)],
}  # fmt: skip
EVERY = [skip for some in SETS.values() for skip in some]


def test_sets_of_six_layers_by_hand():
    assert layer_kinds({"model_type": "modernbert", "num_hidden_layers": 6, "global_attn_every_n_layers": 3}) == KINDS
    assert layer_kinds({"model_type": "bert"}) is None
    assert {size: list(allowed_sets(6, size, (), KINDS)) for size in SETS} == SETS
    assert kept_period(KINDS, [1, 2, 3, 4, 5]) == 3
    assert kept_period(KINDS, [1, 2, 4, 5]) == 2
    assert kept_period(KINDS, [1, 4]) == 1
    assert kept_period(KINDS, [1, 2, 3, 5, 6]) == 5  # no other global layer is to come
    assert kept_period(KINDS, [2, 3]) is None  # layer 1 alone has no norm in front of its attention
    assert kept_period(KINDS, [1, 2, 4, 5, 6]) is None


@pytest.mark.parametrize("period", [1, 2, 3, 4])
@pytest.mark.parametrize("protect", [(), (2,), (7,), (1, 3)])
def test_sets_are_those_that_may_go(period, protect):
    kinds = tuple(index % period == 0 for index in range(7))
    free = [layer for layer in range(1, 8) if layer not in protect]
    for size in range(7):
        expected = [skip for skip in combinations(free, size) if may_go(skip, kinds)]
        assert list(allowed_sets(7, size, protect, kinds)) == expected
        assert count_sets(7, size, protect, kinds) == len(expected)


def test_what_cannot_go_is_refused_with_what_can(tmp_path, tiny_task, command):
    with pytest.raises(
        UserError, match=r"selection.skip: \[2\] cannot .* layer 1 must stay .* can go \[4\], \[5\], \[6\]\.$"
    ):
        check_selection(SelectionSpec(search="fixed", skip=[2]), 6, None, KINDS)
    with pytest.raises(UserError, match=r"of 2 layers can go \[2, 4\], .* and 1 more\.$"):
        check_selection(SelectionSpec(search="fixed", skip=[2, 3]), 6, None, KINDS)
    seven = (*KINDS, True)
    with pytest.raises(UserError, match=r"no set of 1 layers can be skipped: .* numbers that have one: 2, 4\.$"):
        check_selection(SelectionSpec(layers=1, protect=[4, 7]), 7, None, seven)
    with pytest.raises(UserError, match="without these layers no set can be skipped"):
        check_selection(SelectionSpec(layers="auto", protect=[4, 5, 6]), 6, GoalsSpec(max_flips=0.1), KINDS)
    folder = save_model(tmp_path / "full", "modernbert", layers=6, num_labels=2)
    cases = {
        "selection={search: fixed, skip: [1]}": "selection.skip: [1] cannot be skipped",
        "selection={units: [layer, ffn], budget: {keep: 0.5}}": "selection.units: whole layers of a modernbert model",
        "ship={units: [layer]}": "ship.units: whole layers of a modernbert model",
        "compensation.head.trainer=forward": "compensation.head.trainer: forward builds nodes one by one",
    }
    for value, sentence in cases.items():
        values = sets(f"model.path={folder}", *(["selection=null"] if "ship" in value else []), value)
        if "ship" in value:
            values = sets(f"model.path={folder}", "selection={}", value)
        code, _, stderr = command("run", tiny_task / "recipe.yaml", *values, "--out", tmp_path / "run")
        assert (code, sentence in stderr, stderr.count("\n")) == (2, True, 1), stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier_pooling": "max"}, "classifier_pooling.* but is max"),
        ({"classifier_activation": "relu"}, 'classifier_activation is "relu"; only gelu is served'),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0; it must be a whole number from 1 on"),
        ({"hidden_activation": "glu"}, "'glu' is no activation that transformers knows; correct hidden_activation"),
    ],
)
def test_what_is_not_served_is_said(tmp_path, change, message):
    folder = save_model(tmp_path / "full", "modernbert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        find_model(str(folder))


def test_every_set_by_the_trie_is_the_shorter_model(six_modernbert):
    model, encodings, _ = six_modernbert
    calls, teacher = capture_calls(model, FAMILY, encodings, batch_size=5)
    order = torch.cat([call.rows for call in calls]).argsort()
    for skip, hidden in walk_sets(list(layer_list(model, FAMILY)), calls, EVERY):
        with torch.inference_mode():
            read = [read_state(model, FAMILY, state, call.mask) for state, call in zip(hidden, calls, strict=True)]
            found = head_logits(model, FAMILY, torch.cat(read)[order])
        np.testing.assert_allclose(found, predict(drop_layers(model, FAMILY, skip), encodings), atol=2e-5)
    trials = Trials(model, FAMILY, calls, teacher)
    shorter = predict(drop_layers(model, FAMILY, (4,)), encodings)
    assert trials([(4,)], "a set")[0].raw_kl == pytest.approx(
        SINGLE.divergence(teacher.numpy(), shorter), rel=1e-4, abs=1e-7
    )


@pytest.mark.parametrize("search", [name for name in SEARCHES if name != "fixed"])
def test_searches_try_what_may_go_alone(six_modernbert, search):
    model, encodings, _ = six_modernbert
    calls, teacher = capture_calls(model, FAMILY, encodings)
    spec = SelectionSpec(search=search, layers=3, beam_width=2)
    plan = find_plan(Trials(model, FAMILY, calls, teacher), lambda size: SETS[size][-1] if size else (), spec)
    assert {trial.skip for trial in plan.trace} <= {(), *EVERY}
    assert plan.skip in SETS[3]
    assert plan.sets_total == len(SETS[3])
    if search in {"greedy", "beam", "guided"}:
        assert plan.sets_evaluated <= most_sets(spec, 6, KINDS)
    if search == "beam":  # of a size with no more sets than a beam would try, all are tried
        assert {trial.skip for trial in plan.trace} >= set(SETS[1] + SETS[2] + SETS[3])


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_search_goes_on_where_no_single_layer_may_be_added(search):
    kinds = tuple(index % 3 == 0 for index in range(22))  # as many layers as the base model has
    spec, tried = SelectionSpec(search=search, layers=12, beam_width=4), {}

    def evaluate(sets, _description):
        tried.setdefault(len(sets[0]), []).extend(sets)
        # what reaches the end first seems best, from where no single layer leads on to most sets
        return [Trial(skip, 1.0, -float(sum(skip)), 1.0, 0.0, *[None] * 4) for skip in sets]

    SEARCHES[search](evaluate, 22, [12], lambda _size: (), spec, kinds)
    assert sorted(tried) == list(range(1, 13))
    assert all(may_go(skip, kinds) for sets in tried.values() for skip in sets)
    assert sum(map(len, tried.values())) < most_sets(spec, 22, kinds)
