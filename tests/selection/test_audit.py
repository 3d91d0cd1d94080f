"""The audit: rank correlations by hand, damage of real trials, regret, and what it says."""

from dataclasses import asdict

import numpy as np
import pytest

from compressor.analysis.roles.roles import passthrough_scores
from compressor.analysis.roles.weights import model_weights
from compressor.model.capture import capture_calls
from compressor.model.states.states import class_states
from compressor.recipe.compression import SelectionSpec
from compressor.selection.audit import audit_scores, contiguous_blocks, reading, spearman, spec_of_all_sizes
from compressor.selection.baselines import RANKINGS, Evidence, ranked_set
from compressor.selection.sensitivity import sensitivity
from compressor.selection.separability import score_layers
from compressor.selection.trials import Trials


@pytest.fixture(scope="module")
def audited(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.arange(len(encodings)) % 3
    states = class_states(model, family, encodings, labels, 3)
    scores = asdict(score_layers(states, "trace_ratio", "teacher"))
    scores["gradients"] = sensitivity(model, family, encodings, labels, states.moments)
    evidence = Evidence.of(scores, seed=0, passthrough=passthrough_scores(model_weights(model)))
    calls, teacher = capture_calls(model, family, encodings)
    trials = Trials(model, family, calls, teacher, labels)
    audit = audit_scores(trials, evidence, SelectionSpec(), labels="teacher", flops=lambda skip: 10 * (4 - len(skip)))
    return audit, trials, evidence


def test_spearman_by_hand():
    # ranks 1 2 3 4 against 1 2 4 3: 1 - 6 * 2 / (4 * 15)
    rho, (low, high) = spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 20.0, 99.0, 30.0]))
    assert rho == pytest.approx(0.8)
    assert -1 <= low < 0.8 < high <= 1 + 1e-9
    assert spearman(np.arange(9.0), np.arange(9.0) ** 3)[0] == pytest.approx(1)
    assert spearman(np.arange(9.0), -np.arange(9.0)) == (pytest.approx(-1), (pytest.approx(-1), pytest.approx(-1)))
    assert spearman(np.ones(5), np.arange(5.0)) == (None, None)


def test_blocks():
    assert contiguous_blocks(3) == [(1,), (2,), (3,), (1, 2), (2, 3)]
    assert len(contiguous_blocks(12)) == 12 * 13 // 2 - 1


def test_damage_is_that_of_the_trials(audited):
    audit, trials, _ = audited
    assert [row["skip"] for row in audit.damage] == contiguous_blocks(4)
    row = next(row for row in audit.damage if row["skip"] == (2, 3))
    trial = trials([(2, 3)], "again")[0]
    assert row["flips"] == 1 - trial.agreement
    assert row["raw_accuracy_lost"] == (trial.raw_lost - trial.raw_gained) / 24
    assert (row["kl"], row["raw_kl"]) == (trial.kl, trial.raw_kl)


def test_correlations_are_those_of_importance_with_damage(audited):
    audit, _, _ = audited
    assert len(audit.correlations) == len(RANKINGS) * 2 * 3 * 2
    found = {(row["score"], row["units"], row["damage"], row["readout"]): row for row in audit.correlations}
    singles = [row for row in audit.damage if len(row["skip"]) == 1]
    row = found["top_first", "layers", "kl", False]
    wanted = spearman(np.array([4.0, 3.0, 2.0, 1.0]), np.array([single["raw_kl"] for single in singles]))
    assert (row["rho"], row["ci95"], row["n"]) == (*wanted, 4)
    assert found["cka", "blocks", "flips", True]["n"] == 9


