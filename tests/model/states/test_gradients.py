"""Gradients of the answer: the factor of the softmax's curvature, and first-order changes against real ones."""

import copy

import numpy as np
import pytest
import torch

from compressor.data.answers.kinds import SINGLE
from compressor.model.families import FAMILIES, layer_list
from compressor.model.states.gradients import ATTENDED, ENTERING, LEAVING, answer_gradients
from compressor.model.states.reading import head_logits, read_state


def test_two_classes_have_one_direction():
    logits = torch.tensor([[0.0, 0.0], [0.0, np.log(3.0)]])
    found = SINGLE.directions(logits)[..., 0]
    expected = torch.tensor([[0.5, 0.5], [3**0.5 / 4, 3**0.5 / 4]], dtype=logits.dtype)
    torch.testing.assert_close(found.abs(), expected)
    torch.testing.assert_close(found.sum(1).float(), torch.zeros(2), atol=1e-6, rtol=0)


def test_directions_are_a_factor_of_the_curvature():
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    shares, found = logits.softmax(-1), SINGLE.directions(logits)
    assert found.shape == (5, 4, 3)
    curvature = torch.diag_embed(shares) - shares[:, :, None] * shares[:, None]
    torch.testing.assert_close(found @ found.mT, curvature, atol=1e-6, rtol=1e-5)
    assert SINGLE.directions(logits, most=2).shape == (5, 4, 2)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_a_small_change_of_a_state_moves_the_answer_as_its_gradient_says(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    model = copy.deepcopy(model).double()
    wanted = [parameter.requires_grad for parameter in model.parameters()]
    layers, rows = len(layer_list(model, family)), []
    for batch in answer_gradients(model, family, encodings, batch_size=4):
        rows += batch.rows.tolist()
        assert set(batch.states) == {(n, s) for n in range(1, layers + 1) for s in (ENTERING, ATTENDED, LEAVING)}
        state, gradients = batch.states[layers, LEAVING], batch.gradients[layers, LEAVING]
        change = 1e-4 * torch.randn(state.shape, generator=torch.Generator().manual_seed(1), dtype=state.dtype)
        with torch.no_grad():
            before, after = (
                head_logits(model, family, read_state(model, family, moved, batch.mask))
                for moved in (state, state + change)
            )
        torch.testing.assert_close(before.float(), batch.logits, atol=1e-5, rtol=0)
        predicted = 0.5 * (gradients * change).sum((-1, -2)).square().sum(0)
        real = [SINGLE.divergence(before[[row]].numpy(), after[[row]].numpy()) for row in range(len(before))]
        np.testing.assert_allclose(predicted.numpy(), real, rtol=0.02)
    assert sorted(rows) == list(range(len(encodings)))
    assert [parameter.requires_grad for parameter in model.parameters()] == wanted
    assert all(parameter.grad is None for parameter in model.parameters())
