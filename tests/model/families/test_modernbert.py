"""ModernBERT from the checkpoint to the files: a stream without norms, gated neurons, both poolings, whole runs."""

import copy
import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from readouts import with_readout
from tiny import FRESH, TEXTS, save_model
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
from compressor.model.capture import fit_calls
from compressor.model.families import FAMILIES, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer, read_config
from compressor.model.states.reading import head_logits
from compressor.model.states.states import class_states, final_states
from compressor.model.sublayers import cut_ffn, shape_of
from compressor.model.surgery import leave_out
from compressor.model.surgery import save_model as save
from compressor.recipe.training import RefitSpec

FAMILY = FAMILIES["modernbert"]
UNITS = ["2.heads:2+ffn:16", "3.attention+ffn:8", "4.ffn", 6]


@pytest.mark.parametrize("units", [[4], [2, 5], UNITS])
@pytest.mark.parametrize("stock", [True, False])
def test_directories_are_opened_by_us_and_by_the_stock_class(six_modernbert, tmp_path, units, stock):
    model, encodings, folder = six_modernbert
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


def test_files_answer_like_the_model_and_their_nodes_are_counted(six_modernbert, tmp_path):
    model, encodings, folder = six_modernbert
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


def test_what_the_head_reads_is_what_states_and_removals_keep(six_modernbert):
    model, encodings, _ = six_modernbert
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
def test_refits_come_nearer_to_the_full_model(six_modernbert, units):
    model, encodings, _ = six_modernbert
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


def test_neurons_are_pairs_of_an_input_and_a_gate(six_modernbert):
    model, encodings, _ = six_modernbert
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


def test_the_readout_takes_the_place_of_the_second_map(six_modernbert):
    model, encodings, _ = six_modernbert
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


def test_a_run_of_whole_layers_ends_in_a_stock_model(tmp_path, finished):
    folder = save_model(tmp_path / "full", "modernbert", layers=4, num_labels=2, classifier_pooling="mean")
    values = (
        f"model.path={folder}", "selection={search: exhaustive, layers: 2, audit: true}", "analysis=[errors]",
        "compensation={refit: closed_form, distill: {epochs: 1, attended: true}, head: {nodes: 4}}",
        "export.variants=[optimized]", "benchmark.workload=false",
    )  # fmt: skip
    result = finished(*values)
    assert result["plan"]["skip"] in ([2, 3], [2, 4], [3, 4])
    assert result["plan"]["sets_total"] == 3
    assert result["head"]["trainer"] == "readout"
    assert result["tail"]["form"] is None
    assert result["parity"]["optimized"]["agreement"] == 1.0
    config = AutoConfig.from_pretrained(tmp_path / "run" / "model")
    assert config.global_attn_every_n_layers == {(2, 3): 1, (2, 4): 2, (3, 4): 2}[tuple(result["plan"]["skip"])]
    assert config.classifier_pooling == "mean"
