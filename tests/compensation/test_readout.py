"""Linear readouts: the penalised regression against scikit-learn, and a head that computes it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from compressor.compensation.heads.head import cross_entropy, fit_head, soft_targets
from compressor.compensation.heads.linear import fit_readout
from compressor.compensation.readout import STRENGTHS, linear_nodes, newton_readouts
from compressor.recipe.training import HeadSpec

ACTIVATIONS = torch.tanh, torch.relu, torch.nn.functional.gelu


def problem(rows: int, width: int, classes: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(rows, width, generator=generator, dtype=torch.float64)
    logits = states @ torch.randn(width, classes, generator=generator, dtype=torch.float64)
    return states, logits


@pytest.mark.parametrize("classes", [2, 4])
def test_the_readout_minimises_what_scikit_learn_minimises(classes):
    states, logits = problem(300, 6, classes)
    labels = (logits + torch.randn(300, classes, generator=torch.Generator().manual_seed(1))).argmax(1)
    targets = torch.nn.functional.one_hot(labels, classes).double()
    strength, weight, bias = list(newton_readouts(states, targets))[1]
    assert strength == STRENGTHS[1]
    scale = float(states.var(0, correction=0).mean())
    # for two classes scikit-learn penalises the difference of the weights, of which each class has half
    penalty = strength * scale * (0.5 if classes == 2 else 1.0)
    theirs = LogisticRegression(C=1 / (300 * penalty), tol=1e-10, max_iter=10_000)
    theirs.fit(states.numpy(), labels.numpy())
    ours = (states @ weight + bias).softmax(1).numpy()
    np.testing.assert_allclose(ours, theirs.predict_proba(states.numpy()), atol=4e-3)


def test_a_weaker_ridge_fits_the_text_better():
    states, logits = problem(200, 5, 3)
    targets = soft_targets((3 * logits).numpy())
    losses = [cross_entropy(states @ weight + bias, targets) for _, weight, bias in newton_readouts(states, targets)]
    assert all(after <= before for before, after in pairwise(losses))
    entropy = float(-(targets * targets.clamp_min(1e-300).log()).sum(1).mean())
    assert losses[-1] == pytest.approx(entropy, abs=0.02)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("classes", [2, 3])
def test_nodes_compute_the_readout_up_to_a_constant_of_the_row(activation, classes):
    states, _ = problem(400, 5, classes)
    states = 3 + 2 * states  # neither centred nor of unit variance
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn(5, classes, generator=generator, dtype=torch.float64)
    bias = torch.randn(classes, generator=generator, dtype=torch.float64)
    w1, b1, w2, b2 = linear_nodes(states, weight, bias, 8, activation)
    assert len(w1) == classes - 1
    made, wanted = activation(states @ w1.T + b1) @ w2.T + b2, states @ weight + bias
    made, wanted = (part - part.mean(1, keepdim=True) for part in (made, wanted))
    # tanh bends by a third of the square of its argument, at most 0.1 times 4 deviations
    assert float((made - wanted).abs().max()) < (0.08 if activation is torch.tanh else 1e-6) * float(wanted.abs().max())


def test_too_few_nodes_keep_the_directions_of_largest_spread():
    states, _ = problem(400, 3, 3)
    weight = torch.tensor([[10.0, -10.0, 0.0], [0.1, 0.1, -0.2], [0.0, 0.0, 0.0]], dtype=torch.float64)
    w1, *_ = linear_nodes(states, weight, torch.zeros(3, dtype=torch.float64), 1, torch.relu)
    assert w1.shape == (1, 3)
    assert abs(float(w1[0, 0])) > 50 * abs(float(w1[0, 1]))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_trainer_takes_the_strength_of_lowest_selection_loss(activation):
    states, logits = problem(120, 30, 3)
    noise = torch.randn(120, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    targets = soft_targets((logits + 4 * noise).numpy())
    held, held_logits = problem(500, 30, 3, seed=9)
    fit = fit_readout(states, targets, held, soft_targets(held_logits.numpy()), HeadSpec(trainer="readout"), activation)
    assert fit.epochs == len(STRENGTHS)
    assert fit.selection_loss[fit.best_epoch - 1] == min(fit.selection_loss)
    assert fit.best_epoch < len(STRENGTHS)  # the weakest ridge fits the noise
    loss = cross_entropy(fit.head.logits(held, activation), soft_targets(held_logits.numpy()))
    assert loss == pytest.approx(min(fit.selection_loss), abs=1e-9)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_trainer_starts_from_the_readout(activation):
    states, logits = problem(300, 8, 3)
    targets = soft_targets((2 * logits).numpy())
    held, held_logits = problem(300, 8, 3)
    held_targets = soft_targets((2 * held_logits).numpy())
    fit = fit_head(states, targets, held, held_targets, HeadSpec(nodes=8, epochs=3), activation)
    readout = fit_readout(states, targets, held, held_targets, HeadSpec(trainer="readout"), activation)
    uniform = float(np.log(3))
    assert fit.selection_loss[0] < 0.5 * (uniform + min(readout.selection_loss))
    assert min(fit.selection_loss) <= fit.selection_loss[0]
