"""The one-pass [CLS] states against the hidden states that the model itself returns."""

import tracemalloc

import numpy as np
import pytest
import torch

from compressor.data.batches import pad
from compressor.model.families import FAMILIES
from compressor.model.states.reading import head_logits, read_state
from compressor.model.states.states import class_states, final_states


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_states_equal_the_models_own_hidden_states(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    found = class_states(model, family, encodings, None, 3, batch_size=5)
    for row in range(len(encodings)):
        inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()}
        with torch.inference_mode():
            output = model(**inputs, output_hidden_states=True)
            read = [read_state(model, family, state, inputs["attention_mask"]) for state in output.hidden_states]
        np.testing.assert_allclose(found.logits[row], output.logits[0], atol=1e-5)
        states = torch.cat(read).numpy()
        np.testing.assert_allclose(found.sample[:, row_in_sample(found, states)], states, atol=1e-4)


def row_in_sample(found, states):
    """Rows enter the sample in batch order, so look the row up by its last state."""
    return int(np.abs(found.sample[-1] - states[-1]).sum(1).argmin())


def test_teacher_labels_are_the_models_own_predictions(tiny):
    model, family, encodings, _ = tiny("bert")
    own = class_states(model, family, encodings, None, 3)
    given = class_states(model, family, encodings, own.logits.argmax(1), 3)
    np.testing.assert_array_equal(own.moments.squares, given.moments.squares)
    assert own.moments.count.sum() == len(encodings)


def test_sample_is_bounded_and_reproducible(tiny):
    model, family, encodings, _ = tiny("bert")
    first = class_states(model, family, encodings, None, 3, sample_rows=7, seed=3)
    again = class_states(model, family, encodings, None, 3, sample_rows=7, seed=3)
    assert first.sample.shape == (5, 7, 32)
    for seed in range(20):  # a full sample never grows, whatever is drawn
        assert class_states(model, family, encodings, None, 3, sample_rows=2, seed=seed).sample.shape[1] == 2
    np.testing.assert_array_equal(first.sample, again.sample)
    assert first.moments.count.sum() == len(encodings)


@pytest.mark.parametrize("model_type", list(FAMILIES))
def test_stock_head_on_the_final_state_gives_the_models_logits(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    states, logits = final_states(model, family, encodings)
    with torch.inference_mode():
        np.testing.assert_allclose(head_logits(model, family, torch.from_numpy(states)).numpy(), logits, atol=1e-5)


def test_memory_of_the_pass_does_not_grow_with_the_rows(tiny):
    model, family, encodings, _ = tiny("bert")

    def peak(copies):
        repeated = encodings.take(np.tile(np.arange(len(encodings)), copies))
        tracemalloc.start()
        class_states(model, family, repeated, None, 3, sample_rows=20, batch_size=8)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    peak(1)
    few, many = peak(2), peak(20)  # 48 and 480 rows
    # logits, lengths and their order are kept, 70 bytes a row here; its five states would be 640
    assert many - few < (480 - 48) * 100
