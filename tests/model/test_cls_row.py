"""The [CLS] row alone equals the row that the whole layer gives."""

import copy

import numpy as np
import pytest
import torch
from tiny import ABSOLUTE

from compressor.data.batches import pad
from compressor.model.capture import apply_layer, capture_call
from compressor.model.cls_row import FORMS, cls_row
from compressor.model.families import layer_list


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("model_type", ABSOLUTE)
def test_the_row_is_that_of_the_whole_layer_under_padding(tiny, model_type, form):
    model, family, encodings, _ = tiny(model_type)
    rows = np.array([0, 3, 5, 11])
    assert len(set(encodings.lengths[rows])) > 1
    call, _ = capture_call(model, family, rows, pad(encodings, rows))
    hidden = call.hidden
    for layer in layer_list(model, family):
        behind = apply_layer(layer, [call], [hidden])[0]
        with torch.inference_mode():
            row = cls_row(layer, family, hidden, call.mask, FORMS[form])
        torch.testing.assert_close(row, behind[:, :1], rtol=0, atol=2e-5)
        hidden = behind


@pytest.mark.parametrize("form", FORMS)
def test_pruned_heads_are_left_out(tiny, form):
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    model.prune_heads({0: [1], 1: [0, 2, 3]})
    call, _ = capture_call(model, family, np.arange(3), pad(encodings, np.arange(3)))
    hidden = call.hidden
    for layer in layer_list(model, family)[:2]:
        behind = apply_layer(layer, [call], [hidden])[0]
        with torch.inference_mode():
            row = cls_row(layer, family, hidden, call.mask, FORMS[form])
        torch.testing.assert_close(row, behind[:, :1], rtol=0, atol=2e-5)
        hidden = behind
