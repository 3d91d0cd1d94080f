"""ALBERT from the checkpoint to the files: one layer, applied again and again, each time a module of its own in memory."""

import copy
import json
import subprocess
import sys
from contextlib import ExitStack
from itertools import combinations, pairwise

import numpy as np
import onnx
import pytest
import torch
from readouts import with_readout
from tiny import FRESH, TEXTS, save_model, sets
from transformers import AutoConfig, AutoModelForSequenceClassification

from compressor.compensation.distill import distill
from compressor.compensation.refits.amounts import fit_amounts
from compressor.compensation.refits.moments import text_moments
from compressor.compensation.refits.widths import mean_change
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import encode, pad
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.export.optimize import count_operators, share_weights
from compressor.measurement.cost import parameter_count, weight_bytes
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.predictor import time_layers
from compressor.model.capture import capture_calls, recorded
from compressor.model.checks import stock_shape
from compressor.model.families import FAMILIES, layer_kinds, layer_list
from compressor.model.load import find_model, load_classifier, load_model, load_tokenizer
from compressor.model.states.reading import head_logits, read_state
from compressor.model.states.states import class_states
from compressor.model.sublayers import cut_ffn, cut_part, shape_of
from compressor.model.surgery import drop_layers, leave_out, rolled
from compressor.model.surgery import save_model as save
from compressor.progress import silent
from compressor.recipe.compression import BudgetSpec, GoalsSpec, SelectionSpec
from compressor.recipe.file import load_recipe
from compressor.recipe.ship import ShipSpec
from compressor.recipe.training import DistillSpec
from compressor.run.checks import prepare
from compressor.selection.allowed import allowed_sets, count_sets, may_go
from compressor.selection.budget.units import check_budget, least_left, shared_mixes
from compressor.selection.search import SEARCHES, check_selection, find_plan
from compressor.selection.trials import Trials
from compressor.selection.trie import count_applications, walk_sets

