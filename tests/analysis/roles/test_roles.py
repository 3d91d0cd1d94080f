"""Layer roles: planted layers get the role they were made for, by hand-worked features, and draws say how surely."""

import json
import weakref
from dataclasses import asdict

import numpy as np
import pytest
import torch
from role_cases import FFN, HEADS, WIDTH, encoder, name, roles, weights
from tiny import APART

from compressor.analysis.roles.features import RESAMPLED
from compressor.analysis.roles.roles import CONTEXT, ROUTING, TIE, analyze_roles, passthrough_scores, roles_of
from compressor.analysis.roles.weights import Weights, model_weights
from compressor.errors import UserError

PLANTED = 5


def kinds(analysis):
    return [(alarm.kind, alarm.layer) for alarm in analysis.alarms]


def test_routing_is_made_of_features_that_are_measured_and_resampled():
    routed = {feature for features in ROUTING.values() for feature in features}
    assert routed == set(RESAMPLED)
    analysis = roles(encoder(4), draws=3)
    traced = {"momentum_cosine", "write_on_text", "alignment"}
    assert set(analysis.features) == routed - traced | set(CONTEXT)
    assert {sign for features in ROUTING.values() for sign in features.values()} == {1, -1}


def test_saturated_neurons_make_a_specialist():
    tensors = encoder()
    for position in (3, 20, 40):
        tensors[name(PLANTED, "ffn_in")][position] *= 10
        tensors[name(PLANTED, "ffn_out")][:, position] *= 2
        tensors[name(PLANTED, "ffn_in")][:] *= 0.95  # what the other positions lose
    analysis = roles(tensors, draws=100)
    found = analysis.roles[PLANTED - 1]
    assert (found.role, analysis.saturated[PLANTED - 1]) == ("specialist", (3, 20, 40))
    assert found.stability > 0.8
    assert analysis.features["magnitude_cv"][PLANTED - 1] > 3 * max(
        value for layer, value in enumerate(analysis.features["magnitude_cv"], 1) if layer != PLANTED
    )


def test_a_role_that_hangs_on_one_neuron_is_as_stable_as_that_neuron_is_drawn():
    tensors = encoder()
    tensors[name(PLANTED, "ffn_in")][7] *= 20
    found = roles(tensors, draws=400).roles[PLANTED - 1]
    assert found.role == "specialist"
    assert 0.5 < found.stability < 0.75  # 1 - (1 - 1/64)^64 = 0.63


def test_an_attention_output_of_rank_one_is_no_hub():
    tensors = encoder()
    matrix = tensors[name(PLANTED, "attention_out")]
    column, row = torch.randn(WIDTH, 1), torch.randn(1, WIDTH)
    tensors[name(PLANTED, "attention_out")] = column @ row * matrix.norm() / (column @ row).norm()
    analysis = roles(tensors)
    found = analysis.roles[PLANTED - 1]
    assert analysis.features["attention_rank"][PLANTED - 1] == pytest.approx(1, abs=0.01)
    assert found.role != "hub"
    assert found.scores["hub"] == min(role.scores["hub"] for role in analysis.roles)
    assert analysis.features["head_diversity"][PLANTED - 1] == pytest.approx(0, abs=1e-5)


def test_a_scaled_ffn_output_makes_a_damper():
    tensors = encoder()
    tensors[name(PLANTED, "ffn_out")] *= 4
    analysis = roles(tensors)
    assert (analysis.roles[PLANTED - 1].role, analysis.roles[PLANTED - 1].stability) == ("damper", 1.0)
    wanted = float(tensors[name(PLANTED, "ffn_out")].norm() / tensors[name(PLANTED, "ffn_in")].norm())
    assert analysis.features["write_ratio"][PLANTED - 1] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("left", [0.0, 0.01])
def test_a_layer_that_adds_next_to_nothing_is_a_passthrough(left):
    tensors = encoder()
    for part in ("attention_out", "ffn_out"):
        tensors[name(PLANTED, part)] *= left
    if left:  # and no position of which stands out
        tensors[name(PLANTED, "ffn_in")] /= tensors[name(PLANTED, "ffn_in")].norm(dim=1, keepdim=True)
        tensors[name(PLANTED, "ffn_out")] /= 100 * tensors[name(PLANTED, "ffn_out")].norm(dim=0, keepdim=True)
    analysis = roles(tensors)
    assert (analysis.roles[PLANTED - 1].role, analysis.roles[PLANTED - 1].stability) == ("passthrough", 1.0)
    assert kinds(analysis) == ([] if left else [("dead", PLANTED)])
    scores = passthrough_scores(weights(tensors))
    assert scores.argmax() == PLANTED - 1
    np.testing.assert_allclose(scores, [role.scores["passthrough"] for role in analysis.roles], atol=1e-9)


