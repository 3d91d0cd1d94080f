"""Dropped layers: physically gone, the rest bit for bit, loadable without this package."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import FRESH

from compressor.data.batches import pad
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.load import find_model, load_tokenizer
from compressor.model.surgery import drop_layers, save_model


@pytest.mark.parametrize("model_type", list(FAMILIES))
@pytest.mark.parametrize("skip", [(1,), (4,), (2, 3), (1, 3, 4)])
def test_kept_layers_are_copied_bit_by_bit_and_config_is_true(tiny, model_type, skip):
    model, family, _, _ = tiny(model_type)
    if family.period_key and 1 in skip:
        with pytest.raises(UserError, match=f"without layers {', '.join(map(str, skip))}: .* so layer 1 must stay"):
            drop_layers(model, family, skip)
        return
    if family.groups_key and skip not in {(4,), (3, 4)}:
        with pytest.raises(
            UserError, match=f"without layers {', '.join(map(str, skip))}: .* the last ones stand for them"
        ):
            drop_layers(model, family, skip)
        return
    pruned = drop_layers(model, family, skip)
    keep = [layer for layer in range(1, 5) if layer not in skip]
    assert type(pruned) is type(model)
    assert getattr(pruned.config, family.layers_key) == len(keep)
    old, new = model.state_dict(), pruned.state_dict()
    for index, layer in enumerate(keep):
        prefix = f"{family.layers}.{index}."
        names = [name for name in new if name.startswith(prefix)]
        assert names
        for name in names:
            assert torch.equal(new[name], old[name.replace(prefix, f"{family.layers}.{layer - 1}.")])
    assert all(torch.equal(new[name], old[name]) for name in new if not name.startswith(family.layers))
    assert not any(buffer.is_meta for buffer in pruned.buffers())


def test_the_original_stays_as_it_was(tiny):
    model, family, encodings, _ = tiny("bert")
    before = predict(model, encodings)
    pruned = drop_layers(model, family, (2,))
    with torch.no_grad():
        next(pruned.parameters()).zero_()
    np.testing.assert_array_equal(predict(model, encodings), before)


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_a_fresh_process_without_this_package_gets_the_same_logits(tiny, tmp_path, model_type):
    model, family, encodings, folder = tiny(model_type)
    pruned = drop_layers(model, family, (2,))
    save_model(pruned, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n")
    assert (tmp_path / "model" / "model.safetensors").is_file()
    assert (tmp_path / "model" / "README.md").read_text() == "# card\n"
    inputs = {name: value.tolist() for name, value in pad(encodings, np.arange(6)).items()}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs))
    command = [sys.executable, "-c", FRESH, str(tmp_path / "model"), str(tmp_path / "inputs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert (found["layers"], found["class"]) == (3, type(model).__name__)
    with torch.inference_mode():
        own = pruned(**{name: torch.tensor(value) for name, value in inputs.items()}).logits
    np.testing.assert_allclose(found["logits"], own, atol=1e-6)
    assert "initialized" not in done.stderr  # no random layer was added on loading


@pytest.mark.parametrize(("skip", "words"), [((0,), "layer 0"), ((5,), "1..4"), ((1, 2, 3, 4), "leaves none")])
def test_layers_that_are_not_there_are_refused(tiny, skip, words):
    model, family, _, _ = tiny("bert")
    with pytest.raises(UserError, match=words):
        drop_layers(model, family, skip)
