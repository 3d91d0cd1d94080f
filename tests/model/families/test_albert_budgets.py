"""ALBERT as whole runs: under a budget a narrower layer is narrower each time; an early exit leaves a stock model."""

import copy
from contextlib import ExitStack

import numpy as np
import pytest
import torch
from albert import FAMILY, stock_of
from tiny import save_model
from transformers import AutoConfig, AutoModelForSequenceClassification

from compressor.compensation.refits.amounts import fit_amounts
from compressor.compensation.refits.moments import text_moments
from compressor.compensation.refits.widths import mean_change
from compressor.data.batches import pad
from compressor.errors import UserError
from compressor.measurement.cost import parameter_count, weight_bytes
from compressor.measurement.predictions import predict
from compressor.measurement.timing.predictor import time_layers
from compressor.model.capture import recorded
from compressor.model.families import layer_list
from compressor.model.load import find_model, load_classifier, load_model, load_tokenizer
from compressor.model.sublayers import cut_part, shape_of
from compressor.model.surgery import drop_layers, leave_out
from compressor.model.surgery import save_model as save
from compressor.recipe.compression import BudgetSpec, SelectionSpec
from compressor.selection.budget.units import check_budget, least_left, shared_mixes

LIMITS = {"min_seconds": 0, "max_seconds": 1, "min_runs": 1}


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("part", ["ffn:24", "heads:3", "heads:2+ffn:40"])
def test_a_narrower_layer_is_narrower_each_time(six_albert, tmp_path, part, stock):
    model, encodings, folder = six_albert
    units = [*(f"{layer}.{part}" for layer in range(1, 5)), 5, 6]
    student = leave_out(model, FAMILY, units)
    assert len(set(shape_of(student, FAMILY).each())) == 1
    assert parameter_count(student) < parameter_count(model)
    cut, zeroed = copy.deepcopy(layer_list(model, FAMILY)[0]), copy.deepcopy(drop_layers(model, FAMILY, (5, 6)))
    cut_part(cut, FAMILY, part)
    one = layer_list(zeroed, FAMILY)[0]
    with torch.no_grad():
        for name in (FAMILY.attention_output, FAMILY.ffn_output):
            one.get_submodule(name).weight[:, cut.get_submodule(name).in_features :] = 0
    wanted = predict(zeroed, encodings)
    np.testing.assert_allclose(predict(student, encodings), wanted, atol=1e-5)
    save(student, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n", stock=stock)
    ours = load_classifier(find_model(str(tmp_path / "model")))
    assert shape_of(ours, FAMILY) == shape_of(student, FAMILY)
    assert parameter_count(ours) == parameter_count(student)
    np.testing.assert_allclose(predict(ours, encodings), predict(student, encodings), atol=1e-6)
    narrow = AutoConfig.from_pretrained(tmp_path / "model").intermediate_size
    assert narrow == shape_of(student, FAMILY).ffn_widths[0]
    if stock or "heads" not in part:  # with all heads there is nothing to fill up
        np.testing.assert_allclose(predict(stock_of(tmp_path / "model", 4), encodings), wanted, atol=1e-5)
    if "ffn" in part:
        assert weight_bytes(tmp_path / "model") < weight_bytes(folder)


def test_amounts_are_fitted_to_all_times_together(six_albert):
    model, encodings, _ = six_albert
    encodings = encodings.take(np.tile(np.arange(len(encodings)), 5))
    amounts = fit_amounts(model, FAMILY, encodings, {1: ["ffn:24"], 3: ["heads:2+ffn:40"]})
    assert set(amounts) == {(layer, piece) for layer in range(1, 7) for piece in ("ffn:24", "ffn:40", "heads:2")}
    assert all(amounts[layer, piece] is amounts[1, piece] for layer, piece in amounts)
    # the bias alone, by hand: what the neurons that go give on average, over all times and fitted rows
    kept = list(amounts[1, "ffn:24"].kept)
    gone = sorted({*range(64)} - {*kept})
    total, weights = torch.zeros(64, dtype=torch.float64), 0.0
    layers, rows = layer_list(model, FAMILY), np.arange(len(encodings))
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, rows).items()}
    mask = inputs["attention_mask"].bool() & torch.from_numpy(rows % 5 != 4)[:, None]
    with torch.inference_mode(), ExitStack() as stack:
        places = {"inside": (FAMILY.ffn_output, True), "sum": (FAMILY.ffn_norm, True)}
        seen = [stack.enter_context(recorded(layer, **places)) for layer in layers]
        model(**inputs)
    for one in seen:
        weight = 1 / (one["sum"].double().var(-1, correction=0) + 1e-12)
        weight[:, 0] *= 10
        total += (one["inside"].double() * weight[..., None])[mask].sum(0)
        weights += float(weight[mask].sum())
    output = layers[0].get_submodule(FAMILY.ffn_output)
    bias = output.bias.double() + output.weight.double()[:, gone] @ (total / weights)[gone]
    with torch.no_grad():
        sums = text_moments(model, FAMILY, encodings, [(1, False)], batch_size=16)[1, False]
    found = output.bias.double() + mean_change(sums, torch.tensor(kept))[-1]
    torch.testing.assert_close(found, bias, rtol=1e-5, atol=1e-5)