def test_equal_layers_have_no_role():
    tensors = encoder()
    for layer in range(2, 13):
        for part in ("query", "key", "value", "attention_out", "ffn_in", "ffn_out"):
            tensors[name(layer, part)] = tensors[name(1, part)]
    analysis = roles(tensors, draws=0)
    assert {role.role for role in analysis.roles} == {TIE}
    assert {role.margin for role in analysis.roles} == {0.0}
    assert analysis.roles[0].stability is None


def test_draws_are_seeded_and_the_answer_does_not_depend_on_them():
    tensors = encoder(6)
    first, again, other = (roles(tensors, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.intervals != other.intervals
    assert first.features == other.features
    assert [role.role for role in first.roles] == [role.role for role in other.roles]
    low, high = first.intervals["magnitude_cv"][2]
    assert low < high


def test_layers_that_chance_made_do_not_keep_their_roles():
    found = [role.stability for seed in range(3) for role in roles(encoder(seed=seed), draws=100).roles]
    assert 0.25 < np.mean(found) < 0.45


def test_reliability_tells_layers_that_differ_from_layers_that_chance_made():
    tensors = encoder()
    by_chance = roles(tensors).reliability["write_ratio"]
    for layer in range(1, 13):
        tensors[name(layer, "ffn_out")] *= 1 + layer / 4
    assert roles(tensors).reliability["write_ratio"] > 0.99
    assert by_chance < 0.7


def test_nan_and_infinity_are_found_wherever_they_are_and_kept_out_of_the_json():
    tensors = encoder()
    tensors[name(3, "ffn_in")][0, 0] = float("nan")
    tensors[name(4, "key").replace("weight", "bias")][1] = float("inf")
    tensors["bert.embeddings.word_embeddings.weight"][0, 0] = float("nan")
    analysis = roles(tensors, draws=5)
    assert sorted(kinds(analysis), key=str) == [("nonfinite", 3), ("nonfinite", 4), ("nonfinite", None)]
    assert analysis.roles[2].role is None
    assert analysis.features["magnitude_cv"][2] is None
    assert all(role.role for role in analysis.roles if role.layer != 3)
    json.dumps(asdict(analysis), allow_nan=False)


@pytest.mark.parametrize(("factor", "found"), [(60.0, [("spectral", 2)]), (15.0, [])])
def test_a_spectral_norm_far_above_the_others_is_an_alarm(factor, found):
    tensors = encoder()
    tensors[name(2, "value")] *= factor
    analysis = roles(tensors, draws=0)
    assert kinds(analysis) == found
    assert analysis.features["spectral_ratio"][1] == pytest.approx(factor, rel=0.2)
    for alarm in analysis.alarms:
        assert alarm.tensor == name(2, "value")
        assert alarm.ratio == pytest.approx(factor, rel=0.2)


def test_a_nearly_dead_layer_is_an_alarm():
    tensors = encoder(2)
    for part in ("attention_out", "ffn_out"):
        tensors[name(1, part)] *= 1e-4
    assert kinds(roles(tensors, draws=0)) == [("dead", 1)]


def test_tensors_are_read_once_and_one_at_a_time():
    tensors, alive, most, reads = encoder(4), weakref.WeakSet(), [], []
    plain = weights(tensors)

    def read(wanted):
        made = tensors[wanted].clone()
        alive.add(made)
        most.append(len(alive))
        reads.append(wanted)
        return made

    roles_of(Weights(**{**vars(plain), "read": read}), draws=3)
    assert max(most) == 1
    norms = {wanted for names in plain.layers for wanted in names.norms}
    assert sorted(wanted for wanted in reads if wanted not in norms) == sorted(set(tensors) - norms)


@pytest.mark.parametrize("model_type", APART)
def test_all_families_are_read_from_files_as_from_the_loaded_model(tiny, model_type):
    model, _, _, folder = tiny(model_type)
    analysis = analyze_roles(folder, draws=5)
    assert (analysis.layers, analysis.heads, analysis.positions, analysis.model_type) == (4, HEADS, FFN, model_type)
    loaded = roles_of(model_weights(model), draws=5)
    assert loaded.features == analysis.features
    assert analysis.features["norm_concentration"] == pytest.approx([1 / WIDTH] * 4)
    json.dumps(asdict(analysis), allow_nan=False)


def test_one_layer_has_nothing_to_be_compared_with():
    with pytest.raises(UserError, match="it has one layer"):
        roles(encoder(1))
