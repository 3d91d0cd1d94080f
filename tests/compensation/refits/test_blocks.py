"""Stand-ins for layers without a part: planted neurons, constants and norms are found again; guards; every family."""

import copy

import numpy as np
import pytest
import torch

from compressor.compensation.refits.blocks import build_variants
from compressor.compensation.refits.equations import NormalEquations
from compressor.compensation.refits.norms import NormSums, refit_norm
from compressor.compensation.refits.refit import refit_gaps
from compressor.compensation.refits.widths import (
    RANKINGS,
    RIDGE,
    BlockSums,
    change_error,
    cut_change,
    mean_change,
    ranked_neurons,
    ridge_change,
)
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.capture import apply_layer, fit_calls
from compressor.model.families import FAMILIES, layer_list
from compressor.model.surgery import drop_layers
from compressor.recipe.training import RefitSpec


def calls_of(model, family, encodings, times=4):
    return fit_calls(model, family, encodings.take(np.tile(np.arange(len(encodings)), times)), batch_size=8)


def planted(tiny, change, layer=1):
    """Return (model, family, calls) of a copy whose layer (from 0) `change(first map, last map)` was applied to."""
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    found = layer_list(model, family)[layer]
    with torch.no_grad():
        change(found.get_submodule(family.ffn_input), found.get_submodule(family.ffn_output))
    return model, family, calls_of(model, family, encodings)


def gap(model, family, calls, number, module):
    """Return the largest difference between the outputs of a layer (from 1) and of its stand-in, over real tokens."""
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
    model, family, calls = planted(tiny, lambda first, last: last.weight[:, ::2].zero_())
    found = build_variants(model, family, calls, {2: ["ffn:32"]}, rank=rank)[2, "ffn:32"]
    assert found.error_cut < 1e-9
    assert gap(model, family, calls, 2, found.module) < 1e-4
    kept = found.module.intermediate.dense.weight
    assert torch.equal(kept, layer_list(model, family)[1].intermediate.dense.weight[1::2])


def test_equal_neurons_are_merged_exactly():
    phi = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    phi[:, 3] = phi[:, 1]
    output = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0], [3.0, 5.0]])
    sums, kept = sums_of(phi, output), torch.tensor([0, 1, 2])
    change = ridge_change(sums, kept, 1e-9)
    assert torch.allclose(change[1], torch.tensor([3.0, 5.0]).double(), atol=1e-5)
    assert torch.allclose(change[[0, 2, 4]], torch.zeros(3, 2).double(), atol=1e-5)
    assert torch.equal(change[3], torch.tensor([-3.0, -5.0]).double())
    assert change_error(sums, change) < 1e-9 < change_error(sums, mean_change(sums, kept))
    assert int(ranked_neurons(sums, "elimination")[-1]) in {1, 3}  # the first to go is one of the two


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

    model, family, calls = planted(tiny, one_strong)
    kept = build_variants(model, family, calls, {2: ["ffn:8"]})[2, "ffn:8"].module.intermediate.dense.weight
    assert bool((kept == layer_list(model, family)[1].intermediate.dense.weight[7]).all(dim=1).any())


def test_a_constant_block_goes_at_no_loss(tiny):
    def constant(first, last):
        first.weight.zero_()
        first.bias.copy_(torch.linspace(-1, 2, 64))

    model, family, calls = planted(tiny, constant)
    made = build_variants(model, family, calls, {2: ["ffn", "ffn:1"]})
    for part, found in ((part, made[2, part]) for part in ("ffn", "ffn:1")):
        assert gap(model, family, calls, 2, found.module) < 1e-3, part
        assert found.error_mean < 1e-6 < found.error_cut, part


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


