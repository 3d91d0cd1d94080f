"""What a part does to the answer: its shift against the divergence of the model without it; sets, batches, families."""

import copy

import numpy as np
import pytest
import torch
from tiny import APART

from compressor.compensation.refits.amounts import Amount, NarrowLayers, fit_amounts
from compressor.compensation.refits.shifts import answer_shifts
from compressor.data.answers.kinds import SINGLE
from compressor.measurement.predictions import predict
from compressor.model.families import layer_list
from compressor.model.states.gradients import ENTERING, LEAVING, answer_gradients
from compressor.model.surgery import leave_out
from compressor.selection.budget.mixes import Damages


def nudged(layer, family, place, count, size):
    """Return an amount that keeps all of a block and moves its output map a little."""
    output = layer.get_submodule(place)
    change = size * torch.randn(output.weight.shape, generator=torch.Generator().manual_seed(count))
    weight = output.weight.detach() + change.to(output.weight)
    bias = None if output.bias is None else output.bias.detach() + size
    return Amount(tuple(range(count)), tuple(range(count)), weight, bias, None, 0.0, 0.0, 0.0)


@pytest.mark.parametrize("model_type", APART)
def test_damage_is_the_divergence_of_the_changed_model_where_changes_are_small(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    model = copy.deepcopy(model).double()
    layers = layer_list(model, family)
    amounts = {(2, "heads:4"): nudged(layers[1], family, family.attention_output, 4, 1e-4)}
    amounts |= {(layer, "ffn:64"): nudged(layers[layer - 1], family, family.ffn_output, 64, 1e-4) for layer in (2, 3)}
    shifts = answer_shifts(model, family, encodings, amounts, batch_size=5)
    assert all(shift.shape == (len(encodings), model.config.num_labels - 1) for shift in shifts.values())
    damages, full = Damages.of(shifts), predict(model, encodings).astype(np.float64)
    narrow = NarrowLayers(model, family, amounts)
    for mix in (("2.heads:4",), ("2.ffn:64",), ("2.heads:4+ffn:64", "3.ffn:64")):
        found = SINGLE.divergence(full, predict(leave_out(model, family, mix, narrow), encodings).astype(np.float64))
        assert damages.together(mix) == pytest.approx(found, rel=0.1, abs=1e-10), mix


def test_a_whole_layer_is_its_update_taken_back(tiny):
    model, family, encodings, _ = tiny("bert")
    found = answer_shifts(model, family, encodings, {}, [3])
    assert set(found) == {(3, "")}
    batch = next(answer_gradients(model, family, encodings, batch_size=len(encodings)))
    update = batch.states[3, ENTERING] - batch.states[3, LEAVING]
    expected = (batch.gradients[3, LEAVING] * update).sum((-1, -2)).T
    np.testing.assert_allclose(found[3, ""][batch.rows], expected.numpy(), atol=1e-4)


def test_shifts_do_not_depend_on_the_batches(tiny):
    model, family, encodings, _ = tiny("bert")
    amounts = fit_amounts(model, family, encodings, {1: ["heads:2", "ffn:8"]})
    one, many = (answer_shifts(model, family, encodings, amounts, batch_size=size) for size in (24, 5))
    for key, shift in one.items():
        np.testing.assert_allclose(shift, many[key], atol=1e-5)


def test_products_of_shifts_by_hand():
    shifts = {(1, "ffn"): np.array([[1.0, 0.0], [0.0, 2.0]]), (2, ""): np.array([[1.0, 1.0], [0.0, -2.0]])}
    damages = Damages.of(shifts)
    assert damages.alone() == {(1, "ffn"): 0.5 * 5 / 2, (2, ""): 0.5 * 6 / 2}
    assert damages.together(("1.ffn", 2)) == pytest.approx(0.5 * (4 + 1 + 0) / 2)  # (2, 1) and (0, 0)
    assert damages.together(()) == 0.0
