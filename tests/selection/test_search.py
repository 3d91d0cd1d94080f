"""The trie search against plain forward passes, its cost, and every way to choose a plan."""

from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch

from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import capture_calls
from compressor.model.families import layer_list
from compressor.model.states.reading import head_logits
from compressor.model.surgery import drop_layers
from compressor.recipe.compression import GoalsSpec, SelectionSpec
from compressor.selection.search import SEARCHES, candidate_sets, check_selection, find_plan, most_sets
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import call_groups, count_applications, set_chunks, walk_sets

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
    assert count_applications(4, candidate_sets(4, [1], [])) == (3 + 2 + 1 + 0) + 3
    assert count_applications(12, candidate_sets(12, range(12), [])) == 4095


def test_chunks_follow_the_walk_and_cost_at_most_one_prefix_more_each():
    chunks = set_chunks(ALL_SETS, 5, 4)
    assert sorted(skip for chunk in chunks for skip in chunk) == sorted(ALL_SETS)
    assert max(map(len, chunks)) == 5
    assert sum(count_applications(4, chunk) for chunk in chunks) <= 2**4 - 1 + 4 * (len(chunks) - 1)


GAINS = {1: 0.3, 2: 0.1, 3: 0.2, 4: 0.9}


def trials_of(tiny, layers=4, **options):
    model, family, encodings, _ = tiny("bert", layers)
    calls, teacher = capture_calls(model, family, encodings, batch_size=5)
    return Trials(model, family, calls, teacher, **options)


def ranked(size):
    return tuple(sorted(sorted(GAINS, key=GAINS.get)[:size]))


def plan_of(tiny, goals=None, options=None, **spec):
    return find_plan(trials_of(tiny, **(options or {})), ranked, SelectionSpec(**spec), goals)


def test_exhaustive_takes_the_best_set_and_reports_the_regret_of_the_ranked_plan(tiny):
    plan = plan_of(tiny, search="exhaustive", layers=2)
    assert (plan.sets_evaluated, plan.sets_total, plan.layers_asked) == (6, 6, 2)
    assert plan.chosen == min(plan.trace, key=lambda trial: (-trial.agreement, trial.kl, trial.skip))
    assert plan.ranked.skip == (2, 3)
    assert plan.regret["agreement"] == plan.chosen.agreement - plan.ranked.agreement >= 0
    assert sorted(plan.skip + plan.keep) == [1, 2, 3, 4]
    assert plan.layer_applications == count_applications(4, candidate_sets(4, [2], []))
    assert plan.predicted_seconds > 0


def test_ranked_skips_what_the_score_says_and_tries_only_that_set(tiny):
    plan = plan_of(tiny, search="ranked", layers=2)
    assert (plan.skip, plan.sets_evaluated, plan.regret) == ((2, 3), 1, None)


def test_greedy_adds_one_layer_after_the_other(tiny):
    plan, single = plan_of(tiny, search="greedy", layers=2), plan_of(tiny, search="exhaustive", layers=1)
    assert set(single.skip) <= set(plan.skip)
    assert plan.regret["agreement"] >= 0


def test_a_beam_lies_between_greedy_and_exhaustive(tiny):
    greedy, narrow = (
        plan_of(tiny, layers=3, **spec) for spec in ({"search": "greedy"}, {"search": "beam", "beam_width": 1})
    )
    assert [trial.skip for trial in greedy.trace] == [trial.skip for trial in narrow.trace]
    wide, all_sets = plan_of(tiny, search="beam", layers=3, beam_width=99), plan_of(tiny, search="exhaustive", layers=3)
    assert wide.chosen == all_sets.chosen
    middle = plan_of(tiny, search="beam", layers=3, beam_width=2)
    assert all_sets.chosen.cost <= middle.chosen.cost
    # 4 single layers, then at most 2 * 3 pairs and 2 * 2 triples, and the ranked plan
    assert greedy.sets_evaluated < middle.sets_evaluated <= 4 + 6 + 4 + 1


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_set_that_was_tried_is_never_better_than_the_one_that_is_taken(search):
    # the best single layer is 1, the best pair is (2, 3), which the score names and a greedy walk never sees
    kl = {(1,): 0.1, (2,): 0.2, (3,): 0.3, (4,): 0.4, (1, 2): 0.9, (1, 3): 0.8, (1, 4): 0.7, (2, 3): 0.2}
    spec = SelectionSpec(search=search, layers=2, beam_width=1)
    plan = find_plan(Known(kl), lambda size: (2, 3)[:size], spec)
    assert (plan.skip, plan.ranked.skip, plan.regret["kl"]) == ((2, 3), (2, 3), 0.0)
    assert all(plan.chosen.cost <= trial.cost for trial in plan.trace if len(trial.skip) == 2)