def test_what_held_out_text_does_not_want_is_not_made(tiny, monkeypatch):
    model, family, encodings, _ = tiny("bert")
    calls = calls_of(model, family, encodings)
    wild = torch.linspace(-9, 9, 32).double()
    monkeypatch.setattr(
        "compressor.compensation.refits.widths.ridge_change", lambda sums, kept, _: cut_change(sums, kept) + wild
    )
    monkeypatch.setattr(NormalEquations, "solve", lambda self, strength: torch.full_like(self.cross, 9.0))
    monkeypatch.setattr(NormSums, "solve", lambda self: (torch.full((32,), 9.0), torch.zeros(32)))
    made = build_variants(model, family, calls, {2: ["ffn:60", "ffn", "attention"]})
    assert made[2, "ffn:60"].made != "refit"
    assert made[2, "ffn:60"].error_refit > made[2, "ffn:60"].error_cut
    for part in (
        "ffn",
        "attention",
    ):  # here every step of the refit is refused, so that the mean is all that is left of it
        assert made[2, part].error_refit == made[2, part].error_mean, part
        assert made[2, part].strength is None, part


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_every_part_of_every_family(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    calls = calls_of(model, family, encodings)
    wanted = {1: ["ffn", "attention", "ffn:16", "ffn:48"], 3: ["attention"], 4: []}
    made = build_variants(model, family, calls, wanted)
    assert set(made) == {(layer, part) for layer, parts in wanted.items() for part in parts}
    for key, found in made.items():
        errors = {"cut": found.error_cut, "mean": found.error_mean, "refit": found.error_refit}
        assert errors[found.made] == min(errors.values()), key
        assert found.error_refit < found.error_cut, key
    assert made[1, "ffn:48"].error_refit < made[1, "ffn:16"].error_refit
    for name, value in model.state_dict().items():
        assert value.equal(before[name])
    student = drop_layers(model, family, [])
    layer_list(student, family)[0] = made[1, "ffn"].module
    layer_list(student, family)[2] = made[3, "attention"].module
    assert np.isfinite(predict(student, encodings)).all()


def test_any_step_can_be_asked_for(tiny):
    model, family, encodings, _ = tiny("bert")
    calls = calls_of(model, family, encodings, 2)
    made = {
        step: build_variants(model, family, calls, {3: ["ffn"]}, step=step)[3, "ffn"]
        for step in ("cut", "mean", "refit")
    }
    assert [found.made for found in made.values()] == ["cut", "mean", "refit"]
    biases = [found.module.output.dense.bias for found in made.values()]
    assert torch.equal(biases[0], layer_list(model, family)[2].output.dense.bias)
    assert torch.equal(biases[1], biases[2])
    assert not torch.equal(biases[0], biases[1])


def test_sums_do_not_depend_on_the_batches(tiny):
    model, family, encodings, _ = tiny("bert")
    # one batch of all rows or many: the same rows are held out, and judge
    parts = [fit_calls(model, family, encodings, batch_size=size) for size in (3, 24)]
    made = [build_variants(model, family, calls, {2: ["ffn:24", "ffn", "attention"]}) for calls in parts]
    for key, found in made[0].items():
        assert found.error_refit == pytest.approx(made[1][key].error_refit, rel=1e-3), key
        for one, other in zip(found.module.parameters(), made[1][key].module.parameters(), strict=True):
            torch.testing.assert_close(one, other, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("part", ["ffn:64", "ffn:0", "ffn:x", "head", "ffn:-3", ""])
def test_parts_that_are_not_there_are_refused(tiny, part):
    model, family, encodings, _ = tiny("bert")
    calls = calls_of(model, family, encodings, 1)
    with pytest.raises(UserError, match="layer 2 cannot lose"):
        build_variants(model, family, calls, {2: [part]})
    with pytest.raises(UserError, match="layer 5 does not exist"):
        build_variants(model, family, calls, {5: ["ffn"]})


def test_layers_that_lost_a_part_are_refitted_too(tiny):
    model, family, encodings, _ = tiny("bert")
    calls = calls_of(model, family, encodings, 10)
    made = build_variants(model, family, calls, {1: ["ffn:16"], 3: ["ffn"]})

    def refitted(layers):
        student = drop_layers(model, family, [])
        for (layer, _), found in made.items():
            layer_list(student, family)[layer - 1] = copy.deepcopy(found.module)
        return student, refit_gaps(model, student, family, [1, 2, 3, 4], calls, RefitSpec(layers=layers))

    student, done = refitted("gaps")
    assert [(refit.layer, refit.target, refit.width) for refit in done] == [(1, 1, 16), (3, 3, 0)]
    assert np.isfinite(done[1].condition)
    assert done[1].strength is not None
    assert done[1].error_after < done[1].error_before
    assert not list(layer_list(student, family)[2].output.dense.weight.flatten())
    assert [refit.layer for refit in refitted("later")[1]] == [1, 2, 3, 4]
