"""Models whose scores depend on distances: every row attends, nothing is cut, the answers are exact."""

import json

import numpy as np
import pytest
from tiny import TEXTS, save_model

from compressor.data.batches import encode
from compressor.export.onnx import export_variants
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.load import find_model, load_classifier, load_tokenizer


@pytest.fixture(scope="module", params=["relative_key", "relative_key_query"])
def relative(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("relative") / "model"
    save_model(folder, "bert", layers=3, num_labels=2, position_embedding_type=request.param)
    source = find_model(str(folder))
    return folder, load_classifier(source), encode(TEXTS, load_tokenizer(source), 40)


@pytest.mark.parametrize("form", [None, "reassociated"])
def test_every_file_answers_like_the_model(relative, tmp_path, form):
    folder, model, encodings = relative
    wanted = predict(model, encodings)
    for name, file in export_variants(folder, tmp_path, ["fp32", "alltokens", "optimized"], form=form).items():
        np.testing.assert_allclose(predict_onnx(session(file.path), encodings), wanted, atol=1e-4, err_msg=name)


def test_a_run_has_the_tail_behind_attention_and_a_cascade_is_refused(relative, tiny_task, tmp_path, command):
    folder, _, _ = relative
    sets = [f"model.path={folder}", "export.variants=[optimized]", "analysis=[ffn]", "benchmark.workload=false"]
    arguments = [part for text in sets for part in ("--set", text)]
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", *arguments, "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    result = json.loads(stdout)
    assert result["tail"]["form"] == "attended"
    assert result["parity"]["optimized"]["agreement"] == 1.0
    saved = 127 * 2 * 2 * 64 * 32  # both maps of the last block, but for one row of 128
    flops = {name: entry["encoder_flops"] for name, entry in result["variants"].items()}
    assert flops["onnx_optimized"] == flops["compressed"] - saved
    cascade = ["--set", "cascade={max_flips: 0.3}", "--set", "data.calibration.seen_in_training=false"]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", *arguments, *cascade, "--out", tmp_path / "cascade")
    assert (code, "has relative positions" in stderr) == (2, True), stderr
