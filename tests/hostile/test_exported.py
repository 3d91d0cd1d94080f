"""Exported folders whose settings are wrong: one sentence when they are opened, or at the first text, and nothing else."""

import json
import shutil

import pytest
from tiny import save_model

from compressor.errors import UserError
from compressor.export.directory import export_directory
from compressor.runtime.classifier import Classifier


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    export_directory(save_model(folder / "model", layers=2, num_labels=2), folder / "onnx", ["optimized"])
    return folder / "onnx" / "optimized"


def changed(exported, folder, name="classifier.json", **changes):
    shutil.copytree(exported, folder)
    content = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**content, **changes}), encoding="utf-8")
    return folder


def test_a_whole_folder_answers(exported):
    assert len(Classifier(exported)(["a b c", "", "x" * 500])) == 3


@pytest.mark.parametrize(
    "changes",
    [
        *({"label_names": names} for names in ([], [1, 2], ["a", None], "ab", {})),
        *({"max_length": length} for length in (0, -1, 10**30, 2.5, True, None, [])),
        *({"pad_id": token} for token in (-1, 2**31, 10**30, "0", True)),
        *({"texts": texts} for texts in (0, 3, "1", [], True, 1.5)),
        *({"truncation_side": side} for side in ("up", None, [], 1)),
        *({"threads": count} for count in (0, -1, 10**30, "2", [], 1.5, True)),
        *({"token_types": there} for there in (None, 1, "yes", [])),
        *({"answers": told} for told in (3, [], {"kind": "none"}, {"kind": []}, {"kind": "many_labels", "thresholds": [None]})),
        *({"thresholds": values} for values in ([0.5], [float("nan")], "x", None)),
        *({"parts": parts} for parts in ([], ["../../model.onnx"], ["/etc/passwd"], [3], "model.onnx", [["a"]])),
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_the_wrong_kind_are_named(exported, tmp_path, changes):
    with pytest.raises(UserError, match=r"classifier\.json: not the settings of a classifier \(.*export it again"):
        Classifier(changed(exported, tmp_path / "folder", **changes))


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_labels_are_as_many_as_the_file_gives(exported, tmp_path, names):
    with pytest.raises(UserError, match=f"the file gives 2 numbers for {len(names)} labels"):
        Classifier(changed(exported, tmp_path / "folder", label_names=names))


def test_a_sign_without_a_token_is_a_sentence(exported, tmp_path):
    folder = changed(exported, tmp_path / "folder")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["vocab"]["[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match=r"breaks off at a text .*Missing \[UNK\]"):
        Classifier(folder)("\U0001f9ea")


def test_a_length_without_room_for_text_is_refused(exported, tmp_path):
    with pytest.raises(UserError, match="export it again"):
        Classifier(changed(exported, tmp_path / "folder", max_length=1))(["a b c"])


@pytest.mark.parametrize("settings", ["[]", "3", "null", "", "[" * 100_000, "\ufeff{}", '{"label_names": '])
def test_settings_that_are_no_object_are_refused(exported, tmp_path, settings):
    folder = changed(exported, tmp_path / "folder")
    (folder / "classifier.json").write_text(settings, encoding="utf-8")
    with pytest.raises(UserError, match=r"classifier\.json: not the settings of a classifier"):
        Classifier(folder)


def test_a_tokenizer_of_another_model_is_a_sentence(exported, tmp_path):
    content = json.loads((exported / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = {**content["model"]["vocab"], "a": 10_000_000}
    folder = changed(exported, tmp_path / "folder", "tokenizer.json", model={**content["model"], "vocab": vocab})
    with pytest.raises(UserError, match=r"model\.onnx: it cannot be run \(.*export it again"):
        Classifier(folder)(["a b c"])