class Known:
    """Trials of four layers whose damage is known."""

    layers, rows, counted, kinds = [None] * 4, 100, 100, None

    def __init__(self, kl):
        self.kl = kl

    def __call__(self, sets, _description):
        return [Trial(skip, 1 - self.kl[skip] / 10, self.kl[skip], 0.0, 0.0, None, None, None, None) for skip in sets]

    def applications(self, sets):
        return len(sets)

    def seconds(self, sets):
        return float(len(sets))

    def unknown(self, sets):
        return list(sets)


def test_rows_walked_in_groups_and_sets_in_chunks_give_the_same_trials(tiny, monkeypatch):
    whole = trials_of(tiny, labels=np.arange(24) % 3)(ALL_SETS, "all")
    model, family, encodings, _ = tiny("bert")
    calls, _ = capture_calls(model, family, encodings, batch_size=4)
    groups = call_groups(calls, 4, budget=calls[0].hidden.nbytes * 5)
    assert len(groups) > 2
    assert [id(call) for group in groups for call in group] == [id(call) for call in calls]
    monkeypatch.setattr("compressor.selection.trials.call_groups", lambda calls, layers: [[call] for call in calls])
    monkeypatch.setattr("compressor.selection.trials.STATES_BUDGET", 24 * 32 * 4 * 3)  # the [CLS] states of three sets
    parts = trials_of(tiny, labels=np.arange(24) % 3)(ALL_SETS, "all")
    assert [(t.skip, t.agreement, t.gained, t.raw_lost) for t in parts] == [
        (t.skip, t.agreement, t.gained, t.raw_lost) for t in whole
    ]
    np.testing.assert_allclose([t.raw_kl for t in parts], [t.raw_kl for t in whole], atol=1e-6)


def test_trials_by_hand(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.arange(24) % 3
    trial = trials_of(tiny, labels=labels)([(2, 4)], "one")[0]
    full, pruned = predict(model, encodings).argmax(1), predict(drop_layers(model, family, (2, 4)), encodings).argmax(1)
    assert trial.raw_agreement == (full == pruned).mean()
    assert trial.raw_gained == ((full != labels) & (pruned == labels)).sum()
    assert trial.raw_lost == ((full == labels) & (pruned != labels)).sum()
    nothing = trials_of(tiny)([()], "full")[0]
    assert (nothing.raw_agreement, nothing.raw_gained) == (1.0, None)
    assert nothing.raw_kl == pytest.approx(0, abs=1e-9)


def counted(monkeypatch):
    """Count layer applications: one a batch of rows and kept prefix."""
    import compressor.selection.trie as trie

    calls, original = [], trie.apply_layer
    monkeypatch.setattr(trie, "apply_layer", lambda *given: calls.append(1) or original(*given))
    return calls


def test_a_larger_search_continues_a_smaller_one(tiny, tmp_path, monkeypatch):
    options, applied = {"cache": tmp_path / "trials.json"}, counted(monkeypatch)
    small = plan_of(tiny, options=options, search="exhaustive", layers=1)
    assert len(applied) == small.layer_applications == count_applications(4, candidate_sets(4, [1], []))
    assert small.sets_known == 0
    del applied[:]
    again = plan_of(tiny, options=options, search="exhaustive", layers=1)
    assert (len(applied), again.chosen, again.sets_known) == (0, small.chosen, again.sets_evaluated)
    greedy = plan_of(tiny, options=options, search="greedy", layers=2)  # its first level is known
    assert len(applied) == greedy.layer_applications - small.layer_applications
    assert plan_of(tiny, search="greedy", layers=2).trace == greedy.trace  # and it finds what a fresh one finds


def test_trials_of_other_rows_or_labels_are_not_believed(tiny, tmp_path, monkeypatch):
    cache = tmp_path / "trials.json"
    trials_of(tiny, cache=cache)([(1,)], "one")
    applied = counted(monkeypatch)
    trials_of(tiny, cache=cache, labels=np.zeros(24, dtype=np.int64))([(1,)], "one")
    assert len(applied) == 3
    for broken in ("{ broken", "[]", "[" * 100_000):
        cache.write_text(broken, encoding="utf-8")
        trials_of(tiny, cache=cache)([(1,)], "one")
    assert len(applied) == 12


def test_a_search_that_is_killed_keeps_what_it_tried(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("compressor.selection.trials.SAVE_EVERY_S", 0.0)
    cache, applied = tmp_path / "trials.json", counted(monkeypatch)

    def killed(iterable, _description, total=None):
        for count, item in enumerate(iterable):
            if count == total - 4:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        trials_of(tiny, cache=cache, track=killed)(ALL_SETS[:-1], "all")
    before = len(applied)
    trials_of(tiny, cache=cache)(ALL_SETS[:-1], "all")
    assert before >= 15 - 5
    assert len(applied) - before < 15 - 5  # far fewer than from the start


def test_fixed_does_as_told(tiny):
    assert plan_of(tiny, search="fixed", skip=[3, 1]).skip == (1, 3)


@pytest.mark.parametrize("search", ["greedy", "beam", "exhaustive"])
def test_protected_layers_stay(tiny, search):
    assert plan_of(tiny, search=search, layers=2, protect=[2, 3]).skip == (1, 4)


def test_auto_takes_the_largest_size_that_meets_the_goals_and_the_nearest_miss_where_none_does(tiny):
    every = plan_of(tiny, GoalsSpec(max_flips=1.0), search="exhaustive", layers="auto")
    assert (len(every.skip), every.goals.met) == (3, True)
    assert every.sets_evaluated == every.sets_total == 15  # the full model too; nothing is left if all four are skipped
    assert every.layer_applications == 15
    flips = {size: 1 - max(t.agreement for t in every.trace if len(t.skip) == size) for size in (1, 2, 3)}
    for limit in sorted({*flips.values()}):
        plan = plan_of(tiny, GoalsSpec(max_flips=limit), search="exhaustive", layers="auto")
        assert (len(plan.skip), plan.goals.met) == (max(size for size in flips if flips[size] <= limit), True)
    none = plan_of(tiny, GoalsSpec(max_drop=0.0001), search="beam", layers="auto")
    assert not none.goals.met
    assert none.goals.candidates[0].skip == none.skip
    assert none.goals.candidates[0].chosen
    assert [c.excess for c in none.goals.candidates] == sorted(c.excess for c in none.goals.candidates)
    assert "max_drop: accuracy may drop by" in none.goals.candidates[0].misses[0]
    assert (none.goals.tried, none.goals.choices) == (none.sets_evaluated - 1, 14)  # the full model is no candidate


def test_every_search_has_its_row():
    assert set(SEARCHES) == set(get_args(SelectionSpec.model_fields["search"].annotation))


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"layers": 4}, "cannot skip 4 of the model's 4 layers"),
        ({"layers": 2, "protect": [1, 2, 3]}, "only 1 of 4"),
        ({"layers": 1, "protect": [5]}, "layer 5 does not exist"),
        ({"layers": "auto"}, "set goals.max_drop or goals.max_flips"),
        ({"search": "fixed", "skip": [5]}, "layers are 1..4"),
        ({"search": "fixed", "skip": [1, 2, 3, 4]}, "leaves none"),
    ],
)
def test_impossible_selections_are_refused(spec, words):
    with pytest.raises(UserError, match=words):
        check_selection(SelectionSpec(**spec), 4)


