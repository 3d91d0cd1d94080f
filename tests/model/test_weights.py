"""Files of weights: what is damaged, of another shape or code is refused with its reason."""

import pickle

import pytest
import torch
from checkpoints import edit_config, edit_weights

from compressor.errors import UserError
from compressor.model.load import find_model, load_classifier


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


def test_another_number_of_labels_can_be_fine_tuned_and_other_misfits_name_both_shapes(folder):
    # three labels in the weights, two wanted: the output is drawn anew, everything else is kept
    model = load_classifier(find_model(str(folder)), new_labels=["no", "yes"])
    assert model.classifier.weight.shape == (2, 32)
    edit_config(folder, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(
        UserError, match=r"weight classifier\.\w+ is \[3.*\] in the file and \[2.*\] by num_labels in config"
    ):
        load_classifier(find_model(str(folder)))
    edit_config(folder, vocab_size=70)
    words = r"word_embeddings\.weight is \[64, 32\] in the file and \[70, 32\] by vocab_size in config\.json"
    with pytest.raises(UserError, match=words):
        load_classifier(find_model(str(folder)), new_labels=["no", "yes"])


@pytest.mark.parametrize(
    "header",
    [
        '{"w": {"dtype": 3, "shape": "x"}}',
        '{"w": {"dtype": "F32"}}',
        '{"w": 1}',
        "[]",
        "3",
        "{",
        "[" * 100_000,
        '{"w": {"dtype": "F32", "shape": 2}}',
    ],
)
def test_damaged_headers_of_weights_are_refused_by_file(folder, header):
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(UserError, match=r"model\.safetensors: the weight file is damaged"):
        load_classifier(find_model(str(folder)))


@pytest.mark.parametrize(
    "index", ["{}", "[]", '{"weight_map": 3}', '{"weight_map": {"w": "none.safetensors"}}', "[" * 100_000]
)
def test_damaged_indices_of_weights_are_refused_by_file(folder, index):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    with pytest.raises(UserError, match=r"(index\.json: cannot be read|none\.safetensors: the weight file is damaged)"):
        load_classifier(find_model(str(folder)))


def test_files_that_may_not_be_read_are_named(folder, monkeypatch):
    def closed(self, *arguments, **options):
        if self.name == "model.safetensors":
            raise PermissionError(13, "Permission denied")
        return real(self, *arguments, **options)

    real = type(folder).open
    monkeypatch.setattr(type(folder), "open", closed)
    with pytest.raises(UserError, match=r"model\.safetensors: cannot be read \(Permission denied\)"):
        find_model(str(folder))
