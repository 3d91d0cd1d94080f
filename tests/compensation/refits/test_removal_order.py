"""Which heads and neurons go first: dead, equal and cheap ones, by hand and by planted blocks."""

import copy

import pytest
import torch
from gaps import gap, planted, sums_of, tiled

from compressor.compensation.refits.amounts import fit_amounts
from compressor.compensation.refits.equations import STRENGTHS, penalised
from compressor.compensation.refits.widths import (
    RANKINGS,
    RIDGE,
    change_error,
    cut_change,
    mean_change,
    nested_changes,
    ranked_heads,
    ranked_neurons,
)
from compressor.model.families import layer_list


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
