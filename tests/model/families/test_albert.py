"""ALBERT from the checkpoint to the files: one layer, applied again and again, each time a module of its own in memory."""

import copy
import json
import subprocess
import sys
from itertools import combinations, pairwise

import numpy as np
import onnx
import pytest
import torch
from albert import FAMILY, stock_of
from readouts import with_readout
from tiny import FRESH, save_model, sets
from transformers import AutoConfig

from compressor.compensation.distill import distill
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import pad
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.export.optimize import count_operators, share_weights
from compressor.measurement.cost import parameter_count, weight_bytes
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.capture import capture_calls
from compressor.model.checks import stock_shape
from compressor.model.families import layer_kinds, layer_list
from compressor.model.load import find_model, load_classifier, load_model, load_tokenizer
from compressor.model.states.reading import head_logits, read_state
from compressor.model.states.states import class_states
from compressor.model.sublayers import cut_ffn, shape_of
from compressor.model.surgery import drop_layers, leave_out, rolled
from compressor.model.surgery import save_model as save
from compressor.progress import silent
from compressor.recipe.compression import GoalsSpec, SelectionSpec
from compressor.recipe.file import load_recipe
from compressor.recipe.ship import ShipSpec
from compressor.recipe.training import DistillSpec
from compressor.run.checks import prepare
from compressor.selection.allowed import allowed_sets, count_sets, may_go
from compressor.selection.search import SEARCHES, check_selection, find_plan
from compressor.selection.trials import Trials
from compressor.selection.trie import count_applications, walk_sets

KINDS = (None,) * 6
SETS = {1: (6,), 2: (5, 6), 3: (4, 5, 6), 4: (3, 4, 5, 6), 5: (2, 3, 4, 5, 6)}
"""Number of layers -> the one set of six that goes."""


def test_each_time_is_a_module_and_all_have_the_same_weights(six_albert):
    model, encodings, folder = six_albert
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


def test_states_are_those_behind_each_time(six_albert):
    model, encodings, folder = six_albert
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


def test_every_set_by_the_trie_is_the_stock_class_with_fewer_layers(six_albert):
    model, encodings, folder = six_albert
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
def test_searches_find_the_set(six_albert, search):
    model, encodings, _ = six_albert
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


def test_roles_of_a_checkpoint_are_refused(six_albert, command):
    code, _, stderr = command("analyze", "roles", six_albert[2])
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


def test_a_shorter_model_is_as_large_and_opens_everywhere(six_albert, tmp_path):
    model, encodings, folder = six_albert
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


def test_one_layer_that_is_no_longer_the_others_is_not_saved(six_albert):
    model, _, _ = six_albert
    with pytest.raises(UserError, match=r"3\.ffn:8: layers of this family are one .* name the same part"):
        leave_out(model, FAMILY, ["3.ffn:8"])
    other = copy.deepcopy(model)
    cut_ffn(layer_list(other, FAMILY)[2], FAMILY, range(8))
    with pytest.raises(ValueError, match="layer 3 has weights of its own"):
        rolled(other)


def test_files_answer_like_the_model_and_hold_each_weight_once(six_albert, tmp_path):
    model, encodings, folder = six_albert
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


def test_a_small_head_folds_into_the_pooler(six_albert):
    model, encodings, _ = six_albert
    folded, _ = with_readout(model, FAMILY, encodings)
    assert folded.albert.pooler.weight[2:].abs().max() == 0


@pytest.mark.slow
def test_distillation_trains_the_one_layer(six_albert, tmp_path):
    model, encodings, folder = six_albert
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
