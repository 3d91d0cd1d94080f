"""A model that has already lost parts, as this tool writes it: it is compressed again, analysed, explained, exported."""

import json

import numpy as np
import pytest
import torch
from tiny import letter_rows, save_model, save_rows

from compressor import load_model
from compressor.analysis.roles.roles import roles_of
from compressor.analysis.roles.trace import trace_roles
from compressor.analysis.roles.weights import model_weights, open_weights
from compressor.measurement.cost import shape_flops
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.sublayers import shape_of
from compressor.model.surgery import leave_out
from compressor.model.surgery import save_model as save
from compressor.model.units import Shape, shape_left

GONE = ["1.heads:3+ffn", "2.attention", "3.ffn:32", "4.heads:2"]
LEFT = Shape((0, 64, 32, 64), (3, 0, 4, 2), 4)
QUICK = "export.variants=[fp32,optimized]"
FLOPS = "selection={units: [layer, ffn, attention, width], widths: [0.25], budget: {keep: 0.6}, beam_width: 3}"


def cut_model(folder, model_type="bert", *, stock=True):
    """Write the directory of a model that has lost `GONE`, as a run writes it; return it loaded."""
    whole = save_model(folder / f"{model_type}-whole", model_type, layers=4, num_labels=2)
    model, source = load_classifier(find_model(str(whole))), find_model(str(whole))
    with torch.no_grad():  # a trained model has biases: what is left of a block that went is one
        for name, bias in model.named_parameters():
            if name.endswith("bias"):
                bias.normal_(0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(whole)
    model = leave_out(model, family_of(model_type), GONE)
    save(model, load_tokenizer(source), folder / model_type, "card", stock=stock)
    return load_model(folder / model_type)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Return a folder with a recipe for a BERT that has lost parts."""
    folder = tmp_path_factory.mktemp("cut")
    cut_model(folder)
    rows = letter_rows(420)
    save_rows(folder, rows, 360)
    (folder / "recipe.yaml").write_text(
        f"""name: again
model: {{path: {folder}/bert}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: text
  label: label
  calibration: {{split: train, size: 100, seen_in_training: false}}
  selection: {{size: 60}}
  max_length: 32
selection: {{search: exhaustive, layers: 1}}
compensation: {{refit: closed_form}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    return folder


def sets(*values):
    return [part for value in values for part in ("--set", value)]


def run(command, task, out, *values):
    """Return result.json of a run, its exit code being 0."""
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--json", *sets(*values))
    assert code == 0, stderr
    return json.loads(stdout)


def check_result(result, out, units):
    """Check that the model is what the plan says and that its FLOPs are those of what is left."""
    left = shape_left(units, LEFT)
    model = load_model(out / "model")
    assert shape_of(model, family_of("bert")) == left
    flops = {name: result["variants"][name]["encoder_flops"] for name in ("full", "compressed")}
    assert flops == {"full": shape_flops(LEFT, 32), "compressed": shape_flops(left, 32)}
    assert result["variants"]["compressed"]["parameters"] == sum(part.numel() for part in model.parameters())
    assert all(entry["agreement"] == 1.0 and entry["max_abs"] < 1e-3 for entry in result["parity"].values())


@pytest.mark.slow
def test_whole_layers_go_with_head_audit_analyses_and_cascade(task, tmp_path, command):
    asked = "compensation.head={nodes: 4, epochs: 3}", "selection.audit=true", "analysis=[ffn, errors, roles]"
    cascade = "cascade={exits: [1, 2], max_flips: 0.5, fit_size: 100}"
    result = run(command, task, tmp_path / "run", *asked, cascade, QUICK)
    (skipped,) = result["plan"]["skip"]
    check_result(result, tmp_path / "run", [skipped])
    whole = shape_flops(LEFT, 32)
    # layers cost what is in them: the audit's sets of one layer differ
    costs = {whole - shape_flops(layer, 32) for layer in LEFT.each()}
    assert {point["encoder_flops"] for point in result["audit"]["frontier"] if point["size"] == 1} <= costs
    assert set(result["analysis"]) == {"ffn", "errors", "roles"}
    assert result["cascade"] is not None


def test_a_budget_of_operations_counts_what_is_left(task, tmp_path, command):
    result = run(command, task, tmp_path / "run", FLOPS, QUICK)
    units, mix = result["plan"]["units"], result["plan"]["mix"]
    check_result(result, tmp_path / "run", units)
    flops = result["variants"]
    assert mix["kept"] == pytest.approx(flops["compressed"]["encoder_flops"] / flops["full"]["encoder_flops"])
    assert mix["kept"] <= 0.6
    named = {(part["layer"], part["part"]) for part in mix["parts"]}
    assert named.isdisjoint({(1, "ffn"), (1, "ffn:16"), (2, "attention")})  # a layer cannot lose what it has not
    assert {(1, "attention"), (2, "ffn"), (3, "ffn:16"), (4, "ffn:16"), (4, "layer")} <= named


def test_a_budget_of_time_is_refused_before_any_work(task, tmp_path, command):
    timed = FLOPS.replace("keep: 0.6", "keep: 0.6, of: latency")
    code, _, stderr = command("run", task / "recipe.yaml", "--out", tmp_path / "run", *sets(timed))
    assert (code, "has already lost parts of layers" in " ".join(stderr.split())) == (2, True)
    assert not (tmp_path / "run").exists()


def test_it_is_fine_tuned_with_its_shape(task, tmp_path, command):
    result = run(command, task, tmp_path / "run", "finetune={epochs: 1}", "selection.layers=1", QUICK)
    check_result(result, tmp_path / "run", result["plan"]["units"])


@pytest.mark.parametrize("name", ["ffn", "errors"])
def test_its_blocks_and_errors_are_analysed(task, tmp_path, command, name):
    code, stdout, stderr = command("analyze", name, task / "recipe.yaml", "--json", "--out", tmp_path)
    assert code == 0, stderr
    assert (tmp_path / f"{name}.html").is_file()
    if name == "errors":
        return
    layers = json.loads(stdout)["layers"]
    # what is left of the first block is one vector, which its mean replaces exactly and which tells no classes apart
    kinds = {removal["kind"]: removal for removal in layers[0]["removal"]}
    assert (kinds["mean_kept"]["flips"], kinds["mean_kept"]["kl"]) == (0, pytest.approx(0, abs=1e-6))
    assert layers[0]["tokens"]["raw"]["share"] == pytest.approx(1.0)
    assert layers[1]["tokens"]["raw"]["share"] < 1
    assert layers[0]["removal"][0]["later_layers"] == 3
    assert layers[-1]["removal"][0]["entropy_shift"] is None


def test_charges_and_files(task, tmp_path, command):
    code, stdout, _ = command("explain", task / "bert", "a b c", "--json")
    assert code == 0
    logits = load_model(task / "bert")(**load_tokenizer(find_model(str(task / "bert")))("a b c", return_tensors="pt"))
    assert json.loads(stdout)["logits"] == pytest.approx(logits.logits[0].tolist(), abs=1e-4)
    assert command("export", task / "bert", "--out", tmp_path)[0] == 0


@pytest.mark.parametrize("model_type", ["bert", "distilbert", "roberta"])
def test_roles_are_the_same_however_it_is_stored(tmp_path, model_type):
    stored = {}
    for name, stock in (("stock", True), ("exact", False)):
        (tmp_path / name).mkdir()
        model = cut_model(tmp_path / name, model_type, stock=stock)
        stored[name] = roles_of(open_weights(tmp_path / name / model_type), draws=10)
    stored["loaded"] = roles_of(model_weights(model), draws=10)
    for found in stored.values():
        assert (found.features, found.roles) == (stored["stock"].features, stored["stock"].roles)
    features = stored["loaded"].features
    # the first layer has no feed-forward block, the second no attention: neither block outweighs nothing
    assert features["ffn_rank"][0] == features["attention_rank"][1] == 0
    assert features["attention_share"][:2] == [1.0, 0.0]


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_its_trace_moves_the_matrices_that_there_are(tiny, tmp_path, model_type):
    encodings = tiny(model_type)[2]
    model, family = cut_model(tmp_path, model_type), family_of(model_type)
    before = predict(model, encodings)
    labels = np.arange(len(encodings)) % 2
    found = trace_roles(model, family, encodings, labels, steps=3)
    assert found.momentum.shape == (3, 4)
    assert np.isfinite(found.momentum).all() and (np.abs(found.momentum) <= 1).all()
    assert np.array_equal(predict(model, encodings), before)
    empty = leave_out(leave_out(model, family, ["2.ffn"]), family, [1])
    assert not any(part.numel() for part in layer_matrices(empty, family, 0))
    found = trace_roles(empty, family, encodings, labels, steps=2)
    assert np.isnan(found.momentum[:, 0]).all() and np.isfinite(found.momentum[:, 1:]).all()
    assert len(roles_of(model_weights(empty), trace=found, draws=5).roles) == 3


def layer_matrices(model, family, index):
    layer = model.get_submodule(family.layers)[index]
    return [part for part in layer.parameters() if part.ndim == 2]


@torch.inference_mode()
def test_what_two_cuts_leave_is_what_one_would(tiny, tmp_path):
    encodings = tiny("bert")[2]
    model, family = cut_model(tmp_path), family_of("bert")
    whole = load_model(tmp_path / "bert-whole")
    again = leave_out(model, family, ["1.attention", 4])
    left = shape_left(["1.attention", 4], LEFT)
    assert shape_of(again, family) == left == Shape((0, 64, 32), (0, 0, 4), 4)
    tokens = load_tokenizer(find_model(str(tmp_path / "bert")))
    save(again, tokens, tmp_path / "again", "card")
    assert np.array_equal(predict(load_model(tmp_path / "again"), encodings), predict(again, encodings))
    once = leave_out(leave_out(whole, family, ["1.attention", "2.attention", "3.ffn:32", 4]), family, ["1.ffn"])
    assert np.array_equal(predict(once, encodings), predict(again, encodings))
