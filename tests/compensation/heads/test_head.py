"""The compensation head: trained, folded exactly into every family's stock head, refused where it cannot fit."""

import copy

import numpy as np
import pytest
import torch
from tiny import FOLDING

from compressor.compensation.heads.head import (
    Head,
    balanced_weights,
    check_nodes,
    fit_head,
    fold_error,
    fold_head,
    hard_targets,
    soft_targets,
    standardisation,
)
from compressor.compensation.heads.trainers import TRAINERS
from compressor.compensation.readout import crossfit_readout, ridge_readout
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.states.states import final_states
from compressor.recipe.training import HeadSpec


def random_head(nodes, width, classes):
    generator = torch.Generator().manual_seed(0)
    shapes = (width,), (nodes, width), (nodes,), (classes, nodes), (classes,)
    mean, w1, b1, w2, b2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    deviation = torch.rand(width, generator=generator, dtype=torch.float64) + 0.5
    return Head(mean, deviation, w1 / width**0.5, b1, w2 / nodes, b2)  # logits of about 1, so that 1e-6 means rounding


@pytest.mark.parametrize("model_type", FOLDING)
@pytest.mark.parametrize("nodes", [2, 8, 32])
def test_folded_head_is_the_head(tiny, model_type, nodes):
    model, family, encodings, _ = tiny(model_type)
    states, _ = final_states(model, family, encodings)
    head, folded = random_head(nodes, 32, 3), copy.deepcopy(model)
    fold_head(folded, family, head)
    assert fold_error(folded, family, head, torch.from_numpy(states)) < 1e-6
    # and through the whole model, not the head alone
    wanted = head.logits(torch.from_numpy(states), family.activation).numpy()
    np.testing.assert_allclose(predict(folded, encodings), wanted, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adamw"])
def test_head_learns_what_no_linear_map_can(optimizer):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(800, 8, generator=generator)
    labels = ((states[:, 0] > 0) ^ (states[:, 1] > 0)).long().numpy()
    targets = hard_targets(labels, 2)
    spec = HeadSpec(nodes=8, optimizer=optimizer, targets="gold", weight_decay=1e-4, epochs=300, patience=60, lr=0.02)
    fit = fit_head(states[:600], targets[:600], states[600:], targets[600:], spec, torch.tanh)
    right = fit.head.logits(states[600:], torch.tanh).argmax(1).numpy() == labels[600:]
    assert right.mean() > 0.85
    assert fit.selection_loss[fit.best_epoch - 1] == min(fit.selection_loss)


def test_same_seed_same_head_and_early_stopping_ends_training():
    states, logits = (
        torch.randn(60, 5, generator=torch.Generator().manual_seed(2)),
        np.random.default_rng(0).normal(size=(60, 3)),
    )
    targets = soft_targets(logits)
    spec = HeadSpec(nodes=4, epochs=200, patience=3)
    first, again = (fit_head(states, targets, -states, targets, spec, torch.relu, seed=7) for _ in range(2))
    assert torch.equal(first.head.w1, again.head.w1)
    assert first.epochs < 200
    assert first.epochs - first.best_epoch == 3


def test_quiet_dimensions_do_not_get_loud_weights():
    states = torch.tensor([[0.0, 3.0, 1e-5], [2.0, -3.0, -1e-5]])
    mean, deviation = standardisation(states)
    root_mean_square = ((1 + 9 + 1e-10) / 3) ** 0.5
    assert mean.tolist() == pytest.approx([1.0, 0.0, 0.0])
    assert deviation.tolist() == pytest.approx([root_mean_square, 3.0, root_mean_square])
    generator = torch.Generator().manual_seed(6)
    states = torch.randn(300, 16, generator=generator)
    states[:, 8:] *= 1e-4
    targets = hard_targets((states[:, 0] > 0).long().numpy(), 2)
    fit = fit_head(states, targets, states, targets, HeadSpec(nodes=4), torch.tanh)
    weights = (fit.head.w1 / fit.head.deviation).abs()
    assert weights[:, 8:].max() < weights[:, :8].max()


def test_class_weights_only_for_unbalanced_gold_classes():
    rare, even = hard_targets(np.array([0] * 9 + [1]), 2), hard_targets(np.array([0, 1]), 2)
    assert balanced_weights(rare, HeadSpec(targets="gold")).tolist() == pytest.approx([1 / 1.8, 5.0])
    assert balanced_weights(even, HeadSpec(targets="gold")) is None
    assert balanced_weights(rare, HeadSpec(targets="teacher")) is None
    assert balanced_weights(rare, HeadSpec(targets="gold", class_weights="none")) is None


def test_a_class_without_a_row_gets_no_weight_of_its_own():
    # 100 rows of two classes out of three: once the missing class had the weight 2 * 100 / 3 * ... = 66.7
    even = hard_targets(np.array([0, 1] * 50), 3)
    assert balanced_weights(even, HeadSpec(targets="gold")) is None
    assert balanced_weights(even, HeadSpec(targets="gold", class_weights="balanced")).tolist() == [1.0, 1.0, 1.0]
    rare = hard_targets(np.array([0] * 9 + [1]), 3)
    assert balanced_weights(rare, HeadSpec(targets="gold")).tolist() == pytest.approx([1 / 1.8, 5.0, 1.0])


def test_a_class_that_a_teacher_hardly_believes_in_gets_no_weight_of_its_own():
    soft = torch.tensor([[0.6, 0.4 - 1e-6, 1e-6], [0.4, 0.6 - 1e-6, 1e-6]], dtype=torch.float64)
    weights = balanced_weights(soft, HeadSpec(class_weights="balanced"))
    assert weights.tolist() == pytest.approx([1.0, 1.0, 1.0], abs=1e-5)


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_class_missing_from_the_fit_does_not_spoil_the_others(trainer):
    generator = np.random.default_rng(0)

    def rows(count, shares):
        labels = generator.choice(3, count, p=shares)
        states = generator.normal(size=(count, 6)) + 4 * np.eye(6)[labels]
        return torch.from_numpy(states).float(), labels

    states, labels = rows(400, [0.9, 0.1, 0])
    held, held_labels = rows(400, [0.8, 0.1, 0.1])
    spec = HeadSpec(nodes=4, targets="gold", epochs=30, trainer=trainer)
    fit = TRAINERS[trainer](states, hard_targets(labels, 3), held, hard_targets(held_labels, 3), spec, torch.tanh)
    known = held_labels < 2
    right = fit.head.logits(held, torch.tanh).argmax(1).numpy() == held_labels
    assert right[known].mean() > 0.97
    assert fit.class_weights[2] == 1.0


def test_more_nodes_than_the_stock_head_has_rows_are_refused():
    with pytest.raises(UserError, match="33 nodes do not fit"):
        check_nodes(33, 32)


def test_ridge_readout_finds_a_linear_map_and_shrinks_with_strength():
    generator = np.random.default_rng(3)
    states = torch.from_numpy(generator.normal(size=(200, 4)))
    truth, offset = torch.from_numpy(generator.normal(size=(4, 2))), torch.tensor([1.0, -2.0], dtype=torch.float64)
    weight, bias = ridge_readout(states, states @ truth + offset, strength=1e-9)
    np.testing.assert_allclose(weight, truth, atol=1e-6)
    np.testing.assert_allclose(bias, offset, atol=1e-6)
    shrunk, _ = ridge_readout(states, states @ truth + offset, strength=10.0)
    assert shrunk.abs().sum() < weight.abs().sum()
    centred, aim = states - states.mean(0), states @ truth  # against the formula, solved another way
    penalty = np.full(4, 10.0 * len(states) * float(centred.square().mean()))
    stacked = np.vstack([centred, np.diag(np.sqrt(penalty))])
    wanted = np.linalg.lstsq(stacked, np.vstack([aim - aim.mean(0), np.zeros((4, 2))]), rcond=None)[0]
    np.testing.assert_allclose(shrunk, wanted, atol=1e-9)


def test_crossfit_readout_cannot_fit_noise():
    generator = np.random.default_rng(4)
    states, noise = (torch.from_numpy(generator.normal(size=(100, size))) for size in (60, 2))
    weight, bias = ridge_readout(states, noise)
    own = (states @ weight + bias).argmax(1) == noise.argmax(1)
    held_out = crossfit_readout(states, noise).argmax(1) == noise.argmax(1)
    assert own.double().mean() > 0.75
    assert held_out.double().mean() < 0.65
    nothing = crossfit_readout(torch.ones(10, 3), noise[:10])  # states that say nothing give every row the mean
    torch.testing.assert_close(nothing[::2], noise[1:10:2].mean(0).expand(5, 2))
