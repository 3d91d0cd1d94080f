"""Families whose attention reads distances, from the checkpoint to the files: MPNet and DeBERTa-v2."""

import json

import numpy as np
import pytest
from heads import cut, zeroed
from tiny import TEXTS, save_model, sets
from transformers import AutoModelForSequenceClassification

from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.sublayers import shape_of
from compressor.model.surgery import save_model as save

RELATIVE = [kind for kind, family in FAMILIES.items() if family.relative]


@pytest.mark.parametrize("kind", [RELATIVE[0], *(pytest.param(kind, marks=pytest.mark.slow) for kind in RELATIVE[1:])])
def test_a_run_with_a_budget_ends_in_an_ordinary_model(kind, tmp_path, finished):
    folder = save_model(tmp_path / "full", kind, layers=3, num_labels=2)
    units = "ffn, width, attention" + (", heads" if FAMILIES[kind].movable_heads else "")
    values = (
        f"model.path={folder}", f"selection={{units: [{units}], widths: [0.5], budget: {{keep: 0.7}}, beam_width: 2}}",
        "compensation={refit: {layers: later, blocks: both}, head: {nodes: 4, epochs: 3}}", "analysis=[ffn, roles, errors]",
        "export.variants=[optimized, int8]", "benchmark.workload=false",
    )  # fmt: skip
    result = finished(*values)
    assert result["tail"]["form"] == "attended"
    assert result["parity"]["optimized"]["agreement"] == 1.0
    assert result["fused_nodes"]["optimized"].get("Attention", 0) == 0
    stock = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model")
    assert type(stock).__module__.startswith("transformers.")
    family = FAMILIES[kind]
    ours = load_classifier(find_model(str(tmp_path / "run" / "model")))
    assert shape_of(ours, family).heads == tuple(result["plan"]["mix"]["heads"])


@pytest.mark.parametrize("kind", RELATIVE)
def test_a_cascade_is_refused(kind, tiny_task, tmp_path, command):
    folder = save_model(tmp_path / "full", kind, layers=3, num_labels=2)
    data = f"model.path={folder}", "benchmark.workload=false"
    cascade = sets(*data, "cascade={max_flips: 0.3}", "data.calibration.seen_in_training=false")
    code, _, stderr = command("run", tiny_task / "recipe.yaml", *cascade, "--out", tmp_path / "cascade")
    assert (code, "has relative positions" in stderr) == (2, True), stderr


def test_heads_of_mpnet_stay_together(tiny_task, tmp_path, command):
    folder = save_model(tmp_path / "full", "mpnet", layers=3, num_labels=2)
    mix = f"model.path={folder}", "selection={units: [heads, width], budget: {keep: 0.7}}"
    code, _, stderr = command("run", tiny_task / "recipe.yaml", *sets(*mix), "--out", tmp_path / "run")
    assert (code, "selection.units: heads of a mpnet model" in stderr) == (2, True), stderr
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"compressor": {"ffn_widths": [64] * 3, "heads": [4, 2, 0]}})
    )
    with pytest.raises(UserError, match="has all its 4 heads or none"):
        find_model(str(folder))


@pytest.mark.parametrize(
    ("change", "message"), [({"pooler_hidden_act": "tanh"}, 'pooler_hidden_act is "tanh"; only gelu is served')]
)
def test_what_is_not_served_of_deberta_is_said(tmp_path, change, message):
    folder = save_model(tmp_path / "full", "deberta-v2", layers=2, **change)
    with pytest.raises(UserError, match=message):
        find_model(str(folder))


@pytest.mark.parametrize("kinds", [["c2p"], ["p2c"], ["c2p", "p2c"]])
@pytest.mark.parametrize("shared", [True, False])
def test_heads_of_deberta_take_their_maps_of_distances_along(tmp_path, kinds, shared):
    folder = save_model(tmp_path / "full", "deberta-v2", layers=4, pos_att_type=kinds, share_att_key=shared)
    source = find_model(str(folder))
    model, family, tokenizer = load_classifier(source), FAMILIES["deberta-v2"], load_tokenizer(source)
    encodings = encode(TEXTS, tokenizer, 40)
    made, wanted = cut(model, family), predict(zeroed(model, family), encodings)
    np.testing.assert_allclose(predict(made, encodings), wanted, atol=1e-5)
    save(made, tokenizer, tmp_path / "cut", "card")
    stock, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "cut", output_loading_info=True)
    assert not info["missing_keys"]
    for opened in (stock.eval(), load_classifier(find_model(str(tmp_path / "cut")))):
        np.testing.assert_allclose(predict(opened, encodings), wanted, atol=1e-5)