FAMILY = FAMILIES["albert"]
KINDS = (None,) * 6
SETS = {1: (6,), 2: (5, 6), 3: (4, 5, 6), 4: (3, 4, 5, 6), 5: (2, 3, 4, 5, 6)}
"""Number of layers -> the one set of six that goes."""
LIMITS = {"min_seconds": 0, "max_seconds": 1, "min_runs": 1}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a model of six layers that are one, its texts and its directory."""
    folder = save_model(tmp_path_factory.mktemp("albert") / "full", "albert", layers=6)
    source = find_model(str(folder))
    return load_classifier(source), encode(TEXTS, load_tokenizer(source), 40), folder


def stock_of(folder, layers):
    """Return the stock class of the directory with another number of layers, as transformers itself makes it."""
    return AutoModelForSequenceClassification.from_pretrained(folder, num_hidden_layers=layers).eval()


def test_each_time_is_a_module_and_all_have_the_same_weights(made):
    model, encodings, folder = made
    stack, stock = layer_list(model, FAMILY), stock_of(folder, 6)
    assert len({id(layer) for layer in stack}) == len(stack) == 6
    for name in (FAMILY.attention_output, FAMILY.ffn_output, FAMILY.ffn_norm):
        assert len({id(layer.get_submodule(name)) for layer in stack}) == 6
    for first, *others in zip(*(layer.parameters() for layer in stack), strict=True):
        assert all(other is first for other in others)
    assert parameter_count(model) == parameter_count(stock)
    assert shape_of(model, FAMILY) == shape_of(stock, FAMILY) == stock_shape(stock.config.to_dict())
    np.testing.assert_array_equal(predict(model, encodings), predict(stock, encodings))
    moved = copy.deepcopy(model).double()  # all that changes parameters changes them once
    assert parameter_count(moved) == parameter_count(stock)


def test_states_are_those_behind_each_time(made):
    model, encodings, folder = made
    found = class_states(model, FAMILY, encodings, None, 3)
    assert found.sample.shape == (7, 24, 32)
    inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.arange(24)).items()}
    with torch.inference_mode():
        hidden = stock_of(folder, 6)(**inputs, output_hidden_states=True).hidden_states
    order = [int(np.abs(found.sample[-1] - row).sum(1).argmin()) for row in hidden[-1][:, 0].numpy()]
    assert sorted(order) == list(range(24))
    for state, wanted in zip(found.sample, hidden, strict=True):
        np.testing.assert_allclose(state[order], wanted[:, 0], atol=1e-5)
    assert all(np.abs(before - after).max() > 1e-3 for before, after in pairwise(hidden))


def test_one_set_of_each_size_may_go():
    assert layer_kinds({"model_type": "albert", "num_hidden_layers": 6}) == KINDS
    assert {size: list(allowed_sets(6, size, (), KINDS)) for size in SETS} == {size: [s] for size, s in SETS.items()}
    for size in range(7):
        expected = [skip for skip in combinations(range(1, 7), size) if len(skip) < 6 and may_go(skip, KINDS)]
        assert list(allowed_sets(6, size, (), KINDS)) == (expected if size < 6 else [])
        assert count_sets(6, size, (), KINDS) == len(expected)
    assert [count_sets(6, size, (4,), KINDS) for size in range(6)] == [1, 1, 1, 0, 0, 0]


def test_every_set_by_the_trie_is_the_stock_class_with_fewer_layers(made):
    model, encodings, folder = made
    calls, teacher = capture_calls(model, FAMILY, encodings, batch_size=5)
    order = torch.cat([call.rows for call in calls]).argsort()
    assert count_applications(6, [(), *SETS.values()]) == 6  # each set is where another begins
    for skip, hidden in walk_sets(list(layer_list(model, FAMILY)), calls, [(), *SETS.values()]):
        with torch.inference_mode():
            read = [read_state(model, FAMILY, state, call.mask) for state, call in zip(hidden, calls, strict=True)]
            found = head_logits(model, FAMILY, torch.cat(read)[order])
        wanted = predict(stock_of(folder, 6 - len(skip)), encodings)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        np.testing.assert_allclose(predict(drop_layers(model, FAMILY, skip), encodings), wanted, atol=1e-6)
        trial = Trials(model, FAMILY, calls, teacher)([skip], "a set")[0]
        assert trial.raw_kl == pytest.approx(SINGLE.divergence(teacher.numpy(), wanted), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("search", [name for name in SEARCHES if name != "fixed"])
def test_searches_find_the_set(made, search):
    model, encodings, _ = made
    calls, teacher = capture_calls(model, FAMILY, encodings)
    spec = SelectionSpec(search=search, layers=3, beam_width=2)
    plan = find_plan(Trials(model, FAMILY, calls, teacher), lambda size: SETS[size] if size else (), spec)
    assert (plan.skip, plan.keep, plan.sets_total) == ((4, 5, 6), (1, 2, 3), 1)
    assert {trial.skip for trial in plan.trace} <= {(), *SETS.values()}


def test_what_cannot_go_is_refused_with_what_can():
    with pytest.raises(
        UserError, match=r"selection.skip: \[2\] cannot .* one layer, applied again .* 1 layer can go \[6\]\.$"
    ):
        check_selection(SelectionSpec(search="fixed", skip=[2]), 6, None, KINDS)
    with pytest.raises(UserError, match=r"no set of 3 layers .* last ones stand for them all; .*: 1, 2\.$"):
        check_selection(SelectionSpec(layers=3, protect=[4]), 6, None, KINDS)
    with pytest.raises(UserError, match="without these layers no set can be skipped: layers of this family are one"):
        check_selection(SelectionSpec(layers="auto", protect=[6]), 6, GoalsSpec(max_flips=0.1), KINDS)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("selection={search: fixed, skip: [1, 3]}", "selection.skip: [1, 3] cannot be skipped"),
        ("selection={units: [ffn, width], budget: {keep: 0.5}}", "no block of any would be left; leave out ffn."),
        (
            "selection={units: [width], budget: {keep: 0.5}, protect: [1]}",
            "selection.protect: layers of albert models are",
        ),
        ("selection={units: [width], budget: {keep: 0.1}}", "selection.budget.keep: 0.1 cannot be reached"),
        ("selection.audit=true", "selection.audit: layers of albert models are one layer"),
        ("ship={units: [heads, attention]}", "ship.units: layers of albert models are one layer"),
        ("compensation.refit=closed_form", "compensation.refit: layers of albert models are one layer"),
        ("analysis=[errors, roles]", "roles compare the weights of layers; leave roles out."),
    ],
)
def test_what_would_be_done_to_all_layers_is_refused_before_work(tmp_path, tiny_task, command, value, sentence):
    folder = save_model(tmp_path / "full", "albert", layers=6, num_labels=2)
    values = sets(f"model.path={folder}", *(["selection={}"] if "ship" in value else []), value)
    code, _, stderr = command("run", tiny_task / "recipe.yaml", *values, "--out", tmp_path / "run")
    assert (code, sentence in stderr, stderr.count("\n")) == (2, True, 1), stderr
    assert not (tmp_path / "run").exists()


def test_roles_of_a_checkpoint_are_refused(made, command):
    code, _, stderr = command("analyze", "roles", made[2])
    assert (code, "its layers are one, applied again and again" in stderr, stderr.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_groups": 2}, "num_hidden_groups is 2; the stock class parts layers into groups"),
        ({"inner_group_num": 2}, "inner_group_num is 2; .* only 1, one layer for all, is served"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads says what single layers have lost"),
        ({"compressor": {"ffn_widths": [64] * 5 + [32]}}, "compressor says what single layers have lost"),
        ({"compressor": {"ffn_widths": [0] * 6}}, "compressor says what single layers have lost"),
    ],
)
def test_what_is_not_served_is_said(tmp_path, change, message):
    folder = save_model(tmp_path / "full", "albert", layers=6)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        find_model(str(folder))


def test_ship_takes_up_what_may_go_where_it_names_no_units(tmp_path, tiny_task):
    folder = save_model(tmp_path / "full", "albert", layers=6, num_labels=2)
    recipe = load_recipe(tiny_task / "recipe.yaml", [f"model.path={folder}", "selection={}", "ship={goal: near}"])
    assert {"ffn", "attention"} < {*recipe.ship.parts}
    assert prepare(recipe, tmp_path / "run", "cpu", silent).recipe.ship.parts == ["layer", "width", "heads"]
    exact = recipe.model_copy(update={"ship": ShipSpec(goal="exact")})
    assert prepare(exact, tmp_path / "run", "cpu", silent).recipe.ship.parts == []


def test_a_shorter_model_is_as_large_and_opens_everywhere(made, tmp_path):
    model, encodings, folder = made
    student = drop_layers(model, FAMILY, (4, 5, 6))
    save(student, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n")
    assert weight_bytes(tmp_path / "model") == weight_bytes(folder)  # what goes is time, no weight
    assert parameter_count(student) == parameter_count(model)
    config, wanted = AutoConfig.from_pretrained(tmp_path / "model"), predict(student, encodings)
    assert (config.num_hidden_layers, config.num_hidden_groups) == (3, 1)
    source = find_model(str(tmp_path / "model"))
    for opened in (load_classifier(source), load_model(tmp_path / "model"), stock_of(tmp_path / "model", 3)):
        np.testing.assert_allclose(predict(opened, encodings), wanted, atol=1e-6)
    public = load_model(tmp_path / "model")
    public.save_pretrained(tmp_path / "again")  # a stock model, which saves as one
    assert weight_bytes(tmp_path / "again") == weight_bytes(folder)
    inputs = {name: value.tolist() for name, value in pad(encodings, np.arange(24)).items()}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    arguments = [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(tmp_path / "inputs.json")]
    found = json.loads(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert (found["class"], found["layers"]) == ("AlbertForSequenceClassification", 3)
    np.testing.assert_allclose(found["logits"], predict(student, encodings, batch_size=24), atol=1e-6)


def test_one_layer_that_is_no_longer_the_others_is_not_saved(made):
    model, _, _ = made
    with pytest.raises(UserError, match=r"3\.ffn:8: layers of this family are one .* name the same part"):
        leave_out(model, FAMILY, ["3.ffn:8"])
    other = copy.deepcopy(model)
    cut_ffn(layer_list(other, FAMILY)[2], FAMILY, range(8))
    with pytest.raises(ValueError, match="layer 3 has weights of its own"):
        rolled(other)


def test_files_answer_like_the_model_and_hold_each_weight_once(made, tmp_path):
    model, encodings, folder = made
    made_of = {"short": [5, 6], "narrow": [*(f"{layer}.heads:2+ffn:40" for layer in range(1, 5)), 5, 6]}
    for name, units in made_of.items():
        save(leave_out(model, FAMILY, units), load_tokenizer(find_model(str(folder))), tmp_path / name, "# card\n")
    sizes = {}
    for name, directory, layers in (("full", folder, 6), *((name, tmp_path / name, 4) for name in made_of)):
        wanted = predict(stock_of(directory, layers), encodings)
        files = export_variants(directory, tmp_path / name, ["fp32", "alltokens", "optimized", "int8"])
        for variant, file in files.items():
            logits = predict_onnx(session(file.path), encodings)
            np.testing.assert_allclose(logits, wanted, atol=1.0 if variant == "int8" else 1e-4, err_msg=variant)
            sizes[name, variant] = [weight.dims for weight in onnx.load(file.path).graph.initializer]
        nodes = {"SkipLayerNormalization": 2 * layers}
        assert files["alltokens"].fused == {"Attention": layers, **nodes}
        assert files["optimized"].fused == {"Attention": layers - 1, **nodes}  # and the [CLS] row of the last time
        assert files["int8"].operators["MatMulIntegerToFloat"] > 2 * layers
        for variant, dims in (("fp32", [32, 64]), ("fp32", [64, 32]), ("alltokens", [32, 96])):
            own = [{64: 40, 96: 48}.get(size, size) if name == "narrow" else size for size in dims]
            assert sizes[name, variant].count(own) == 1, (name, variant, sizes[name, variant])
    for variant in ("fp32", "alltokens", "optimized"):
        assert sum(map(np.prod, sizes["full", variant])) == sum(map(np.prod, sizes["short", variant]))
    # in 8 bits layer 1 reads what no norm gave, the last time gives one row, and only shifts differ between the others
    for name in ("full", "short"):
        assert (sizes[name, "int8"].count([32, 96]), sizes[name, "int8"].count([32, 64])) == (2, 1)


def test_weights_of_the_very_same_numbers_are_kept_once(tmp_path):
    rows = np.ones((2, 2), np.float32)
    named = {"a": rows, "b": rows.copy(), "c": rows.T + np.float32(1e-7), "d": np.ones(4, np.float32)}
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Sum", ["x", "a", "b", "c"], ["s"]), onnx.helper.make_node("Concat", ["d", "d"], ["y"], axis=0)],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 2])],
        [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("s", "y")],
        [onnx.numpy_helper.from_array(values, name) for name, values in named.items()],
    )  # fmt: skip
    onnx.save_model(onnx.helper.make_model(graph), str(tmp_path / "model.onnx"))
    share_weights(tmp_path / "model.onnx")
    found = onnx.load(str(tmp_path / "model.onnx")).graph
    assert [weight.name for weight in found.initializer] == ["a", "c", "d"]  # 1e-7 apart is not the same
    assert list(found.node[0].input) == ["x", "a", "a", "c"]
    assert count_operators(tmp_path / "model.onnx") == {"Sum": 1, "Concat": 1}


def test_a_small_head_folds_into_the_pooler(made):
    model, encodings, _ = made
    folded, _ = with_readout(model, FAMILY, encodings)
    assert folded.albert.pooler.weight[2:].abs().max() == 0


@pytest.mark.slow
def test_distillation_trains_the_one_layer(made, tmp_path):
    model, encodings, folder = made
    student = drop_layers(model, FAMILY, (5, 6))
    before = {name: value.clone() for name, value in student.named_parameters()}
    spec = DistillSpec(epochs=4, batch_size=8, lr=1e-3, holdout=0.0, attended=True)
    fit = distill(model, student, FAMILY, [1, 2, 3, 4], encodings, spec)
    assert fit.losses[-1]["states"] < fit.losses[0]["states"]
    changed = [name for name, value in student.named_parameters() if not torch.equal(value, before[name])]
    assert any("ffn_output" in name for name in changed)
    assert not any("embedding" in name for name in changed)  # states start from the same place
    save(student, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n")  # all layers still are one
    np.testing.assert_allclose(
        predict(stock_of(tmp_path / "model", 4), encodings), predict(student, encodings), atol=1e-6
    )


@pytest.mark.slow
def test_a_run_with_an_early_exit_ends_in_a_stock_model(tiny_task, tmp_path, command):
    folder = save_model(tmp_path / "full", "albert", layers=4, num_labels=2)
    values = (
        f"model.path={folder}", "selection={search: exhaustive, layers: 2}", "analysis=[errors, ffn]",
        "compensation={distill: {epochs: 1}, head: {nodes: 4, epochs: 3}}", "export.variants=[optimized, int8]",
        "cascade={exits: [2], max_flips: 0.5, fit_size: 100}", "data.calibration.seen_in_training=false",
        "benchmark.workload=false",
    )  # fmt: skip
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run", "--json"
    )
    assert code == 0, stderr
    result = json.loads(stdout)
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


@pytest.mark.parametrize("stock", [True, False])
@pytest.mark.parametrize("part", ["ffn:24", "heads:3", "heads:2+ffn:40"])
def test_a_narrower_layer_is_narrower_each_time(made, tmp_path, part, stock):
    model, encodings, folder = made
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


def test_amounts_are_fitted_to_all_times_together(made):
    model, encodings, _ = made
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


def test_models_that_are_timed_lose_the_same_of_each_layer(made):
    model, _, _ = made
    built = {}

    def build(units, _all_rows):
        student = leave_out(model, FAMILY, units)
        built[tuple(units)] = {(own.ffn_widths[0], own.heads[0]) for own in shape_of(student, FAMILY).each()}
        return lambda _batch: None

    time_layers(build, shape_of(model, FAMILY), [], parts=["ffn:24", "heads:2"], spared=True, **LIMITS)
    narrower = [sizes for units, sizes in built.items() if any(isinstance(unit, str) for unit in units)]
    assert narrower == [{(24, 4)}, {(64, 2)}]


@pytest.mark.slow
def test_a_run_with_a_budget_narrows_all_layers_alike(tiny_task, tmp_path, command):
    folder = save_model(tmp_path / "full", "albert", layers=4, num_labels=2)
    values = (
        f"model.path={folder}",
        "selection={units: [layer, width, heads], widths: [0.5, 0.25], budget: {keep: 0.7}, beam_width: 2}",
        "export.variants=[optimized]", "benchmark.workload=false",
    )  # fmt: skip
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run", "--json"
    )
    assert code == 0, stderr
    result = json.loads(stdout)
    plan = result["plan"]
    assert plan["sets_total"] == 4 * 3 * 4 - 1
    assert plan["sets_evaluated"] <= 6
    assert all(len({*sizes}) == 1 for sizes in (plan["mix"]["heads"], plan["mix"]["ffn_widths"]))
    assert plan["mix"]["kept"] <= 0.7
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert stock.config.num_hidden_groups == 1
    assert shape_of(load_model(tmp_path / "run" / "model"), FAMILY).heads == tuple(plan["mix"]["heads"])
    assert result["parity"]["optimized"]["agreement"] == 1.0
