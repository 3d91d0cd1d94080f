"""What gradients say of a layer, against models whose layers are taken back a little."""

import copy
from contextlib import ExitStack
from typing import get_args

import numpy as np
import pytest
import torch

from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import pad
from compressor.model.families import layer_list
from compressor.model.states.states import class_states
from compressor.recipe import compression
from compressor.selection.sensitivity import SENSITIVITIES, sensitivity
from compressor.selection.separability import trace_ratio

STEP = 1e-4
"""The share of a layer's update that is taken back."""


@pytest.fixture(scope="module", params=["bert", "distilbert"])
def known(tiny, request):
    model, family, encodings, _ = tiny(request.param)
    model = copy.deepcopy(model).double()
    labels = np.arange(len(encodings)) % 3
    states = class_states(model, family, encodings, labels, 3)
    return model, family, encodings, labels, states.moments


def run_taken_back(known, layer, step, module=None):
    """Return logits and trace ratio with `step` of the update of a layer, or of a module in it, taken back for each text."""
    model, family, encodings, labels, _ = known
    stack = layer_list(model, family)
    entering = []
    with ExitStack() as hooks, torch.inference_mode():
        pick = lambda _module, args, kwargs: entering.append(args[0] if args else kwargs["hidden_states"])  # noqa: E731
        hooks.callback(stack[layer - 1].register_forward_pre_hook(pick, with_kwargs=True).remove)
        target = stack[layer - 1] if module is None else stack[layer - 1].get_submodule(module)

        def back(_module, _args, made):
            state = made if isinstance(made, torch.Tensor) else made[0]
            moved = state - step * (state - entering.pop())
            return moved if isinstance(made, torch.Tensor) else (moved, *made[1:])

        hooks.callback(target.register_forward_hook(back).remove)
        moments = class_states(model, family, encodings, labels, 3).moments
        logits = []
        for row in range(len(encodings)):
            inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()}
            logits.append(model(**inputs).logits[0])
    return torch.stack(logits).numpy(), trace_ratio(moments.count, moments.mean[-1], moments.squares[-1])


def test_names_are_those_of_the_recipe():
    assert get_args(compression.Sensitivity) == SENSITIVITIES


def test_taking_back_a_little_of_a_layer_does_what_its_gradients_say(known, monkeypatch):
    model, family, encodings, labels, moments = known
    monkeypatch.setattr("compressor.selection.sensitivity.TOKENS", 5 * int(encodings.lengths.max()))
    found = sensitivity(model, family, encodings, labels, moments)
    assert tuple(found) == SENSITIVITIES
    for layer in (1, 3, 4):
        plain, _ = run_taken_back(known, layer, 0.0)
        less, less_apart = run_taken_back(known, layer, STEP)
        _, more_apart = run_taken_back(known, layer, -STEP)
        assert found["gauss_newton"][layer - 1] == pytest.approx(SINGLE.divergence(plain, less) / STEP**2, rel=0.02)
        assert found["downstream_gain"][layer - 1] == pytest.approx((more_apart - less_apart) / (2 * STEP), rel=0.01)
        attention, _ = run_taken_back(known, layer, STEP, family.attention_norm)
        wanted = SINGLE.divergence(plain, attention) / STEP**2
        assert found["gauss_newton_attention"][layer - 1] == pytest.approx(wanted, rel=0.02)


def test_bounds_are_above_what_they_bound(known):
    model, family, encodings, labels, moments = known
    found = {name: np.array(values) for name, values in sensitivity(model, family, encodings, labels, moments).items()}
    assert (found["token_gradient"] >= found["gauss_newton"]).all()
    # the sum of n numbers is at most the root of n times their squares' sum
    assert (found["downstream_separability"] * len(encodings) ** 0.5 >= np.abs(found["downstream_gain"])).all()
    doubled = np.repeat(np.arange(len(encodings)), 2)
    twice = encodings.take(doubled)
    moments = class_states(model, family, twice, labels[doubled], 3).moments
    again = sensitivity(model, family, twice, labels[doubled], moments)
    # each text twice: half the gradient each, twice the squares
    np.testing.assert_allclose(again["downstream_separability"], found["downstream_separability"] / 2**0.5, rtol=1e-6)
    np.testing.assert_allclose(again["token_gradient"], found["token_gradient"], rtol=1e-6)
    assert all(len(values) == 4 for values in found.values())


def test_without_labels_the_predictions_are_the_classes_and_a_part_stands_for_all(known):
    model, family, encodings, _, _ = known
    own = class_states(model, family, encodings, None, 3)
    given = sensitivity(model, family, encodings, own.logits.argmax(1), own.moments)
    assert sensitivity(model, family, encodings, None, own.moments) == given
    doubled = class_states(model, family, encodings.take(np.repeat(np.arange(len(encodings)), 2)), None, 3).moments
    of_half = sensitivity(model, family, encodings, None, doubled)
    for name, values in given.items():
        assert of_half[name] == pytest.approx(values, rel=1e-6)
