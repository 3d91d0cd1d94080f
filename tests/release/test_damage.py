"""Changes to a finished run, each behind fresh hashes: found and named."""

import json
import re
import shutil

import numpy as np
import pytest
from edits import edit, found
from safetensors.numpy import load_file, save_file

from compressor.release.manifest import account
from compressor.release.verify import verify


def renewed(root):
    """Write the hashes anew, as somebody would who wants a change to pass: what is left to find is what does not fit."""
    manifest = json.loads((root / "manifest.json").read_text())
    for name in manifest["files"]:
        manifest["files"][name] = account(root / name)
    (root / "manifest.json").write_text(json.dumps(manifest))


def change_weights(root, change, path="model/model.safetensors"):
    tensors = load_file(root / path)
    change(tensors)
    save_file(tensors, root / path, metadata={"format": "pt"})


WEIGHTS = {
    "an extra tensor": (
        lambda tensors: tensors.update(extra=np.zeros(2, np.float32)),
        "holds the tensor extra, which a",
    ),
    "a missing tensor": (
        lambda tensors: tensors.pop("bert.pooler.dense.bias"),
        "lacks the tensor bert.pooler.dense.bias",
    ),
    "a shape": (
        lambda tensors: tensors.update({"classifier.bias": np.zeros(5, np.float32)}),
        "has the tensor classifier.bias of shape [5], and config.json says [2]",
    ),
    "NaN": (
        lambda tensors: tensors["bert.encoder.layer.0.output.dense.weight"].__setitem__((0, 0), np.nan),
        "holds NaN or infinity in the tensor bert.encoder.layer.0.output.dense.weight",
    ),
}


@pytest.mark.parametrize(("change", "said"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit_are_found_behind_fresh_hashes(copied, change, said):
    root = copied("open")
    change_weights(root, change)
    renewed(root)
    assert any(file == "model/model.safetensors" and said in problem for file, problem in found(root))


def test_other_weights_of_the_same_shapes_answer_otherwise(copied):
    root = copied("open")
    change_weights(root, lambda tensors: tensors["classifier.weight"].__imul__(1.5))
    renewed(root)
    problems = dict(found(root))
    assert "answers otherwise than when the manifest was made" in problems["model"]
    assert "does not answer as PyTorch does (parity failure: logits of optimized" in problems["onnx/optimized"]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [("num_hidden_layers", 3, "lacks the tensor"), ("num_hidden_layers", 1, "holds the tensor"),
     ("intermediate_size", 32, "config.json says [32"), ("auto_map", {"AutoModel": "evil.Model"}, "remote code")],
)  # fmt: skip
def test_a_changed_configuration_does_not_fit_the_weights(copied, key, value, said):
    root = copied("open")
    config = json.loads((root / "model/config.json").read_text())
    (root / "model/config.json").write_text(json.dumps({**config, key: value}))
    renewed(root)
    assert any(said in problem for _, problem in found(root))


def test_swapped_labels_are_found(copied):
    root = copied("open")
    config = json.loads((root / "model/config.json").read_text())
    changed = {"id2label": {"0": "early", "1": "late"}, "label2id": {"early": 0, "late": 1}}
    (root / "model/config.json").write_text(json.dumps({**config, **changed}))
    edit(root / "onnx/int8/classifier.json", lambda text: text.replace("late", "LATE"))
    renewed(root)
    assert {file for file, problem in found(root) if "other labels" in problem} == {"model/config.json", "onnx/int8"}


@pytest.mark.parametrize("target", ["onnx/int8/model.onnx", "onnx/optimized/model.onnx", "onnx/cascade/back.onnx"])
def test_an_onnx_file_of_another_model_is_found_behind_fresh_hashes(copied, target):
    import onnx
    from onnx import numpy_helper

    root = copied("open")
    graph = onnx.load(root / target)
    for tensor in graph.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > 1:
            tensor.CopyFrom(numpy_helper.from_array(values * np.float32(1.4), tensor.name))
    onnx.save(graph, root / target)
    renewed(root)
    folder = target.rpartition("/")[0]
    assert [entry.file for entry in verify(root).findings] == [folder]


def test_a_damaged_onnx_file_is_a_finding_and_no_traceback(copied, command):
    root = copied("open")
    (root / "onnx/int8/model.onnx").write_bytes(b"nothing")
    renewed(root)
    code, out, error = command("verify", root / "onnx/int8")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: \S+/onnx/int8: cannot be run: .*\n", error)


CARDS = {
    "its line": (
        lambda text: re.sub(r"instead of [\d.]+", "instead of 9999", text, count=1),
        "its line is not what result.json says",
    ),
    "its table": (lambda text: re.sub(r"(Changed predictions \| \| )\d+", r"\g<1>7", text), "its table of results"),
    "its metadata": (
        lambda text: re.sub(r"value: [\d.]+", "value: 0.99999", text, count=1),
        "its metadata gives accuracy",
    ),
    "no line": (
        lambda text: re.sub(r"<!-- answer -->.*<!-- /answer -->", "", text, flags=re.DOTALL),
        "its line is not",
    ),
    "no front matter": (lambda text: text.replace("---\n", "---\n[", 1), "its metadata cannot be read"),
}


@pytest.mark.parametrize(("change", "said"), CARDS.values(), ids=CARDS)
def test_a_card_that_says_something_else_is_found(copied, change, said):
    root = copied("ship")
    edit(root / "model/README.md", change)
    renewed(root)
    assert any(file == "model/README.md" and said in problem for file, problem in found(root))


def test_a_result_that_says_something_else_is_found(copied):
    root = copied("ship")
    result = json.loads((root / "result.json").read_text())
    result["answer"]["bytes"] += 2_000_000
    (root / "result.json").write_text(json.dumps(result))
    renewed(root)
    files = {file for file, _ in found(root)}
    assert files == {"model/README.md", result["answer"]["path"]}


def test_what_the_line_ships_must_be_there(copied):
    root = copied("ship")
    shipped = json.loads((root / "result.json").read_text())["answer"]["path"]
    shutil.rmtree(root / shipped)
    assert (shipped, "is what the card's line ships, and it is missing") in found(root)


def test_words_of_another_version_are_held_to_their_numbers(copied):
    root = copied("ship")
    edit(root / "model/README.md", lambda text: text.replace("evaluation texts, which", "evaluation rows, which"))
    renewed(root)
    assert not verify(root).whole
    manifest = json.loads((root / "manifest.json").read_text())
    (root / "manifest.json").write_text(json.dumps({**manifest, "compressor": "0.0.1"}))
    assert verify(root).whole
    edit(root / "model/README.md", lambda text: re.sub(r"On \d+ evaluation", "On 7 evaluation", text))
    renewed(root)
    assert not verify(root).whole
