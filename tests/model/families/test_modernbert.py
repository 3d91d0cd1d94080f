"""ModernBERT from the checkpoint to the files: kinds by place, a stream without norms, gated neurons, both poolings."""

import copy
import json
import subprocess
import sys
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from readouts import with_readout
from tiny import FRESH, TEXTS, save_model, sets
from transformers import AutoConfig, AutoModelForSequenceClassification, ModernBertForMaskedLM

from compressor.analysis.ffn.removal import run_removals
from compressor.compensation.refits.neurons import co_magnitude, saturated_positions, specialists
from compressor.compensation.refits.refit import refit_gaps
from compressor.data.answers.kinds import SINGLE
from compressor.data.batches import encode, pad
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.export.optimize import expected_nodes
from compressor.measurement.cost import shape_flops
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.capture import capture_calls, fit_calls
from compressor.model.families import FAMILIES, layer_kinds, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer, read_config
from compressor.model.states.reading import head_logits, read_state
from compressor.model.states.states import class_states, final_states
from compressor.model.sublayers import cut_ffn, shape_of
from compressor.model.surgery import drop_layers, leave_out
from compressor.model.surgery import save_model as save
from compressor.model.units import kept_period
from compressor.recipe.compression import GoalsSpec, SelectionSpec
from compressor.recipe.training import RefitSpec
from compressor.selection.allowed import allowed_sets, count_sets, may_go
from compressor.selection.search import SEARCHES, check_selection, find_plan, most_sets
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import walk_sets

FAMILY = FAMILIES["modernbert"]
KINDS = (True, False, False, True, False, False)
"""Six layers, every third global."""
SETS = {
    # without 4, one global layer leads whatever local ones stay; with it, no more may follow it than stand in front of it
    1: [(4,), (5,), (6,)],
    2: [(2, 4), (2, 5), (2, 6), (3, 4), (3, 5), (3, 6), (4, 5), (4, 6), (5, 6)],
    3: [(2, 3, 4), (2, 4, 5), (2, 4, 6), (2, 5, 6), (3, 4, 5), (3, 4, 6), (3, 5, 6), (4, 5, 6)],
    4: [(2, 3, 4, 5), (2, 3, 4, 6), (2, 3, 5, 6), (2, 4, 5, 6), (3, 4, 5, 6)],
    5: [(2, 3, 4, 5, 6)],
}  # fmt: skip
EVERY = [skip for some in SETS.values() for skip in some]
UNITS = ["2.heads:2+ffn:16", "3.attention+ffn:8", "4.ffn", 6]


@pytest.fixture(scope="module", params=["cls", "mean"])
def made(request, tmp_path_factory):
    """Return a model of six layers, its texts (tiled, so that fits have rows) and its directory, for each pooling."""
    folder = save_model(
        tmp_path_factory.mktemp("mb") / request.param, "modernbert", layers=6, classifier_pooling=request.param
    )
    source = find_model(str(folder))
    return load_classifier(source), encode(TEXTS, load_tokenizer(source), 40), folder


def test_sets_of_six_layers_by_hand():
    assert layer_kinds({"model_type": "modernbert", "num_hidden_layers": 6, "global_attn_every_n_layers": 3}) == KINDS
    assert layer_kinds({"model_type": "bert"}) is None
    assert {size: list(allowed_sets(6, size, (), KINDS)) for size in SETS} == SETS
    assert kept_period(KINDS, [1, 2, 3, 4, 5]) == 3
    assert kept_period(KINDS, [1, 2, 4, 5]) == 2
    assert kept_period(KINDS, [1, 4]) == 1
    assert kept_period(KINDS, [1, 2, 3, 5, 6]) == 5  # no other global layer is to come
    assert kept_period(KINDS, [2, 3]) is None  # layer 1 alone has no norm in front of its attention
    assert kept_period(KINDS, [1, 2, 4, 5, 6]) is None


