"""The charge-flow trainer: node by node in closed form, as good as gradients, the same every time."""

import copy

import numpy as np
import pytest
import torch
from tiny import FOLDING

from compressor.compensation.heads import chargeflow
from compressor.compensation.heads.chargeflow import (
    curved_directions,
    fit_charge_flow,
    principal_components,
    refit_readout,
    sloped_directions,
)
from compressor.compensation.heads.head import cross_entropy, fit_head, fold_error, fold_head, hard_targets
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.states.states import final_states
from compressor.recipe.training import HeadSpec

ACTIVATIONS = {"tanh": torch.tanh, "relu": torch.relu, "gelu": torch.nn.functional.gelu}


def gaussian(rows, width, seed=0):
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft_teacher(rows, width, classes, seed=0):
    """States, and probabilities that a linear map of them gives."""
    states = gaussian(rows, width, seed)
    return states.float(), (states @ gaussian(width, classes, 99) / 2).softmax(1)


def rows_of(states, targets):
    return chargeflow._rows(states.double(), targets.double())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_separable_classes_need_two_nodes(activation):
    states = gaussian(400, 12)
    targets = hard_targets((states @ gaussian(12, 1, 5)[:, 0] > 0).long().numpy(), 2)
    spec = HeadSpec(nodes=2, targets="gold", weight_decay=1e-5)
    fit = fit_charge_flow(states[:300], targets[:300], states[300:], targets[300:], spec, ACTIVATIONS[activation])
    assert len(fit.head.b1) <= 2
    assert min(fit.selection_loss) < 0.15
    right = fit.head.logits(states[300:], ACTIVATIONS[activation]).argmax(1) == targets[300:].argmax(1)
    assert right.double().mean() > 0.95


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_curved_directions_find_what_no_slope_shows(activation, monkeypatch):
    states = gaussian(800, 8, 1)
    labels = ((states[:, 0] > 0) ^ (states[:, 1] > 0)).long().numpy()
    targets = hard_targets(labels, 2)
    spec = HeadSpec(nodes=8, targets="gold", weight_decay=1e-4)
    act = ACTIVATIONS[activation]

    def share_right():
        fit = fit_charge_flow(states[:600], targets[:600], states[600:], targets[600:], spec, act)
        return (fit.head.logits(states[600:], act).argmax(1).numpy() == labels[600:]).mean()

    assert share_right() > (0.8 if activation == "relu" else 0.85)
    monkeypatch.setattr(chargeflow, "curved_directions", sloped_directions)
    assert share_right() < 0.7


def test_curved_direction_of_a_product_is_its_diagonal():
    states = gaussian(4000, 5, 2)
    targets = hard_targets((states[:, 1] * states[:, 3] > 0).long().numpy(), 2)
    rows = rows_of(states, targets)
    found = curved_directions(rows, torch.zeros(4000, 2), *principal_components(rows.states))
    unit = torch.nn.functional.normalize(found, dim=1).abs()
    assert unit[:, [1, 3]].square().sum(1).min() > 0.95
    assert unit[:, [1, 3]].min() > 0.55  # both along (1, 1) or (1, -1), not along an axis


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_sloped_direction_is_that_of_ridge_regression(classes):
    """With one class contrast (C = 2) the direction is the ridge solution itself; else it lies in its columns."""
    states, targets = soft_teacher(300, 6, classes)
    states = states.double() - states.double().mean(0)
    rows = rows_of(states, targets)
    found = sloped_directions(rows, torch.zeros(300, classes), *principal_components(rows.states))
    gram = states.T @ states / 300
    charge = (targets - 1 / classes) / 300
    for strength, direction in zip(chargeflow.STRENGTHS, found, strict=True):
        ridge = torch.linalg.solve(
            gram + strength * gram.diagonal().mean() * torch.eye(6, dtype=torch.float64), states.T @ charge
        )
        left = direction - ridge @ torch.linalg.lstsq(ridge, direction[:, None], driver="gelsd").solution[:, 0]
        assert left.norm() < 1e-6 * direction.norm()
        along = lambda d, ridge=ridge, charge=charge: (states.T @ charge).T @ (ridge @ d)  # noqa: E731
        if classes == 2:
            cosine = torch.nn.functional.cosine_similarity(direction, ridge[:, 0], dim=0)
            assert abs(cosine) == pytest.approx(1, abs=1e-9)
            assert along(torch.ones(2, dtype=torch.float64)).abs().max() < 1e-12


