"""Layer roles: planted layers get the role they were made for, by hand-worked features, and draws say how surely."""

import json
import weakref
from dataclasses import asdict

import numpy as np
import pytest
import torch
from role_cases import FFN, HEADS, WIDTH, encoder, name, weights
from tiny import APART

from compressor.analysis.roles.features import (
    RESAMPLED,
    effective_rank,
    head_overlap,
    norm_concentration,
    resampled_ranks,
    singular_values,
)
from compressor.analysis.roles.roles import (
    CONTEXT,
    MARGIN,
    ROUTING,
    TIE,
    analyze_roles,
    passthrough_scores,
    role_scores,
    roles_of,
    standardise,
    winning,
)
from compressor.analysis.roles.weights import Weights, model_weights
from compressor.compensation.refits.neurons import co_magnitude, saturated_positions
from compressor.errors import UserError

PLANTED = 5


def roles(tensors, draws=40, seed=0, **config):
    return roles_of(weights(tensors, **config), draws=draws, seed=seed)


def kinds(analysis):
    return [(alarm.kind, alarm.layer) for alarm in analysis.alarms]


def test_effective_rank_by_hand():
    assert effective_rank(np.ones(7)) == pytest.approx(7)
    assert effective_rank(np.array([4.0, 0.0, 0.0])) == pytest.approx(1)
    assert effective_rank(np.array([2.0, 1.0, 1.0])) == pytest.approx(2**1.5)  # entropy 1.5 ln 2
    assert effective_rank(np.zeros(3)) == 0


@pytest.mark.parametrize("shape", [(20, 20), (20, 50), (50, 20)])
def test_singular_values_are_those_of_a_decomposition(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(singular_values(matrix), torch.linalg.svdvals(matrix), rtol=1e-5)
    assert singular_values(torch.ones(shape))[1:].max() == 0
    assert not singular_values(torch.zeros(shape)).any()


def test_co_magnitude_by_hand():
    reads, gate, writes = np.array([9.0, 1.0]), np.array([25.0, 4.0]), np.array([4.0, 16.0])
    assert co_magnitude([reads], writes).tolist() == [6.0, 4.0]
    assert co_magnitude([reads, gate], writes).tolist() == [15.0, 2.0]  # gated: the two that multiply each other
    assert saturated_positions(np.array([*[1.0] * 20, 9.0])).nonzero()[0].tolist() == [20]
    assert not saturated_positions(np.ones(5)).any()


def test_head_overlap_by_hand():
    matrix = torch.eye(4)
    assert head_overlap(matrix, 2).tolist() == [[1, 0], [0, 1]]  # heads write to different directions
    same = torch.cat([matrix[:, :2], matrix[:, :2] @ torch.tensor([[0.6, -0.8], [0.8, 0.6]])], dim=1)
    np.testing.assert_allclose(head_overlap(same, 2), 1, atol=1e-6)  # to the same ones, turned inside the head
    half = torch.stack([matrix[0], matrix[1], matrix[1], matrix[2]], dim=1)
    assert head_overlap(half, 2)[0, 1] == pytest.approx(0.5)
    assert np.isnan(head_overlap(torch.zeros(4, 4), 2)).all()


def test_norm_concentration_by_hand():
    assert norm_concentration(torch.ones(200)) == pytest.approx(0.01)
    scale = torch.ones(100)
    scale[3] = 11.0
    assert norm_concentration(scale) == pytest.approx(121 / 220)


def test_resampled_ranks_lie_around_the_rank_and_narrow_with_more_rows():
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    spread = {}
    for rows in (64, 512):
        matrix = torch.randn(rows, 16, generator=generator) @ torch.diag(torch.linspace(1, 0.05, 16))
        rank = effective_rank(torch.linalg.svdvals(matrix).numpy())
        draws = resampled_ranks(matrix, rank, 200, rng)
        assert draws.mean() == pytest.approx(rank, rel=1e-6)
        spread[rows] = draws.std()
    assert 0 < spread[512] < 0.6 * spread[64]
    np.testing.assert_allclose(resampled_ranks(torch.ones(64, 16), 1.0, 5, rng), 1)


def test_standardise_by_hand():
    values = np.array([[1.0, 2.0, 3.0], [5.0, 5.0, 5.0], [1.0, np.nan, 3.0]])
    found = standardise(values)
    np.testing.assert_allclose(found[0], [-(1.5**0.5), 0, 1.5**0.5])
    assert found[1].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(found[2], [-1, np.nan, 1])


def test_scores_and_ties_by_hand():
    given = {"attention_rank": np.array([[2.0, 0.0]]), "energy_balance": np.array([[0.0, 0.0]])}
    given |= {"write_ratio": np.array([[np.nan, 0.1]]), "magnitude_cv": np.array([[0.5, 0.0]])}
    scores = role_scores(given)
    assert scores["hub"][0, 0] == pytest.approx(1 / (1 + np.exp(-1)))
    assert scores["passthrough"][0, 0] == pytest.approx(1 / (1 + np.exp(0.5)))  # one of its features was measured
    assert np.isnan(scores["damper"][0, 0])
    assert winning(scores).tolist() == [[-2, -1]]  # 0.52 against 0.50 is no lead
    scores["damper"] = np.array([[0.0, 0.5 + MARGIN + 0.001]])
    assert winning(scores).tolist() == [[0, 1]]


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


def test_features_by_hand():
    tensors = encoder(3)
    first = {part: tensors[name(1, part)] for part in ("query", "key", "value", "attention_out", "ffn_in", "ffn_out")}
    features = {key: values[0] for key, values in roles(tensors, draws=2).features.items()}
    energy = {part: float(matrix.square().sum()) for part, matrix in first.items()}
    attention, ffn = sum(list(energy.values())[:4]), energy["ffn_in"] + energy["ffn_out"]
    assert features["attention_share"] == pytest.approx(attention / (attention + ffn), rel=1e-5)
    density = attention / (4 * WIDTH**2), ffn / (2 * WIDTH * FFN)
    assert features["energy_balance"] == pytest.approx(1 - abs(2 * density[0] / sum(density) - 1), rel=1e-5)
    assert features["total_write"] == pytest.approx((energy["attention_out"] + energy["ffn_out"]) ** 0.5, rel=1e-5)
    magnitude = first["ffn_in"].norm(dim=1) * first["ffn_out"].norm(dim=0)
    assert features["magnitude_cv"] == pytest.approx(float(magnitude.std(correction=0) / magnitude.mean()), rel=1e-5)
    ranks = [
        effective_rank(torch.linalg.svdvals(first[part]).numpy()) for part in ("attention_out", "ffn_in", "ffn_out")
    ]
    assert features["attention_rank"] == pytest.approx(ranks[0], rel=1e-5)
    assert features["ffn_rank"] == pytest.approx((ranks[1] + ranks[2]) / 2, rel=1e-5)


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
