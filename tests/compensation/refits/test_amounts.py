"""Every amount of every block in closed form: planted neurons, heads, constants and norms are found again; guards; families."""

import copy

import numpy as np
import pytest
import torch
from tiny import MOVABLE

from compressor.compensation.refits import amounts as amounts_module
from compressor.compensation.refits.amounts import Known, NarrowLayers, fit_amounts
from compressor.compensation.refits.equations import STRENGTHS, NormalEquations, penalised
from compressor.compensation.refits.norms import NormSums, refit_norm
from compressor.compensation.refits.refit import refit_attention, refit_gaps
from compressor.compensation.refits.widths import (
    RANKINGS,
    RIDGE,
    BlockSums,
    change_error,
    cut_change,
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


def tiled(encodings, times=4):
    return encodings.take(np.tile(np.arange(len(encodings)), times))


def planted(tiny, change, layer=1):
    """Return (model, family, encodings) of a copy whose layer (from 0) `change(first map, last map)` was applied to."""
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    found = layer_list(model, family)[layer]
    with torch.no_grad():
        change(found.get_submodule(family.ffn_input), found.get_submodule(family.ffn_output))
    return model, family, tiled(encodings)


def gap(model, family, encodings, amounts, number, part):
    """Return the largest difference between the outputs of a layer (from 1) and of its stand-in, over real tokens."""
    calls, module = fit_calls(model, family, encodings), NarrowLayers(model, family, amounts)[number, part]
    hidden = [call.hidden for call in calls]
    for layer in layer_list(model, family)[: number - 1]:
        hidden = apply_layer(layer, calls, hidden)
    both = [apply_layer(each, calls, hidden) for each in (layer_list(model, family)[number - 1], module)]
    return max(float((a - b)[call.mask.bool()].abs().max()) for a, b, call in zip(*both, calls, strict=True))


def sums_of(phi, output, *, gamma=None, cls=None, specialists=()):
    """Return the sums of a block from activations [N, F], which are those of the held-out rows as well."""
    fit = NormalEquations()
    fit.add(phi, phi.new_zeros(len(phi), 0), torch.ones(len(phi)))
    protected = torch.zeros(phi.shape[1], dtype=torch.bool)
    protected[list(specialists)] = True
    cls = phi.double().square().mean(0) if cls is None else cls
    gamma = torch.ones(output.shape[1]) if gamma is None else gamma
    return BlockSums(fit, fit, cls, output, gamma, protected)


@pytest.mark.parametrize("rank", RANKINGS)
def test_dead_neurons_go_at_no_loss(tiny, rank):
    model, family, encodings = planted(tiny, lambda first, last: last.weight[:, ::2].zero_())
    made = fit_amounts(model, family, encodings, {2: ["ffn:32"]}, rank=rank)
    assert made[2, "ffn:32"].error_cut < 1e-9
    assert made[2, "ffn:32"].kept == tuple(range(1, 64, 2))
    assert gap(model, family, encodings, made, 2, "ffn:32") < 1e-4


def test_dead_heads_go_at_no_loss_and_the_others_stay_as_they_are(tiny):
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    layer = layer_list(model, family)[1]
    with torch.no_grad():
        layer.get_submodule(family.attention_output).weight[:, 8:24] = 0.0  # heads 2 and 3 of 4, 8 wide
    made = fit_amounts(model, family, tiled(encodings), {2: ["heads:2", "heads:1"]})
    assert made[2, "heads:2"].kept == (0, 3)
    assert made[2, "heads:2"].error_refit < 1e-9 < made[2, "heads:1"].error_refit
    assert set(made[2, "heads:1"].kept) < {0, 3}  # one elimination: amounts are nested
    assert gap(model, family, encodings, made, 2, "heads:2") < 1e-4


def solved(sums, order, count):
    """Return the change of `nested_changes` for one count."""
    ((_, _, change, *_),) = nested_changes(sums, torch.as_tensor(order), [count])
    return change


def test_equal_neurons_are_merged_exactly(monkeypatch):
    monkeypatch.setattr("compressor.compensation.refits.widths.STRENGTHS", (1e-9,))
    phi = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    phi[:, 3] = phi[:, 1]
    output = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0], [3.0, 5.0]])
    sums = sums_of(phi, output)
    change = solved(sums, [0, 1, 2, 3], 3)
    assert torch.allclose(change[1], torch.tensor([3.0, 5.0]).double(), atol=1e-4)
    assert torch.allclose(change[[0, 2, 4]], torch.zeros(3, 2).double(), atol=1e-4)
    assert torch.equal(change[3], torch.tensor([-3.0, -5.0]).double())
    assert change_error(sums, change) < 1e-7 < change_error(sums, mean_change(sums, torch.tensor([0, 1, 2])))
    assert int(ranked_neurons(sums, "elimination")[-1]) in {1, 3}  # the first to go is one of the two