def test_frontier_has_every_size_of_the_search_and_of_every_score(audited):
    audit, trials, evidence = audited
    points = {(point["series"], point["size"]): point for point in audit.frontier}
    assert len(points) == 4 * (3 + len(RANKINGS))
    for size in range(4):  # greedy tries some of the beam's sets, and the beam some of all
        found = [points[name, size]["agreement"] for name in ("exhaustive", "beam", "greedy")]
        assert found == sorted(found, reverse=True)
    for size in range(4):
        best = points["exhaustive", size]
        assert best["regret"]["agreement"] == 0
        assert best["encoder_flops"] == 10 * (4 - size)
        for name in RANKINGS:
            point = points[name, size]
            assert point["skip"] == ranked_set(name, evidence, size)
            assert point["regret"]["agreement"] == best["agreement"] - point["agreement"] >= 0
            low, high = point["agreement_ci95"]
            assert low <= point["agreement"] <= high
    trial = trials([points["exhaustive", 2]["skip"]], "again")[0]
    assert points["exhaustive", 2]["accuracy_delta"] == (trial.gained - trial.lost) / 24


def test_hits_compare_the_first_picks_with_the_truly_least_damaging_layer(audited):
    audit, trials, _ = audited
    least = min(trials([(layer,) for layer in range(1, 5)], "again"), key=lambda trial: trial.cost).skip[0]
    for hit in audit.hits:
        assert hit["best"] == least
        assert hit["top1"] == (hit["order"][0] == least)
        assert hit["top3"] == (least in hit["order"][:3])


@pytest.mark.parametrize(("search", "series"), [("beam", "beam"), ("ranked", "beam"), ("greedy", "greedy")])
def test_the_audit_searches_all_sizes_whatever_the_recipe_searches(audited, search, series):
    _, trials, evidence = audited
    audit = audit_scores(
        trials, evidence, SelectionSpec(search=search, layers=2), labels="gold", flops=lambda skip: 9 - len(skip)
    )
    assert (audit.search, audit.labels) == (series, "gold")
    assert {point["size"] for point in audit.frontier if point["series"] == series} == {0, 1, 2, 3}


def test_protected_layers_are_no_yardstick(audited):
    _, trials, evidence = audited
    least = min(trials([(layer,) for layer in range(1, 5)], "again"), key=lambda trial: trial.cost).skip
    audit = audit_scores(
        trials, evidence, SelectionSpec(protect=list(least)), labels="gold", flops=lambda skip: 9 - len(skip)
    )
    assert {point["regret"]["agreement"] for point in audit.frontier if point["series"] == "exhaustive"} == {0.0}
    assert not any(set(point["skip"]) & set(least) for point in audit.frontier)


@pytest.mark.parametrize(
    ("spec", "layers", "search"),
    [
        ({"layers": 2}, 12, "exhaustive"),
        ({}, 24, "beam"),
        ({"search": "greedy"}, 24, "greedy"),
        ({"search": "ranked"}, 4, "beam"),
    ],
)
def test_an_audit_never_tries_more_sets_than_an_exhaustive_search_may(spec, layers, search):
    assert spec_of_all_sizes(SelectionSpec(**spec), layers).search == search


def test_an_audit_goes_over_to_a_beam_where_all_sets_are_too_many(audited, monkeypatch):
    _, trials, evidence = audited
    monkeypatch.setattr("compressor.selection.audit.MOST_SETS", 14)
    audit = audit_scores(trials, evidence, SelectionSpec(), labels="gold", flops=lambda skip: 9 - len(skip))
    assert audit.search == "beam"
    assert "exhaustive" not in {point["series"] for point in audit.frontier}


def point(series, size, regret, agreement=0.9):
    return {"series": series, "kind": "search" if series == "exhaustive" else "score", "size": size} | {
        "regret": {"agreement": regret},
        "agreement": agreement - regret,
    }


def test_the_reading_says_plainly_when_separability_is_not_the_best_and_only_when_it_can_be_told():
    points = [point("exhaustive", 1, 0.0), point("separability", 1, 0.10), point("cka", 1, 0.02)]
    text = reading(points, 1000)
    assert text.startswith("Separability is not the best guide here.")
    assert "lose 10.0 points" in text
    assert "the score cka loses 2.0, the least of all scores" in text
    assert "the exhaustive search by real forward passes loses 0.0" in text
    assert "cannot be told apart on 100 rows" in reading(points, 100)
    points[1] = point("separability", 1, 0.01)
    assert "no score loses less" in reading(points, 1000)