def test_first_readout_of_a_node_by_hand():
    """Newton's step for the node alone, on its centred activations: charge over curvature."""
    states = torch.tensor([[-2.0], [0.0], [2.0], [4.0]])
    targets = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6]])
    rows = rows_of(states, targets)
    logits = torch.zeros(4, 2, dtype=torch.float64)  # every row: weight 1/4, p = 1/2, curvature 1/4 * 1/2
    made = chargeflow._best_node(
        torch.ones(1, 1, dtype=torch.float64), ((0.5, 0.0),), rows, logits, rows, logits, torch.relu, 0.25
    )
    # deviation sqrt(5), mean 1: relu(0.5 (z - 1) / sqrt(5)) = 0, 0, 1, 3 times 0.5 / sqrt(5); their mean is 1
    scale = 0.5 / 5**0.5
    assert made.weight.tolist() == pytest.approx([scale])
    assert float(made.bias) == pytest.approx(-scale)
    charge = (-1 * 0.4 - 1 * 0.0 + 0 * -0.3 + 2 * -0.1) * scale / 4  # to the first class
    curvature = (1 + 1 + 0 + 4) * scale**2 / 8 + 2 * 0.25
    assert made.readout.tolist() == pytest.approx([charge / curvature, -charge / curvature])


@pytest.mark.parametrize("classes", [2, 4])
def test_readout_is_the_lowest_point_of_its_loss(classes):
    states, targets = soft_teacher(200, 3, classes, 4)
    rows = rows_of(states, targets)
    columns = torch.cat([torch.tanh(rows.states), torch.ones(200, 1, dtype=torch.float64)], dim=1)
    found = refit_readout(columns, rows, torch.zeros(4, classes, dtype=torch.float64), 0.01).requires_grad_()

    def objective(weights):
        return -(targets * (columns @ weights).log_softmax(1)).sum() / 200 + 0.01 * weights[:-1].square().sum()

    (gradient,) = torch.autograd.grad(objective(found), found)
    assert gradient.abs().max() < 1e-4
    assert objective(found) < objective(found + 0.01 * gaussian(4, classes))
    assert found.detach().sum(1).abs().max() < 1e-6  # what all classes share changes no probability


def test_far_start_does_not_lead_the_readout_astray():
    states, targets = soft_teacher(200, 3, 2, 4)
    rows = rows_of(states, targets)
    columns = torch.cat([rows.states, torch.ones(200, 1, dtype=torch.float64)], dim=1)
    near, far = (refit_readout(columns, rows, start * gaussian(4, 2, 8), 0.01) for start in (0.0, 30.0))
    assert rows.loss(columns @ far) == pytest.approx(float(rows.loss(columns @ near)), abs=1e-3)


