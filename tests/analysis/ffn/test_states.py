"""States around the blocks, pooled as they pass; what a removal does, against models whose block gives that vector."""

import copy

import numpy as np
import pytest
import torch
from ffn_cases import moments_of
from tiny import ABSOLUTE
from torch import nn

from compressor.analysis.ffn.energy import energies
from compressor.analysis.ffn.removal import attention_entropy, run_removals
from compressor.analysis.ffn.states import FIELDS, PARTS, ffn_pass, recorded_blocks
from compressor.data.batches import pad
from compressor.model.families import FAMILIES, layer_list
from compressor.model.load import find_model, load_classifier


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_recorded_states_are_those_of_the_layers(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(6)).items()}
    with recorded_blocks(model, family) as taken, torch.inference_mode():
        hidden = model(**inputs, output_hidden_states=True).hidden_states
        blocks = taken()
    for layer, block, state in zip(layer_list(model, family), blocks, hidden[1:], strict=True):
        torch.testing.assert_close(block.after, state)
        norm = nn.Identity() if family.final_norm else layer.get_submodule(family.ffn_norm)
        torch.testing.assert_close(norm(block.before + block.raw), block.after)
    assert not any(module._forward_hooks for module in model.modules())


def test_blocks_that_run_in_chunks_of_the_sequence_are_recorded_whole(tiny):
    model, family, encodings, _ = tiny("bert")
    chunked = copy.deepcopy(model)
    for layer in layer_list(chunked, family):
        layer.chunk_size_feed_forward = 1
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(6)).items()}
    states = []
    for made in (model, chunked):
        with recorded_blocks(made, family) as taken, torch.inference_mode():
            made(**inputs)
            states.append(taken())
    for one, other in zip(*states, strict=True):
        for part, same in zip(one, other, strict=True):
            torch.testing.assert_close(part, same)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_the_pass_equals_the_definitions_on_every_token(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    labels, groups = np.arange(24) % 2, np.arange(24) % 4
    found = ffn_pass(model, family, encodings, labels, groups, 2, np.array([3, 20]), batch_size=5)
    rows = {"cls": [[], [], [], []], "tokens": [[], [], [], []]}
    for row in range(24):
        with recorded_blocks(model, family) as taken, torch.inference_mode():
            model(**{name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()})
            block = taken()[2]
        if row == 20:
            np.testing.assert_allclose(found.before[2, 1], block.before[0, 0], atol=1e-5)
            np.testing.assert_allclose(found.after[2, 1], block.after[0, 0], atol=1e-5)
        for kind, some in (("cls", slice(0, 1)), ("tokens", slice(None))):
            states = [state[0, some].double().numpy() for state in block]
            for values, state in zip(rows[kind], [*states, np.full(len(states[0]), labels[row])], strict=True):
                values.append(state)
    for kind, position in (("cls", found.cls), ("tokens", found.tokens)):
        before, raw, after, of = (np.concatenate(values) for values in rows[kind])
        assert position.count == len(before)
        series = {"change": after - before, "raw": raw, "norm": after - before - raw}
        for index, part in enumerate(PARTS):
            whole = moments_of(series[part], of)
            found_here = energies(position.moments.series([2 * 3 + index]))
            np.testing.assert_allclose(found_here, energies(whole), rtol=1e-5, atol=1e-9)
        fields = dict(zip(FIELDS, position.fields[2], strict=True))
        radial = (before * series["change"]).sum(1) / np.linalg.norm(before, axis=1)
        assert fields["radial"] == pytest.approx(radial.mean(), rel=1e-4)
        assert fields["radial_squared"] == pytest.approx(np.square(radial).mean(), rel=1e-4)
        assert fields["sum"] == pytest.approx(np.linalg.norm(before + raw, axis=1).mean(), rel=1e-5)
        # the three energies add up to that of the change, which was summed on its own
        assert energies(position.moments.series([6])).sum() == pytest.approx(fields["change"], rel=1e-6)
        assert fields["raw_change"] + fields["norm_change"] == pytest.approx(fields["change"], rel=1e-5)
    first, others, everything = found.raw_means()
    tokens = sum(len(ids) for ids in encodings.input_ids)
    np.testing.assert_allclose((24 * first + (tokens - 24) * others) / tokens, everything, atol=1e-9)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_removal_equals_a_model_whose_block_gives_that_vector(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    generator = np.random.default_rng(0)
    bias = np.repeat(generator.normal(size=(4, 1, 32)), 2, axis=1)
    run = run_removals(model, family, encodings, {"removed": 0 * bias, "mean_kept": bias}, batch_size=7)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(24)).items()}
    with torch.inference_mode():
        np.testing.assert_allclose(run.full, model(**inputs).logits, atol=1e-5)
        for kind, vectors in (("removed", 0 * bias), ("mean_kept", bias)):
            for layer in range(4):
                edited = copy.deepcopy(model)
                owner, _, leaf = family.ffn_output.rpartition(".")
                block = layer_list(edited, family)[layer].get_submodule(owner)
                output = copy.deepcopy(getattr(block, leaf))  # where layers are one, the others keep theirs
                setattr(block, leaf, output)
                output.weight.zero_()
                output.bias = nn.Parameter(torch.from_numpy(vectors[layer, 0]).float())
                np.testing.assert_allclose(run.logits[kind][layer], edited(**inputs).logits, atol=1e-4)


@pytest.mark.parametrize("model_type", ABSOLUTE)
def test_entropy_of_attention_equals_that_of_the_models_own_weights(tiny, model_type):
    _, family, encodings, folder = tiny(model_type)
    model = load_classifier(find_model(str(folder)))
    model.set_attn_implementation("eager")
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(8)).items()}
    mask = inputs["attention_mask"]
    with torch.inference_mode():
        output = model(**inputs, output_attentions=True, output_hidden_states=True)
        for layer, hidden, weights in zip(
            layer_list(model, family), output.hidden_states, output.attentions, strict=False
        ):
            each = -(weights * weights.clamp_min(1e-30).log()).sum(-1).mean(1)
            own = (each * mask).sum(1) / mask.sum(1)
            torch.testing.assert_close(
                attention_entropy(layer, hidden, family, mask).float(), own, atol=1e-4, rtol=1e-4
            )