def test_nested_amounts_are_ridge_regressions_of_their_own():
    generator = torch.Generator().manual_seed(1)
    phi = torch.randn(80, 6, generator=generator) @ torch.randn(6, 6, generator=generator) + 1
    sums, order = sums_of(phi, torch.randn(6, 3, generator=generator)), torch.tensor([4, 0, 5, 2, 1, 3])
    found = {
        count: (strength, change, error) for count, strength, change, error, _ in nested_changes(sums, order, range(7))
    }
    assert found[6][0] is None and not found[6][1].any()  # nothing goes
    assert torch.equal(found[0][1], mean_change(sums, order[:0]))  # nothing stays but the bias
    for count in range(1, 6):
        strength, change, error = found[count]
        assert strength in STRENGTHS
        system, stay = penalised(sums.fit.gram, strength * sums.fit.size()), [*order[:count].tolist(), 6]
        cut = cut_change(sums, order[:count])
        expected = torch.linalg.solve(system[stay][:, stay], -(sums.fit.gram[stay] @ cut))
        torch.testing.assert_close(change[stay], expected, rtol=1e-4, atol=1e-6)
        assert error == pytest.approx(change_error(sums, change))
        assert error <= change_error(sums, mean_change(sums, order[:count]))
    subset = {count: change for count, _, change, *_ in nested_changes(sums, order, [4])}
    assert torch.equal(subset[4], found[4][1])  # whatever else is asked for


def test_heads_go_in_the_order_of_what_they_cost_each_time():
    generator = torch.Generator().manual_seed(5)
    phi = torch.randn(300, 12, generator=generator) @ torch.randn(12, 12, generator=generator)
    output, gamma = torch.randn(12, 5, generator=generator), torch.rand(5, generator=generator) + 0.5
    sums = sums_of(phi, output, gamma=gamma)
    ridge = torch.eye(13).double() * RIDGE * sums.fit.size()
    ridge[12, 12] = 0
    inverse, scaled = torch.linalg.inv(sums.fit.gram + ridge), (output * gamma).double()
    gone = []
    while len(gone) < 4:  # slowly: try every head, solve anew for all that are gone

        def cost(head):
            lost = torch.cat([torch.arange(3 * each, 3 * each + 3) for each in (*gone, head)])
            return float((scaled[lost] * torch.linalg.solve(inverse[lost][:, lost], scaled[lost])).sum())

        gone.append(min((head for head in range(4) if head not in gone), key=cost))
    assert ranked_heads(sums, 3).flip(0).tolist() == gone


def test_errors_of_changes_by_hand():
    phi = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 5.0]])
    sums = sums_of(phi, torch.tensor([[1.0, 1.0], [1.0, 0.5]]), gamma=torch.tensor([2.0, 4.0]))
    kept = torch.tensor([0])
    # neuron 1 gives (phi, phi / 2), behind the norm (2 phi, 2 phi): 8 phi^2 each, phi^2 = 4, 4, 25
    assert change_error(sums, cut_change(sums, kept)) == pytest.approx(8 * 33 / 3)
    # less its mean 3: 1, 1, 4
    assert change_error(sums, mean_change(sums, kept)) == pytest.approx(8 * 6 / 3)
    assert mean_change(sums, kept)[-1].tolist() == [3.0, 1.5]


def test_importance_by_hand_and_specialists_first():
    phi = torch.tensor([[1.0, 4.0, 0.0, 0.5], [1.0, 4.0, 0.0, -0.5]])
    output = torch.tensor([[3.0, 4.0], [1.0, 0.0], [9.0, 9.0], [0.0, 2.0]])
    sums = sums_of(phi, output, cls=torch.tensor([4.0, 1.0, 0.0, 9.0]).double())
    assert RANKINGS["cls"](sums).tolist() == [10.0, 1.0, 0.0, 6.0]
    assert RANKINGS["tokens"](sums).tolist() == [5.0, 4.0, 0.0, 1.0]
    assert RANKINGS["spread"](sums).tolist() == [0.0, 0.0, 0.0, 1.0]
    assert ranked_neurons(sums, "cls").tolist() == [0, 3, 1, 2]
    sums = sums_of(phi, output, cls=sums.cls, specialists=[2, 1])
    assert ranked_neurons(sums, "cls").tolist() == [1, 2, 0, 3]


def test_elimination_removes_what_costs_least_each_time():
    generator = torch.Generator().manual_seed(3)
    phi = torch.randn(200, 9, generator=generator) @ torch.randn(9, 9, generator=generator)
    output, gamma = torch.randn(9, 3, generator=generator), torch.rand(3, generator=generator) + 0.5
    sums = sums_of(phi, output, gamma=gamma)
    ridge = torch.eye(10).double() * RIDGE * sums.fit.gram.diagonal()[:9].mean()
    ridge[9, 9] = 0
    inverse, scaled = torch.linalg.inv(sums.fit.gram + ridge), (output * gamma).double()
    gone = []
    while len(gone) < 9:  # slowly: try every neuron, solve anew for all that are gone

        def cost(neuron):
            lost = torch.tensor([*gone, neuron])
            return float((scaled[lost] * torch.linalg.solve(inverse[lost][:, lost], scaled[lost])).sum())

        gone.append(min((neuron for neuron in range(9) if neuron not in gone), key=cost))
    assert ranked_neurons(sums, "elimination").flip(0).tolist() == gone


def test_a_specialist_stays_although_it_is_silent_at_cls(tiny):
    def one_strong(first, last):
        first.weight[7] *= 40
        first.bias[7] = -1e4  # never active on this text
        last.weight[:, 7] *= 40

    model, family, encodings = planted(tiny, one_strong)
    assert 7 in fit_amounts(model, family, encodings, {2: ["ffn:8"]})[2, "ffn:8"].kept


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