@pytest.mark.parametrize(
    ("spec", "layers", "words"),
    [
        (
            {"search": "guided", "layers": 6},
            24,
            "guided would choose among 134,596 sets of the model's 24 layers; use search: beam, which tries at most 865",
        ),
        ({"layers": "auto"}, 24, "exhaustive would try 16,777,215 sets of the model's 24 layers; use search: beam"),
        ({"layers": 12}, 24, "tries at most 1,609"),
        ({"layers": "auto"}, 1, "the model has one layer"),
    ],
)
def test_what_is_too_much_or_too_little_is_refused(spec, layers, words):
    with pytest.raises(UserError, match=words):
        check_selection(SelectionSpec(**spec), layers, GoalsSpec(max_flips=0.1))
    check_selection(SelectionSpec(search="beam", layers="auto"), 24, GoalsSpec(max_flips=0.1))


def test_guided_starts_with_the_ranked_set_and_tries_a_tenth(tiny):
    plan, best = plan_of(tiny, search="guided", layers=2), plan_of(tiny, search="exhaustive", layers=2)
    assert (plan.sets_evaluated, plan.sets_total) == (3, 6)
    assert plan.ranked.skip == (2, 3)
    assert best.chosen.cost <= plan.chosen.cost <= plan.ranked.cost
    assert most_sets(SelectionSpec(search="guided", layers=2), 4) == 3 + 1
    kept = plan_of(tiny, search="guided", layers=2, protect=[3])
    assert 3 in kept.keep


def test_most_sets_is_what_a_beam_tries_at_most(tiny):
    spec = SelectionSpec(search="beam", layers=3, beam_width=2)
    assert most_sets(spec, 4) == 4 + 6 + 4 + 1  # the set that the score names is tried as well
    assert plan_of(tiny, **spec.model_dump(exclude={"audit", "skip"})).sets_evaluated <= 4 + 6 + 4 + 1