@pytest.mark.parametrize("period", [1, 2, 3, 4])
@pytest.mark.parametrize("protect", [(), (2,), (7,), (1, 3)])
def test_sets_are_those_that_may_go(period, protect):
    kinds = tuple(index % period == 0 for index in range(7))
    free = [layer for layer in range(1, 8) if layer not in protect]
    for size in range(7):
        expected = [skip for skip in combinations(free, size) if may_go(skip, kinds)]
        assert list(allowed_sets(7, size, protect, kinds)) == expected
        assert count_sets(7, size, protect, kinds) == len(expected)


def test_what_cannot_go_is_refused_with_what_can(tmp_path, tiny_task, command):
    with pytest.raises(
        UserError, match=r"selection.skip: \[2\] cannot .* layer 1 must stay .* can go \[4\], \[5\], \[6\]\.$"
    ):
        check_selection(SelectionSpec(search="fixed", skip=[2]), 6, None, KINDS)
    with pytest.raises(UserError, match=r"of 2 layers can go \[2, 4\], .* and 1 more\.$"):
        check_selection(SelectionSpec(search="fixed", skip=[2, 3]), 6, None, KINDS)
    seven = (*KINDS, True)
    with pytest.raises(UserError, match=r"no set of 1 layers can be skipped: .* numbers that have one: 2, 4\.$"):
        check_selection(SelectionSpec(layers=1, protect=[4, 7]), 7, None, seven)
    with pytest.raises(UserError, match="without these layers no set can be skipped"):
        check_selection(SelectionSpec(layers="auto", protect=[4, 5, 6]), 6, GoalsSpec(max_flips=0.1), KINDS)
    folder = save_model(tmp_path / "full", "modernbert", layers=6, num_labels=2)
    cases = {
        "selection={search: fixed, skip: [1]}": "selection.skip: [1] cannot be skipped",
        "selection={units: [layer, ffn], budget: {keep: 0.5}}": "selection.units: whole layers of a modernbert model",
        "ship={units: [layer]}": "ship.units: whole layers of a modernbert model",
        "compensation.head.trainer=forward": "compensation.head.trainer: forward builds nodes one by one",
    }
    for value, sentence in cases.items():
        values = sets(f"model.path={folder}", *(["selection=null"] if "ship" in value else []), value)
        if "ship" in value:
            values = sets(f"model.path={folder}", "selection={}", value)
        code, _, stderr = command("run", tiny_task / "recipe.yaml", *values, "--out", tmp_path / "run")
        assert (code, sentence in stderr, stderr.count("\n")) == (2, True, 1), stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classifier_pooling": "max"}, "classifier_pooling.* but is max"),
        ({"classifier_activation": "relu"}, 'classifier_activation is "relu"; only gelu is served'),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0; it must be a whole number from 1 on"),
        ({"hidden_activation": "glu"}, "'glu' is no activation that transformers knows; correct hidden_activation"),
    ],
)
def test_what_is_not_served_is_said(tmp_path, change, message):
    folder = save_model(tmp_path / "full", "modernbert")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        find_model(str(folder))


def test_every_set_by_the_trie_is_the_shorter_model(made):
    model, encodings, _ = made
    calls, teacher = capture_calls(model, FAMILY, encodings, batch_size=5)
    order = torch.cat([call.rows for call in calls]).argsort()
    for skip, hidden in walk_sets(list(layer_list(model, FAMILY)), calls, EVERY):
        with torch.inference_mode():
            read = [read_state(model, FAMILY, state, call.mask) for state, call in zip(hidden, calls, strict=True)]
            found = head_logits(model, FAMILY, torch.cat(read)[order])
        np.testing.assert_allclose(found, predict(drop_layers(model, FAMILY, skip), encodings), atol=2e-5)
    trials = Trials(model, FAMILY, calls, teacher)
    shorter = predict(drop_layers(model, FAMILY, (4,)), encodings)
    assert trials([(4,)], "a set")[0].raw_kl == pytest.approx(
        SINGLE.divergence(teacher.numpy(), shorter), rel=1e-4, abs=1e-7
    )


