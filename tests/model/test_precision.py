"""Weights are computed in float32 and stored as the source stores them; sizes are those of files."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEXTS, save_model

from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.measurement.cost import weight_bytes
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.files.weights import stored_tensors
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.surgery import drop_layers, leave_out
from compressor.model.surgery import save_model as save

NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def store(folder, change, **config):
    """Store each weight of the model in `folder` as `change` makes it; return what it answers."""
    weights = load_file(folder / "model.safetensors")
    save_file({name: change(name, tensor) for name, tensor in weights.items()}, folder / "model.safetensors")
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return load_classifier(find_model(str(folder)))


def stored(folder):
    return {dtype for dtype, _ in stored_tensors(folder).values()}


@pytest.mark.parametrize("said", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("dtype", list(NAMES))
def test_a_model_is_saved_in_the_precision_of_its_source_whatever_its_config_says(tmp_path, dtype, said):
    folder = save_model(tmp_path / "model", layers=3, hidden_size=64)
    model = store(folder, lambda _, tensor: tensor.to(dtype), torch_dtype=said, dtype=said)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    tokenizer, family = load_tokenizer(find_model(str(folder))), family_of("bert")
    save(drop_layers(model, family, []), tokenizer, tmp_path / "whole", "# card\n")
    assert stored(tmp_path / "whole") == {NAMES[dtype]}
    assert json.loads((tmp_path / "whole" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    assert weight_bytes(tmp_path / "whole") == pytest.approx(weight_bytes(folder), rel=0.01)
    encodings = encode(TEXTS, tokenizer, 40)
    again = load_classifier(find_model(str(tmp_path / "whole")))
    np.testing.assert_array_equal(predict(again, encodings), predict(model, encodings))
    for stock in (True, False):
        save(leave_out(model, family, [1, "2.attention"]), tokenizer, tmp_path / f"cut{stock}", "# card\n", stock=stock)
        assert stored(tmp_path / f"cut{stock}") == {NAMES[dtype]}


def test_few_wide_weights_do_not_decide_and_double_precision_is_not_kept(tmp_path):
    folder = save_model(tmp_path / "model", layers=2)
    model = store(folder, lambda name, tensor: tensor if "LayerNorm" in name else tensor.half())
    save(model, load_tokenizer(find_model(str(folder))), tmp_path / "made", "# card\n")
    assert stored(tmp_path / "made") == {"F16"}
    model = store(folder, lambda _, tensor: tensor.double())
    save(model, load_tokenizer(find_model(str(folder))), tmp_path / "double", "# card\n")
    assert stored(tmp_path / "double") == {"F32"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_checkpoint_is_saved_in_its_precision(tmp_path, zipped):
    folder = save_model(tmp_path / "model", layers=2)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    torch.save(weights, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    shapes = {name: ("F16", list(tensor.shape)) for name, tensor in weights.items()}
    assert stored_tensors(folder) == shapes
    source = find_model(str(folder))
    save(load_classifier(source), load_tokenizer(source), tmp_path / "made", "# card\n")
    assert stored(tmp_path / "made") == {"F16"}


def test_weights_that_do_not_fit_are_stored_in_float32(tmp_path):
    folder = save_model(tmp_path / "model", layers=2)
    model = store(folder, lambda _, tensor: tensor.half())
    with torch.no_grad():
        model.classifier.weight[0, 0] = 1e6
    save(model, load_tokenizer(find_model(str(folder))), tmp_path / "made", "# card\n")
    assert stored(tmp_path / "made") == {"F32"}
    assert load_classifier(find_model(str(tmp_path / "made"))).classifier.weight[0, 0] == 1e6


@pytest.mark.parametrize("finetuned", [False, True])
def test_a_run_compares_files_with_files(tiny_task, tmp_path, command, finetuned):
    folder = save_model(tmp_path / "model", layers=3, num_labels=2)
    store(folder, lambda _, tensor: tensor.half())
    sets = [f"model.path={folder}", "export.variants=[fp32]", "benchmark.workload=false"]
    sets += ["finetune={epochs: 1}"] if finetuned else []
    arguments = [part for text in sets for part in ("--set", text)]
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", *arguments, "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    full, compressed, onnx = (json.loads(stdout)["variants"][name] for name in ("full", "compressed", "onnx_fp32"))
    files = (tmp_path / "run" / "teacher" if finetuned else folder, tmp_path / "run" / "model")
    assert (full["bytes"], compressed["bytes"]) == tuple((file / "model.safetensors").stat().st_size for file in files)
    assert 2 * full["parameters"] < full["bytes"] < 2.5 * full["parameters"]
    assert 2 * compressed["parameters"] < compressed["bytes"] < full["bytes"]
    assert onnx["bytes"] > 4 * compressed["parameters"]
    assert json.loads(stdout)["parity"]["fp32"]["agreement"] == 1.0


def test_space_is_counted_for_float32_graphs(tmp_path, monkeypatch):
    folder = save_model(tmp_path / "model", layers=2)
    store(folder, lambda _, tensor: tensor.half())
    weights = (folder / "model.safetensors").stat().st_size
    monkeypatch.setattr("shutil.disk_usage", lambda _folder: SimpleNamespace(free=1.5 * weights))
    with pytest.raises(UserError, match="free disk space"):
        export_variants(folder, tmp_path / "onnx", ["fp32"])


def test_a_model_that_transformers_has_saved_before_can_be_saved(tiny, tmp_path):
    model, _, _, folder = tiny("bert")
    model = copy.deepcopy(model)
    model.save_pretrained(tmp_path / "plain")  # leaves the precision in config as text
    save(model, load_tokenizer(find_model(str(folder))), tmp_path / "made", "# card\n")
    assert stored(tmp_path / "made") == {"F32"}
