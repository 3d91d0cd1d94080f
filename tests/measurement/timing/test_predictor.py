"""Latency predicted from the time of one layer, and the error once it is measured."""

import pytest

from compressor.measurement.cost import layers_saved, predicted_ms, predicted_speedup
from compressor.measurement.timing import predictor
from compressor.measurement.timing.latency import Cell, grid_batches
from compressor.measurement.timing.predictor import prediction_errors, time_layers
from compressor.measurement.timing.subjects import torch_subject
from compressor.model.sublayers import shape_of
from compressor.model.surgery import leave_out
from compressor.model.units import Shape

CELL = {"batch": 1, "length": 32, "full_ms": 10.0, "layer_ms": 1.5}


def test_prediction_by_hand():
    assert predicted_ms(CELL, 2) == pytest.approx(7.0)
    assert predicted_speedup(CELL, 2) == pytest.approx(10 / 7)
    assert predicted_speedup(CELL, 0) == 1.0
    assert predicted_speedup({**CELL, "layer_ms": 5.0}, 3) == pytest.approx(10)  # noise promises at most that


CELLS = [Cell(2, 8, grid_batches(2, 8, 64, ["input_ids", "attention_mask"]))]


def timed(monkeypatch, shape, taken, **options):
    """Return the row of a cell where what `build` makes takes as long as `taken` says: (units, all rows) -> ms."""
    monkeypatch.setattr(
        predictor, "measure", lambda subjects, *_, **__: {name: [taken[made]] * 4 for name, made in subjects.items()}
    )
    return time_layers(lambda units, rows: (tuple(units), rows), shape, CELLS, min_seconds=0, **options)[0]


def test_a_layer_takes_what_the_full_model_takes_longer_than_a_shorter_one(monkeypatch):
    # six layers of 3 ms and 2 ms beside them; the shorter model has two
    row = timed(monkeypatch, Shape.even(6, 16, 4), {((), False): 20.0, ((3, 4, 5, 6), False): 8.0})
    assert row == {"batch": 2, "length": 8, "full_ms": 20.0, "layer_ms": 3.0, "runs": 4}
    # of two layers, one stays; a single one is the whole model
    assert timed(monkeypatch, Shape.even(2, 16, 4), {((), False): 8.0, ((2,), False): 5.0})["layer_ms"] == 3.0
    assert timed(monkeypatch, Shape.even(1, 16, 4), {((), False): 5.0})["layer_ms"] == 5.0
    # a shorter model that took longer is noise: a layer takes something
    assert timed(monkeypatch, Shape.even(2, 16, 4), {((), False): 8.0, ((2,), False): 9.0})["layer_ms"] == 0.04


def test_parts_are_timed_in_two_layers_and_the_last_one_counts_for_its_row(monkeypatch):
    beyond = (3, 4, 5, 6)
    # the last layer takes 1 ms where one row of it is worked out, so both models that do are 2 ms faster
    taken = {((), False): 18.0, (beyond, False): 6.0, (beyond, True): 8.0}
    taken |= {((*beyond, "1.heads:2", "2.heads:2"), True): 7.0, ((*beyond, "1.ffn:8", "2.ffn:8"), True): 5.0}
    row = timed(monkeypatch, Shape.even(6, 16, 4), taken, parts=["", "heads:2+ffn:8"], spared=True)
    assert (row["layer_ms"], row["last_ms"], row["heads"], row["width"]) == (3.0, 1.0, 4, 16)
    assert row["parts_ms"] == {"heads:2": 2.5, "ffn:8": 1.5}
    assert layers_saved(row, ["1.heads:2+ffn:8"], 6) == pytest.approx((0.5 + 1.5) / 3)
    assert layers_saved(row, ["6.heads:2+ffn:8"], 6) == pytest.approx((0.5 + 1.5) / 3 / 3)
    # where the sixth goes, the fifth is the last; one that goes as a whole leaves another to be the last
    assert layers_saved(row, [6, "5.ffn:8"], 6) == pytest.approx(1 + 0.5 / 3)
    # 12 of 16 neurons lie half way between 8 and all
    assert layers_saved(row, ["1.ffn:12"], 6) == pytest.approx(0.25)


def test_parts_are_timed_in_the_layers_that_have_them(monkeypatch):
    # layer 1 has no feed-forward block, layer 2 no attention; so all four layers stay, none stands for the others
    shape = Shape((0, 16, 16, 16), (4, 0, 4, 4), 4)
    taken = {((), False): 14.0, ((2, 3, 4), False): 5.0, ((), True): 14.0}
    taken |= {(("2.ffn", "3.ffn", "4.ffn"), True): 8.0, (("1.attention", "3.attention", "4.attention"), True): 11.0}
    row = timed(monkeypatch, shape, taken, parts=["ffn", "attention"])
    assert (row["layer_ms"], row["parts_ms"]) == (3.0, {"ffn": 1.0, "attention": 2.0})
    assert "last_ms" not in row


def test_layers_and_parts_add_up():
    cell = {**CELL, "layer_ms": 4.0, "parts_ms": {"heads:2": 3, "ffn:8": 2, "attention": 2.5, "ffn": 1.5}}
    assert layers_saved(cell, ["1.heads:2+ffn:8"], 6) == (1 + 2) / 4
    assert layers_saved(cell, [1, "2.attention+ffn:8", "6.ffn"], 6) == 1 + 3.5 / 4 + 2.5 / 4


def test_errors_compare_like_with_like():
    row = {"batch": 1, "length": 32, "speedup": 1.25, "speedup_ci95": [1.2, 1.3]}
    latency = {"compressed": [row, {**row, "length": 128, "speedup": 9.0}, {**row, "length": "workload"}]}
    latency["full"] = [{**row, "speedup": 1.0, "speedup_ci95": None}]
    found = prediction_errors([CELL], [3, 4], 6, latency)
    assert [entry["variant"] for entry in found[0]["measured"]] == ["compressed"]
    assert found[0]["measured"][0]["error"] == pytest.approx(10 / 7 / 1.25 - 1)
    assert (found[0]["size"], found[0]["batch"]) == (2, 1)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_layers_of_a_real_model_are_timed_beside_the_whole(tiny, model_type):
    model, family, _, _ = tiny(model_type)

    def build(units, _all_rows):
        return torch_subject(leave_out(model, family, units))

    rows = time_layers(build, shape_of(model, family), CELLS, min_seconds=0, min_runs=6, max_seconds=5, parts=["ffn"])
    assert rows[0]["runs"] == 6
    assert 0 < rows[0]["layer_ms"] < rows[0]["full_ms"]
    assert rows[0]["parts_ms"]["ffn"] >= 0
