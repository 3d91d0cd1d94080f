"""Features of layers, worked by hand."""

import numpy as np
import pytest
import torch
from role_cases import FFN, WIDTH, encoder, name, roles

from compressor.analysis.roles.features import (
    effective_rank,
    head_overlap,
    norm_concentration,
    resampled_ranks,
    singular_values,
)
from compressor.analysis.roles.roles import MARGIN, role_scores, standardise, winning
from compressor.compensation.refits.neurons import co_magnitude, saturated_positions


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