@pytest.mark.parametrize("search", [name for name in SEARCHES if name != "fixed"])
def test_searches_try_what_may_go_alone(made, search):
    model, encodings, _ = made
    calls, teacher = capture_calls(model, FAMILY, encodings)
    spec = SelectionSpec(search=search, layers=3, beam_width=2)
    plan = find_plan(Trials(model, FAMILY, calls, teacher), lambda size: SETS[size][-1] if size else (), spec)
    assert {trial.skip for trial in plan.trace} <= {(), *EVERY}
    assert plan.skip in SETS[3]
    assert plan.sets_total == len(SETS[3])
    if search in {"greedy", "beam", "guided"}:
        assert plan.sets_evaluated <= most_sets(spec, 6, KINDS)
    if search == "beam":  # of a size with no more sets than a beam would try, all are tried
        assert {trial.skip for trial in plan.trace} >= set(SETS[1] + SETS[2] + SETS[3])


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_a_search_goes_on_where_no_single_layer_may_be_added(search):
    kinds = tuple(index % 3 == 0 for index in range(22))  # as many layers as the base model has
    spec, tried = SelectionSpec(search=search, layers=12, beam_width=4), {}

    def evaluate(sets, _description):
        tried.setdefault(len(sets[0]), []).extend(sets)
        # what reaches the end first seems best, from where no single layer leads on to most sets
        return [Trial(skip, 1.0, -float(sum(skip)), 1.0, 0.0, *[None] * 4) for skip in sets]

    SEARCHES[search](evaluate, 22, [12], lambda _size: (), spec, kinds)
    assert sorted(tried) == list(range(1, 13))
    assert all(may_go(skip, kinds) for sets in tried.values() for skip in sets)
    assert sum(map(len, tried.values())) < most_sets(spec, 22, kinds)


