"""Amounts of every block in closed form: planted constants and norms are found again; guards; families."""

import numpy as np
import pytest
import torch
from gaps import gap, planted, sums_of, tiled
from tiny import MOVABLE

from compressor.compensation.refits import amounts as amounts_module
from compressor.compensation.refits.amounts import Known, NarrowLayers, fit_amounts
from compressor.compensation.refits.equations import NormalEquations
from compressor.compensation.refits.norms import NormSums, refit_norm
from compressor.compensation.refits.refit import refit_attention, refit_gaps
from compressor.compensation.refits.widths import (
    BlockSums,
    change_error,
    mean_change,
    nested_changes,
    ranked_heads,
    ranked_neurons,
)
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import apply_layer, fit_calls, recorded
from compressor.model.families import layer_list
from compressor.model.sublayers import shape_of
from compressor.model.surgery import leave_out
from compressor.model.units import heads_left, neurons_left, parts_of
from compressor.recipe.training import RefitSpec

RANKED = {"ranked_neurons": ranked_neurons, "ranked_heads": ranked_heads}


def test_a_constant_block_goes_at_no_loss(tiny):
    def constant(first, last):
        first.weight.zero_()
        first.bias.copy_(torch.linspace(-1, 2, 64))

    model, family, encodings = planted(tiny, constant)
    made = fit_amounts(model, family, encodings, {2: ["ffn", "ffn:1"]})
    for part in ("ffn", "ffn:1"):
        assert gap(model, family, encodings, made, 2, part) < 1e-3, part
        assert made[2, part].error_mean < 1e-6 < made[2, part].error_cut, part


def test_a_planted_norm_is_found_again():
    generator = torch.Generator().manual_seed(0)
    inside, weight = torch.randn(60, 8, generator=generator), torch.rand(60, generator=generator) + 0.1
    wanted = torch.nn.LayerNorm(8)
    norm = torch.nn.LayerNorm(8)
    with torch.no_grad():
        wanted.weight.copy_(torch.linspace(-1, 2, 8))
        wanted.bias.copy_(torch.linspace(3, -1, 8))
        fit, held, batch = (NormSums() for _ in range(3))
        for part in torch.arange(40).tensor_split(3):
            fit.add(inside[part], wanted(inside[part]), weight[part], norm.eps)
        batch.add(inside[:40], wanted(inside[:40]), weight[:40], norm.eps)
        held.add(inside[40:], wanted(inside[40:]), weight[40:], norm.eps)
    torch.testing.assert_close(fit.sums, batch.sums)
    before, after = refit_norm(norm, fit, held)
    assert after < 1e-10 < before
    torch.testing.assert_close(norm.weight, wanted.weight, atol=1e-5, rtol=0)
    torch.testing.assert_close(norm.bias, wanted.bias, atol=1e-5, rtol=0)


def test_a_norm_refit_that_held_out_rows_do_not_want_is_not_made():
    norm, fit, held = torch.nn.LayerNorm(4), NormSums(), NormSums()
    inside = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    fit.add(inside, -inside, torch.ones(9), norm.eps)
    held.add(inside, norm(inside).detach(), torch.ones(9), norm.eps)
    assert refit_norm(norm, fit, held) == (pytest.approx(0, abs=1e-9),) * 2
    assert norm.weight.tolist() == [1.0] * 4


def test_what_held_out_text_does_not_want_is_not_made():
    generator = torch.Generator().manual_seed(2)
    phi = torch.randn(40, 6, generator=generator)
    fit, output = sums_of(phi, torch.randn(6, 3, generator=generator)), torch.randn(6, 3, generator=generator)
    held = NormalEquations()  # activations that have nothing to do with one another, where the fit saw that they have
    related = phi + 5 * phi[:, :1]
    seen = sums_of(related, output)
    other = torch.randn(500, 6, generator=generator) * torch.tensor([9.0, 1, 1, 1, 1, 1])
    held.add(other, other.new_zeros(500, 0), torch.ones(500))
    sums = BlockSums(seen.fit, held, fit.cls, output, fit.gamma, fit.specialists)
    ((_, strength, change, error, mean),) = nested_changes(sums, torch.arange(6), [1])
    assert strength is None
    assert torch.equal(change, mean_change(sums, torch.tensor([0])))
    assert error == mean == change_error(sums, change)


PARTS = ["ffn", "attention", "ffn:16", "ffn:48", "heads:1", "heads:3", "heads:2+ffn:16", "attention+ffn:16"]