def test_mixes_of_one_layer_by_hand():
    savings = {(layer, part): np.array([0.1]) for layer in (1, 2) for part in ("", "heads:2", "ffn:8", "ffn:4")}
    assert set(shared_mixes(savings, 2)) == {
        ("1.ffn:8", "2.ffn:8"), ("1.ffn:4", "2.ffn:4"), ("1.heads:2", "2.heads:2"), ("1.heads:2+ffn:8", "2.heads:2+ffn:8"),
        ("1.heads:2+ffn:4", "2.heads:2+ffn:4"), (2,), ("1.ffn:8", 2), ("1.ffn:4", 2), ("1.heads:2", 2),
        ("1.heads:2+ffn:8", 2), ("1.heads:2+ffn:4", 2),
    }  # fmt: skip
    parts = {key: saved for key, saved in savings.items() if key[1]}
    assert len(shared_mixes(parts, 2)) == 5
    assert (
        shared_mixes({key: saved for key, saved in parts.items() if key[0] == 1}, 2) == []
    )  # of the other nothing may go
    spec = SelectionSpec(units=["width"], budget={"keep": 0.75})
    assert least_left(spec, parts, 2, one=True) == pytest.approx(0.6)
    with pytest.raises(UserError, match=r"0\.5 cannot be reached .* the least that can remain is 0\.600"):
        check_budget(spec.model_copy(update={"budget": BudgetSpec(keep=0.5)}), parts, 2, one=True)


def test_models_that_are_timed_lose_the_same_of_each_layer(six_albert):
    model, _, _ = six_albert
    built = {}

    def build(units, _all_rows):
        student = leave_out(model, FAMILY, units)
        built[tuple(units)] = {(own.ffn_widths[0], own.heads[0]) for own in shape_of(student, FAMILY).each()}
        return lambda _batch: None

    time_layers(build, shape_of(model, FAMILY), [], parts=["ffn:24", "heads:2"], spared=True, **LIMITS)
    narrower = [sizes for units, sizes in built.items() if any(isinstance(unit, str) for unit in units)]
    assert narrower == [{(24, 4)}, {(64, 2)}]


@pytest.mark.slow
def test_a_run_with_a_budget_narrows_all_layers_alike(tmp_path, finished):
    folder = save_model(tmp_path / "full", "albert", layers=4, num_labels=2)
    values = (
        f"model.path={folder}",
        "selection={units: [layer, width, heads], widths: [0.5, 0.25], budget: {keep: 0.7}, beam_width: 2}",
        "export.variants=[optimized]", "benchmark.workload=false",
    )  # fmt: skip
    result = finished(*values)
    plan = result["plan"]
    assert plan["sets_total"] == 4 * 3 * 4 - 1
    assert plan["sets_evaluated"] <= 6
    assert all(len({*sizes}) == 1 for sizes in (plan["mix"]["heads"], plan["mix"]["ffn_widths"]))
    assert plan["mix"]["kept"] <= 0.7
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert stock.config.num_hidden_groups == 1
    assert shape_of(load_model(tmp_path / "run" / "model"), FAMILY).heads == tuple(plan["mix"]["heads"])
    assert result["parity"]["optimized"]["agreement"] == 1.0


@pytest.mark.slow
def test_a_run_with_an_early_exit_ends_in_a_stock_model(tmp_path, finished):
    folder = save_model(tmp_path / "full", "albert", layers=4, num_labels=2)
    values = (
        f"model.path={folder}", "selection={search: exhaustive, layers: 2}", "analysis=[errors, ffn]",
        "compensation={distill: {epochs: 1}, head: {nodes: 4, epochs: 3}}", "export.variants=[optimized, int8]",
        "cascade={exits: [2], max_flips: 0.5, fit_size: 100}", "data.calibration.seen_in_training=false",
        "benchmark.workload=false",
    )  # fmt: skip
    result = finished(*values)
    assert result["plan"]["skip"] == [3, 4]
    assert result["plan"]["sets_total"] == 1
    assert len(result["layers"]) == 5
    assert len({row["separability"] for row in result["layers"]}) == 5  # each time has a state of its own
    assert result["tail"]["form"] is not None
    assert result["parity"]["optimized"]["agreement"] == 1.0
    assert result["cascade"] is not None
    full, short = (result["variants"][name] for name in ("full", "compressed"))
    assert short["parameters"] == full["parameters"]
    assert short["bytes"] == pytest.approx(full["bytes"], rel=0.01)
    assert short["encoder_flops"] == full["encoder_flops"] / 2
    config = AutoConfig.from_pretrained(tmp_path / "run" / "model")
    assert (config.num_hidden_layers, config.num_hidden_groups) == (2, 1)
