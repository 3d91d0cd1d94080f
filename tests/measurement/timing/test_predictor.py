"""Latency predicted from one timed layer, and the error once it is measured."""

import numpy as np
import pytest
import torch

from compressor.measurement.cost import layers_saved, predicted_ms, predicted_speedup
from compressor.measurement.timing import predictor
from compressor.measurement.timing.latency import Cell, grid_batches
from compressor.measurement.timing.predictor import prediction_errors, time_layers, typical_ms
from compressor.model.capture import apply_layer, capture_call
from compressor.model.families import layer_list
from compressor.model.surgery import leave_out

CELL = {"batch": 1, "length": 32, "full_ms": 10.0, "layer_ms": 1.5}


def test_prediction_by_hand():
    assert predicted_ms(CELL, 2) == pytest.approx(7.0)
    assert predicted_speedup(CELL, 2) == pytest.approx(10 / 7)
    assert predicted_speedup(CELL, 0) == 1.0
    assert predicted_speedup({**CELL, "layer_ms": 5.0}, 3) == pytest.approx(10)  # noise promises at most that


def test_layers_that_differ_count_each_by_its_own_median():
    times = [1, 5, 1, 5, 2, 9]  # two layers take turns: medians 1 and 5
    assert typical_ms(times, 2) == 3.0
    assert typical_ms(times, 1) == np.median(times)
    assert typical_ms([1, 5], 3) == 3.0  # a third layer never had its turn


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_parts_are_timed_in_the_layers_that_have_them(tiny, monkeypatch, model_type):
    model, family, _, _ = tiny(model_type)
    cut = leave_out(model, family, ["1.ffn", "2.attention"])
    # by hand: layers take 2, 3, 4 and 4 ms, without their feed-forward blocks 2, 1, 2 and 2
    taken = {"full": [20], "layer": [2, 3, 4, 4], "ffn": [2, 1, 2, 2], "attention": [1, 3, 3, 3]}
    monkeypatch.setattr(predictor, "measure", lambda subjects, *_, **__: {name: taken[name] * 3 for name in subjects})
    cell = Cell(2, 8, grid_batches(2, 8, 64, ["input_ids", "attention_mask"]))
    rows = time_layers(cut, family, [cell], min_seconds=0, parts=["ffn", "attention"])
    # three layers have a feed-forward block, and without it they save 2 ms each; three attend, and save 1
    assert (rows[0]["full_ms"], rows[0]["layer_ms"]) == (20, 3.25)
    assert rows[0]["parts_ms"] == pytest.approx({"ffn": 1.25, "attention": 2.25})


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_pieces_of_joined_parts_are_timed_and_add_up(tiny, monkeypatch, model_type):
    model, family, _, _ = tiny(model_type)
    taken = {"full": 20, "layer": 4, "heads:2": 3, "attention": 2.5, "ffn:8": 2, "ffn": 1.5}
    monkeypatch.setattr(predictor, "measure", lambda subjects, *_, **__: {name: [taken[name]] * 4 for name in subjects})
    cell = Cell(2, 8, grid_batches(2, 8, 64, ["input_ids", "attention_mask"]))
    parts = ["", "heads:2+ffn:8", "attention+ffn:8", "heads:2+ffn", "ffn"]
    row = time_layers(model, family, [cell], min_seconds=0, parts=parts)[0]
    assert row["parts_ms"] == {"heads:2": 3, "ffn:8": 2, "attention": 2.5, "ffn": 1.5}
    assert layers_saved(row, ["heads:2+ffn:8"]) == (1 + 2) / 4
    assert layers_saved(row, ["", "attention+ffn:8", "ffn"]) == 1 + 3.5 / 4 + 2.5 / 4


def test_errors_compare_like_with_like():
    row = {"batch": 1, "length": 32, "speedup": 1.25, "speedup_ci95": [1.2, 1.3]}
    latency = {"compressed": [row, {**row, "length": 128, "speedup": 9.0}, {**row, "length": "workload"}]}
    latency["full"] = [{**row, "speedup": 1.0, "speedup_ci95": None}]
    found = prediction_errors([CELL], ["", ""], latency)
    assert [entry["variant"] for entry in found[0]["measured"]] == ["compressed"]
    assert found[0]["measured"][0]["error"] == pytest.approx(10 / 7 / 1.25 - 1)
    assert (found[0]["size"], found[0]["batch"]) == (2, 1)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_one_layer_of_a_real_model_is_timed_beside_the_whole(tiny, model_type):
    model, family, _, _ = tiny(model_type)
    batch = grid_batches(2, 8, 64, ["input_ids", "attention_mask"])[0]
    call = capture_call(model, family, np.arange(2), batch)[0]
    with torch.inference_mode():
        tensors = {name: torch.from_numpy(values) for name, values in batch.items()}
        states = model(**tensors, output_hidden_states=True).hidden_states
    after = apply_layer(layer_list(model, family)[0], [call], [call.hidden])[0]
    np.testing.assert_allclose(after, states[1], atol=1e-6)
    rows = time_layers(model, family, [Cell(2, 8, [batch])], min_seconds=0, min_runs=6, max_seconds=5)
    assert rows[0]["runs"] == 6
    assert 0 < rows[0]["layer_ms"] < rows[0]["full_ms"]