@pytest.mark.parametrize("units", [[4], [2, 5], UNITS])
@pytest.mark.parametrize("stock", [True, False])
def test_directories_are_opened_by_us_and_by_the_stock_class(made, tmp_path, units, stock):
    model, encodings, folder = made
    student = leave_out(model, FAMILY, units)
    save(student, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n", stock=stock)
    wanted = predict(student.double(), encodings)  # in float64, where sums of another order are the same
    ours = load_classifier(find_model(str(tmp_path / "model"))).double()
    assert shape_of(ours, FAMILY) == shape_of(student, FAMILY)
    np.testing.assert_allclose(predict(ours, encodings), wanted, atol=1e-6)
    if stock or units != UNITS:  # parts in their exact sizes are for compressor.load_model alone
        opened = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval().double()
        np.testing.assert_allclose(predict(opened, encodings), wanted, atol=1e-6)


def test_a_fresh_process_without_this_package_gets_the_same_logits(tmp_path):
    folder = save_model(tmp_path / "full", "modernbert", layers=6, classifier_pooling="mean")
    source = find_model(str(folder))
    model, encodings = load_classifier(source), encode(TEXTS, load_tokenizer(source), 40)
    student = leave_out(model, FAMILY, ["2.heads:2+ffn:16", 3, "4.attention", 5])
    assert student.config.global_attn_every_n_layers == 2
    save(student, load_tokenizer(source), tmp_path / "model", "# card\n")
    rows = np.arange(len(encodings))
    inputs = {name: value.tolist() for name, value in pad(encodings, rows).items()}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    command = [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(tmp_path / "inputs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert (found["class"], found["layers"]) == ("ModernBertForSequenceClassification", 4)
    np.testing.assert_allclose(found["logits"], predict(student, encodings, batch_size=len(rows)), atol=1e-6)


def test_files_answer_like_the_model_and_their_nodes_are_counted(made, tmp_path):
    model, encodings, folder = made
    student = leave_out(model, FAMILY, UNITS)
    save(student, load_tokenizer(find_model(str(folder))), tmp_path / "cut", "# card\n")
    for name, directory, own in (("full", folder, model), ("cut", tmp_path / "cut", student)):
        wanted, config = predict(own, encodings), read_config(directory)
        files = export_variants(directory, tmp_path / name, ["fp32", "optimized", "int8"])
        for variant, file in files.items():
            logits = predict_onnx(session(file.path), encodings)
            np.testing.assert_allclose(logits, wanted, atol=1.0 if variant == "int8" else 1e-4, err_msg=variant)
        expected = {kind: count for kind, count in expected_nodes(config).items() if count}
        assert files["optimized"].fused == expected
        blocks = sum(shape_of(own, FAMILY).attention) + sum(width > 0 for width in shape_of(own, FAMILY).ffn_widths)
        assert expected == {"SkipLayerNormalization": blocks}
        # one for each block with neurons, and the head's own
        assert files["optimized"].operators["Gelu"] == 1 + sum(width > 0 for width in shape_of(own, FAMILY).ffn_widths)
        products = Counter(files["int8"].operators)  # of a single row the weights alone are in 8 bits
        assert products["MatMulIntegerToFloat"] + products["MatMulNBits"] >= 2 * blocks - 2
        assert files["int8"].fused == {}  # sums stand apart from norms there, as they are faster on CPUs


def test_what_the_head_reads_is_what_states_and_removals_keep(made):
    model, encodings, _ = made
    states, logits = final_states(model, FAMILY, encodings)
    with torch.inference_mode():
        np.testing.assert_allclose(head_logits(model, FAMILY, torch.from_numpy(states)), logits, atol=1e-5)
    found = class_states(model, FAMILY, encodings, None, 3)
    # state 0 of [CLS] is the same for all texts, a mean over tokens is not
    assert (np.ptp(found.sample[0], axis=0).max() < 1e-5) == (model.config.classifier_pooling == "cls")
    run = run_removals(model, FAMILY, encodings, {"removed": np.zeros((6, 2, 32))})
    for layer in (1, 6):
        without = predict(leave_out(model, FAMILY, [f"{layer}.ffn"]), encodings)
        np.testing.assert_allclose(run.logits["removed"][layer - 1], without, atol=1e-5)


@pytest.mark.parametrize("units", [[5, 6], [4], ["3.ffn", "5.attention", "2.ffn:16"]])
def test_refits_come_nearer_to_the_full_model(made, units):
    model, encodings, _ = made
    encodings = encodings.take(np.tile(np.arange(len(encodings)), 10))
    calls, teacher = fit_calls(model, FAMILY, encodings, batch_size=16), predict(model, encodings)
    keep = [layer for layer in range(1, 7) if layer not in units]
    plain, student = (leave_out(model, FAMILY, units) for _ in range(2))
    done = refit_gaps(model, student, FAMILY, keep, calls, RefitSpec(layers="later", blocks="both"))
    assert done
    assert any(refit.strength is not None for refit in done)
    assert all(refit.error_after <= refit.error_before for refit in done)
    before, after = (SINGLE.divergence(teacher, predict(one, encodings)) for one in (plain, student))
    assert after < 0.6 * before
    assert student.state_dict().keys() == plain.state_dict().keys()  # no bias is added that the stock class lacks


def test_biases_are_refitted_where_there_are_some(tmp_path):
    folder = save_model(tmp_path / "full", "modernbert", layers=3, mlp_bias=True, attention_bias=True, norm_bias=True)
    source = find_model(str(folder))
    model, encodings = load_classifier(source), encode(TEXTS, load_tokenizer(source), 40)
    calls = fit_calls(model, FAMILY, encodings, batch_size=8)
    student = leave_out(model, FAMILY, ["2.ffn:8", "3.attention"])
    before = layer_list(student, FAMILY)[1].mlp.Wo.bias.clone()
    refit_gaps(model, student, FAMILY, [1, 2, 3], calls, RefitSpec(cls_weight=1.0))
    assert not torch.equal(layer_list(student, FAMILY)[1].mlp.Wo.bias, before)
    save(student, load_tokenizer(source), tmp_path / "cut", "# card\n")
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut").eval().double()
    np.testing.assert_allclose(predict(stock, encodings), predict(student.double(), encodings), atol=1e-6)


def test_neurons_are_pairs_of_an_input_and_a_gate(made):
    model, encodings, _ = made
    cut, zeroed = copy.deepcopy(model), copy.deepcopy(model)
    kept = [40, 3, 17]
    layer = layer_list(cut, FAMILY)[2]
    cut_ffn(layer, FAMILY, kept)
    assert (layer.mlp.Wi.weight.shape, layer.mlp.Wo.weight.shape) == ((6, 32), (32, 3))
    with torch.no_grad():
        gone = torch.ones(64, dtype=torch.bool)
        gone[kept] = False
        layer_list(zeroed, FAMILY)[2].mlp.Wo.weight[:, gone] = 0
    np.testing.assert_allclose(predict(cut, encodings), predict(zeroed, encodings), atol=1e-5)
    whole = layer_list(model, FAMILY)[0]
    reads = [part.detach().double().square().sum(1).numpy() for part in whole.mlp.Wi.weight.chunk(2)]
    expected = saturated_positions(co_magnitude(reads, np.ones(64)))
    assert specialists(whole, FAMILY).tolist() == expected.tolist()
    # three maps of a block, not two: 2 * 3 * 32 * 64 a token
    shape = shape_of(model, FAMILY)
    assert shape_flops(shape, 32, 10) == 6 * (10 * (8 * 32 * 32 + 6 * 32 * 64) + 4 * 10**2 * 32)


def test_the_readout_takes_the_place_of_the_second_map(made):
    model, encodings, _ = made
    folded, logits = with_readout(model, FAMILY, encodings)
    np.testing.assert_allclose(predict(folded, encodings), logits, atol=1e-4)
    assert torch.equal(folded.head.dense.weight, model.head.dense.weight)


def test_a_checkpoint_without_a_classifier_gets_one(tmp_path):
    folder = save_model(tmp_path / "full", "modernbert", layers=3)
    torch.manual_seed(0)
    ModernBertForMaskedLM(AutoConfig.from_pretrained(folder)).save_pretrained(folder)
    source = find_model(str(folder))
    with pytest.raises(UserError, match="no classification head"):
        load_classifier(source)
    model = load_classifier(source, new_labels=["no", "yes"])
    assert model.classifier.weight.shape == (2, 32)
    assert model.config._attn_implementation == "sdpa"
    assert model.config.reference_compile is False


def test_a_run_of_whole_layers_ends_in_a_stock_model(tiny_task, tmp_path, command):
    folder = save_model(tmp_path / "full", "modernbert", layers=4, num_labels=2, classifier_pooling="mean")
    values = (
        f"model.path={folder}", "selection={search: exhaustive, layers: 2, audit: true}", "analysis=[errors]",
        "compensation={refit: closed_form, distill: {epochs: 1, attended: true}, head: {nodes: 4}}",
        "export.variants=[optimized]", "benchmark.workload=false",
    )  # fmt: skip
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", *sets(*values), "--out", tmp_path / "run", "--json"
    )
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["plan"]["skip"] in ([2, 3], [2, 4], [3, 4])
    assert result["plan"]["sets_total"] == 3
    assert result["head"]["trainer"] == "readout"
    assert result["tail"]["form"] is None
    assert result["parity"]["optimized"]["agreement"] == 1.0
    config = AutoConfig.from_pretrained(tmp_path / "run" / "model")
    assert config.global_attn_every_n_layers == {(2, 3): 1, (2, 4): 2, (3, 4): 2}[tuple(result["plan"]["skip"])]
    assert config.classifier_pooling == "mean"