@pytest.mark.parametrize("classes", [2, 3])
def test_as_good_as_the_gradient_head(classes):
    states, targets = soft_teacher(1200, 24, classes, 3)
    parts = states[:500], targets[:500], states[500:800], targets[500:800]
    losses, agreements = [], []
    for train in (fit_head, fit_charge_flow):
        logits = train(*parts, HeadSpec(nodes=8), torch.tanh).head.logits(states[800:], torch.tanh)
        losses.append(cross_entropy(logits, targets[800:]))
        agreements.append(float((logits.argmax(1) == targets[800:].argmax(1)).double().mean()))
    assert losses[1] < losses[0] + 0.02
    assert agreements[1] > agreements[0] - 0.03


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [2, 3])
def test_few_rows_same_head_and_true_figures(activation, classes):
    states, targets = soft_teacher(90, 32, classes, 6)
    parts = states[:60], targets[:60], states[60:], targets[60:]
    act = ACTIVATIONS[activation]
    first, again = (fit_charge_flow(*parts, HeadSpec(nodes=8), act, seed=seed) for seed in (0, 7))
    for name in ("mean", "deviation", "w1", "b1", "w2", "b2"):
        assert torch.equal(getattr(first.head, name), getattr(again.head, name))
    nodes = first.best_epoch
    shapes = [tuple(getattr(first.head, name).shape) for name in ("w1", "b1", "w2", "b2")]
    assert shapes == [(nodes, 32), (nodes,), (classes, nodes), (classes,)]
    assert first.epochs == len(first.selection_loss) <= 8
    # what the head says is the loss that was reported for its count of nodes
    loss = cross_entropy(first.head.logits(parts[2], act), parts[3])
    assert loss == pytest.approx(first.selection_loss[nodes - 1], abs=1e-9)
    assert loss <= min(first.selection_loss) * (1 + chargeflow.FALL)
    constant = cross_entropy(targets[:60].mean(0).log().expand(30, -1), parts[3])
    assert loss < constant


def test_building_stops_where_nodes_no_longer_help():
    states, targets = soft_teacher(80, 30, 2, 9)
    noise = soft_teacher(80, 30, 2, 10)[1]
    fit = fit_charge_flow(states, targets, states, noise, HeadSpec(nodes=16), torch.tanh)
    assert fit.epochs == fit.best_epoch + chargeflow.PATIENCE < 16


def test_rare_gold_classes_are_balanced():
    states = gaussian(600, 4, 11)
    targets = hard_targets((states[:, 0] + 0.8 * gaussian(600, 1, 12)[:, 0] > 1.9).long().numpy(), 2)
    assert targets[:, 1].mean() < 0.12
    predicted = {}
    for weights in ("balanced", "none"):
        spec = HeadSpec(nodes=2, targets="gold", class_weights=weights)
        fit = fit_charge_flow(states, targets, states, targets, spec, torch.tanh)
        predicted[weights] = int(fit.head.logits(states, torch.tanh).argmax(1).sum())
        assert (fit.class_weights is None) == (weights == "none")
    assert predicted["balanced"] > 1.5 * predicted["none"]


def test_states_that_never_change_give_the_shares_of_the_classes():
    targets = hard_targets(np.array([0, 0, 0, 1] * 5), 2)
    states = torch.ones(20, 3)
    fit = fit_charge_flow(states, targets, states, targets, HeadSpec(nodes=2, targets="gold"), torch.tanh)
    shares = fit.head.logits(states, torch.tanh).softmax(1)[0]
    assert shares.tolist() == pytest.approx([0.75, 0.25], abs=1e-3)


@pytest.mark.parametrize("model_type", FOLDING)
def test_folds_like_any_head(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    states, logits = final_states(model, family, encodings)
    targets = torch.from_numpy(logits).double().softmax(1).roll(1, 1)  # not what the stock head says
    states = torch.from_numpy(states)
    fit = fit_charge_flow(states, targets, states, targets, HeadSpec(nodes=4), family.activation)
    folded = copy.deepcopy(model)
    fold_head(folded, family, fit.head)
    assert fold_error(folded, family, fit.head, states) < 1e-5
    np.testing.assert_allclose(
        predict(folded, encodings), fit.head.logits(states, family.activation).numpy(), atol=1e-5
    )


def test_more_nodes_than_the_stock_head_has_rows_are_refused():
    states, targets = soft_teacher(10, 4, 2)
    with pytest.raises(UserError, match="5 nodes do not fit"):
        fit_charge_flow(states, targets, states, targets, HeadSpec(nodes=5), torch.tanh)