@pytest.mark.parametrize("model_type", MOVABLE)
def test_every_part_of_every_family(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = fit_amounts(model, family, tiled(encodings), {1: PARTS, 3: ["attention"], 4: []})
    pieces = {"ffn", "attention", "ffn:16", "ffn:48", "heads:1", "heads:2", "heads:3"}
    assert set(made) == {(1, piece) for piece in pieces} | {(3, "attention")}
    for key, found in made.items():
        assert found.error_refit <= min(found.error_mean, found.error_cut) + 1e-12, key
    assert made[1, "ffn:48"].error_refit < made[1, "ffn:16"].error_refit < made[1, "ffn"].error_refit
    assert made[1, "heads:3"].error_refit < made[1, "heads:1"].error_refit < made[1, "attention"].error_refit
    for name, value in model.state_dict().items():
        assert value.equal(before[name])
    narrow = NarrowLayers(model, family, made)
    for part in PARTS:
        student = leave_out(model, family, [f"1.{part}", "3.attention"], narrow)
        assert np.isfinite(predict(student, encodings)).all()
        shape = shape_of(student, family)
        assert (shape.heads[0], shape.ffn_widths[0]) == (heads_left(part, 4), neurons_left(part, 64))
        assert shape.heads[1:] == (4, 0, 4)


def test_sums_depend_neither_on_the_batches_nor_on_the_passes(tiny):
    model, family, encodings, _ = tiny("bert")
    wanted = {2: ["ffn:24", "ffn", "heads:2"], 3: ["ffn:24"]}
    options = {"batch_size": 3}, {"batch_size": 24}, {"budget": 1}  # many batches, one, and a pass for each block
    made = [fit_amounts(model, family, encodings, wanted, **each) for each in options]
    for key, found in made[0].items():
        for other in made[1:]:
            assert found.kept == other[key].kept
            assert found.error_refit == pytest.approx(other[key].error_refit, rel=1e-3), key
            torch.testing.assert_close(found.weight, other[key].weight, atol=1e-2, rtol=1e-2)
            torch.testing.assert_close(found.bias, other[key].bias, atol=1e-2, rtol=1e-2)


def test_what_is_known_of_fits_makes_the_same_amounts_without_looking_again(tiny, monkeypatch):
    model, family, encodings, _ = tiny("bert")
    wanted = {2: ["ffn:24", "ffn:8", "ffn", "heads:2"], 3: ["ffn:24"]}
    first = fit_amounts(model, family, encodings, wanted)
    figures = {}
    for (number, piece), amount in first.items():
        names = "strength", "error_cut", "error_mean", "error_refit"
        kept = figures.setdefault((number, piece.startswith("heads")), {})
        kept[len(amount.kept)] = {name: getattr(amount, name) for name in names}
    orders = {(number, piece.startswith("heads")): amount.order for (number, piece), amount in first.items()}
    known = {block: Known(order, figures[block]) for block, order in orders.items() if block != (3, False)}
    looked = []
    for name in ("ranked_neurons", "ranked_heads"):
        monkeypatch.setattr(amounts_module, name, lambda *args, real=RANKED[name]: looked.append(args) or real(*args))
    again = fit_amounts(model, family, encodings, wanted, known=known)
    assert len(looked) == 1, "layer 3 alone was not known"
    assert again.keys() == first.keys()
    for key, amount in first.items():
        other = again[key]
        assert (other.kept, other.order, other.strength) == (amount.kept, amount.order, amount.strength)
        assert (other.error_cut, other.error_mean, other.error_refit) == (
            amount.error_cut,
            amount.error_mean,
            amount.error_refit,
        )
        assert torch.equal(other.weight, amount.weight) and torch.equal(other.bias, amount.bias)


@pytest.mark.parametrize("part", ["ffn:64", "ffn:x", "head", "ffn:-3", "", "heads:4", "heads:0"])
def test_parts_that_are_not_there_are_refused(tiny, part):
    model, family, encodings, _ = tiny("bert")
    with pytest.raises(UserError, match="layer 2 cannot lose|is no part of a layer"):
        fit_amounts(model, family, encodings, {2: [part]})
    with pytest.raises(UserError, match="layer 5 does not exist"):
        fit_amounts(model, family, encodings, {5: ["ffn"]})
    with pytest.raises(UserError, match="data.calibration: 4 texts"):
        fit_amounts(model, family, encodings.take(np.arange(4)), {2: ["ffn"]})


def test_layers_that_lost_a_part_are_refitted_too(tiny):
    model, family, encodings, _ = tiny("bert")
    encodings = tiled(encodings, 10)
    calls = fit_calls(model, family, encodings, batch_size=8)
    units = ["1.ffn:16", "2.heads:2", "3.ffn", "4.attention"]
    wanted = {layer: [part] for layer, part in parts_of(units).items()}
    narrow = NarrowLayers(model, family, fit_amounts(model, family, encodings, wanted))

    def refitted(**spec):
        student = leave_out(model, family, units, narrow)
        return student, refit_gaps(model, student, family, [1, 2, 3, 4], calls, RefitSpec(**spec))

    student, done = refitted(layers="gaps")
    assert [(refit.layer, refit.block, refit.width) for refit in done] == [
        (1, "ffn", 16), (2, "ffn", 64), (3, "ffn", 0), (4, "ffn", 64)
    ]  # fmt: skip
    assert np.isfinite(done[2].condition)
    assert done[2].strength is not None
    assert done[2].error_after < done[2].error_before
    assert not list(layer_list(student, family)[2].output.dense.weight.flatten())
    student, done = refitted(layers="later", blocks="both")
    blocks = [(refit.layer, refit.block) for refit in done]
    assert blocks == [
        (1, "attention"), (1, "ffn"), (2, "attention"), (2, "ffn"), (3, "ffn"), (4, "attention"), (4, "ffn")
    ]  # fmt: skip
    assert all(refit.error_after <= refit.error_before for refit in done)
    assert [refit.target for refit in done] == [1, 1, 2, 2, 3, 4, 4]


def test_a_known_change_of_the_attention_output_is_undone(tiny):
    model, family, encodings, _ = tiny("bert")
    calls = fit_calls(model, family, tiled(encodings, 10), batch_size=8)
    damaged = leave_out(model, family, [])
    with torch.no_grad():
        output = layer_list(damaged, family)[1].get_submodule(family.attention_output)
        output.weight += 0.05 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0))
        output.bias += 0.1
    hidden = apply_layer(layer_list(model, family)[0], calls, [call.hidden for call in calls])
    wanted = []
    for call, states in zip(calls, hidden, strict=True):
        with recorded(layer_list(model, family)[1], attended=(family.attention_norm, False)) as seen:
            apply_layer(layer_list(model, family)[1], [call], [states])
        wanted.append(seen["attended"])
    with torch.no_grad():
        made = refit_attention(layer_list(damaged, family)[1], family, calls, hidden, wanted, 1.0)
    assert made.error_after < 0.02 * made.error_before
