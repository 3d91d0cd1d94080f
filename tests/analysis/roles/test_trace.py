"""The trace of layer roles: what a layer does to states, and where Adam's first moment points."""

import copy

import numpy as np
import pytest
import torch
from tiny import TEXTS, save_model

from compressor.analysis.roles.roles import roles_of
from compressor.analysis.roles.trace import momentum_trace, probe_states, trace_roles
from compressor.analysis.roles.weights import model_weights
from compressor.data.batches import encode, pad
from compressor.errors import UserError
from compressor.model.families import FAMILIES, family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer

LABELS = np.arange(len(TEXTS)) % 3


def identity(layer, family):
    """Make a layer hand on its input: what it adds is 0, and its norms find a normed state."""
    with torch.no_grad():
        for part in (family.attention_output, family.ffn_output):
            layer.get_submodule(part).weight.zero_()
            layer.get_submodule(part).bias.zero_()


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_the_probe_by_hand(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    write, alignment = probe_states(model, family, encodings, batch_size=5)
    assert write.shape == alignment.shape == (len(encodings), 4)
    row = 7
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()}
    with torch.inference_mode():
        states = model(**inputs, output_hidden_states=True).hidden_states
    for layer in range(4):
        before, after = states[layer][0], states[layer + 1][0]
        change = (after - before).norm(dim=-1) / before.norm(dim=-1)
        assert write[row, layer] == pytest.approx(float(change.mean()), rel=1e-4)
        cosine = torch.nn.functional.cosine_similarity(before, after, dim=-1).mean()
        assert alignment[row, layer] == pytest.approx(float(cosine), abs=1e-5)


def test_an_identity_layer_hands_its_states_on_and_is_a_passthrough(tiny):
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    identity(layer_list(model, family)[2], family)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace = trace_roles(model, family, encodings, LABELS, steps=3, batch_size=8)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    np.testing.assert_allclose(trace.write[:, 2], 0, atol=1e-4)
    np.testing.assert_allclose(trace.alignment[:, 2], 1, atol=1e-6)
    assert trace.write[:, [0, 1, 3]].min() > 0.1
    analysis = roles_of(model_weights(model), trace=trace, draws=40)
    assert analysis.roles[2].role == "passthrough"
    assert analysis.trace == {"steps": 3, "texts": 24, "lr": 2e-5, "batch_size": 8}
    assert analysis.features["momentum_cosine"] == pytest.approx(trace.momentum.mean(axis=0).tolist())
    assert (
        analysis.intervals["alignment"][0][0]
        < analysis.features["alignment"][0]
        < analysis.intervals["alignment"][0][1]
    )


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_every_family_can_be_traced(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    trace = trace_roles(model, family, encodings, LABELS, steps=2, batch_size=12)
    assert trace.momentum.shape == (2, 4)
    assert np.isfinite(trace.momentum).all()
    assert (np.abs(trace.momentum) <= 1).all()


def test_the_first_moment_of_the_first_step_is_the_gradient(tmp_path):
    folder = save_model(tmp_path / "model", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    source = find_model(str(folder))
    model, family = load_classifier(source), family_of("bert")
    encodings = encode(TEXTS, load_tokenizer(source), 40)
    found = momentum_trace(copy.deepcopy(model), family, encodings, LABELS, steps=1, lr=1e-12, batch_size=24)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(24)).items()}
    torch.nn.functional.cross_entropy(model(**inputs).logits, torch.from_numpy(LABELS)).backward()
    for index, layer in enumerate(layer_list(model, family)):
        matrices = [part for part in layer.parameters() if part.ndim == 2]
        weights = torch.cat([part.detach().flatten() for part in matrices])
        gradient = torch.cat([part.grad.flatten() for part in matrices])
        cosine = torch.nn.functional.cosine_similarity(weights, gradient, dim=0)
        assert found[0, index] == pytest.approx(float(cosine), abs=1e-5)


def test_traces_are_seeded(tiny):
    model, family, encodings, _ = tiny("bert")
    given = {"steps": 4, "batch_size": 8}
    first, again, other = (
        trace_roles(model, family, encodings, LABELS, **given, seed=seed).momentum for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_trace_that_cannot_be_is_refused(tiny):
    model, family, encodings, _ = tiny("bert")
    with pytest.raises(UserError, match="no text to read"):
        trace_roles(model, family, encodings.take(np.arange(0)), LABELS[:0], steps=2)
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_submodule(family.output).weight.fill_(float("nan"))
    with pytest.raises(UserError, match="diverged in step 1"):
        momentum_trace(broken, family, encodings, LABELS, steps=2, lr=1e-3)
    trace = trace_roles(model, family, encodings, LABELS, steps=1)
    with pytest.raises(UserError, match="it has 2 layers, the traced model 4"):
        roles_of(model_weights(tiny("bert", 2)[0]), trace=trace)
