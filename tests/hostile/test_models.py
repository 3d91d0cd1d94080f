"""Model directories from anyone: nothing in them is run, fetched, or made larger than their files are."""

import json
import os
import shutil
import struct
import time
import zipfile

import pytest
import torch
from tiny import save_model

from compressor.analysis.roles.weights import open_weights
from compressor.errors import UserError
from compressor.model.load import find_model, load_classifier, load_tokenizer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("hostile") / "model", layers=2, num_labels=2)


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made, tmp_path / "model")


def refused(folder, words, command, tiny_task):
    """Check that every way in says so, with exit code 2, in seconds."""
    started = time.process_time()
    sets = "--set", f"model.path={folder}"
    for arguments in (["validate", tiny_task / "recipe.yaml", *sets], ["explain", folder, "a b c"]):
        code, _, error = command(*arguments)
        with pytest.raises(UserError, match=words):
            raise UserError(error)
        assert (code, error.count("error: ")) == (2, 1)
    assert time.process_time() - started < 5


def edited(folder, name, **changes):
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**content, **changes}))
    return folder


def header_of(folder):
    content = (folder / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(folder, header, data, length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 50_000_000, 10**6])
def test_a_header_that_is_longer_than_its_file(folder, length, command, tiny_task):
    with_header(folder, {}, b"", length)
    refused(
        folder, r"model\.safetensors: the weight file is damaged .*it announces .* bytes of header", command, tiny_task
    )


def test_a_file_of_holes_is_refused_by_its_header_and_not_read(folder, command, tiny_task):
    header, data = header_of(folder)
    with_header(folder, header, data)
    os.truncate(folder / "model.safetensors", 2**40)
    refused(folder, r"its header speaks of [\d,]+ bytes of weights, and 1,099,5", command, tiny_task)


def test_tensors_that_share_their_bytes(folder):
    header, data = header_of(folder)
    first, second, *_ = (name for name in header if name != "__metadata__" and header[name]["shape"] == [32])
    header[first]["data_offsets"] = header[second]["data_offsets"]
    with_header(folder, header, data)
    with pytest.raises(UserError, match="cannot be loaded .*invalid offset"):
        load_classifier(find_model(str(folder)))


def test_more_tensors_than_any_model_has(folder, command, tiny_task):
    header, data = header_of(folder)
    header |= {f"t{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(30_000)}
    with_header(folder, header, data)
    refused(folder, r"it names 30,0\d\d tensors", command, tiny_task)


def test_a_header_of_lists_in_lists(folder, command, tiny_task):
    with_header(folder, b"[" * 1_000_000, b"")
    refused(folder, "the weight file is damaged", command, tiny_task)


class Evil:
    """Pickle that would create a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "classifier.joblib", "training_args.bin", "optimizer.pt"])
def test_pickles_of_any_name_are_not_run(folder, name, tmp_path, command, tiny_task):
    torch.save({"a": Evil(tmp_path / "run")}, folder / name)
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
        refused(folder, "damaged or cannot be read .Weights only load failed", command, tiny_task)
    assert command("explain", folder, "a b c")[0] == (2 if name == "pytorch_model.bin" else 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", ["archive/data.pkl", "archive/data/0"])
def test_a_zip_bomb_is_not_unpacked(folder, part, command, tiny_task):
    (folder / "model.safetensors").unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n")
        with archive.open(part, "w", force_zip64=True) as written:
            for _ in range(300):
                written.write(b"0" * 1_000_000)
    refused(folder, r"its content is compressed, 300,000,002 bytes in \d+,\d+", command, tiny_task)
    with pytest.raises(UserError, match="its content is compressed"):
        open_weights(folder)


@pytest.mark.parametrize("shard", ["../weights.safetensors", "/weights.safetensors", 3, None])
def test_shards_that_lie_elsewhere(folder, shard, command, tiny_task):
    header, _ = header_of(folder)
    shutil.move(folder / "model.safetensors", folder.parent / "weights.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(header, shard)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    words = (
        r"index\.json: cannot be read \(it names .*which lies elsewhere" if isinstance(shard, str) else "cannot be read"
    )
    refused(folder, words, command, tiny_task)
    with pytest.raises(UserError):
        open_weights(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auto_map": {"AutoModel": "evil.Model"}}, r"remote code \(auto_map\), which is never run"),
        ({"attn_implementation": "owner/kernel"}, r"code from a hub \(attn_implementation: 'owner/kernel'\)"),
        ({"_attn_implementation": "owner/kernel:x"}, "code from a hub"),
        ({"use_kernels": True}, "code from a hub"),
        ({"attn_implementation": [1]}, "code from a hub"),
        ({"architectures": 3}, "architectures is 3; it must be a list"),
        ({"sentence_transformers": [1]}, "sentence_transformers is .1.; it must be an object"),
        ({"id2label": ["a", "b"]}, "id2label is .*; it must be an object"),
        ({"problem_type": {"a": 1}}, "problem_type is .*; it must be a text"),
        ({"num_hidden_layers": 10**9}, r"num_hidden_layers \(1000000000\); it must be a whole number from 1 to 1,000"),
        ({"num_hidden_layers": 10**5000}, r"num_hidden_layers \(over 10\^20\)|cannot be read"),
        ({"hidden_size": 2**40}, r"it announces [\d,]+ weights \(.*hidden_size 1,099,511,627,776.*and the files hold"),
        ({"vocab_size": 10**12}, "it announces"),
        ({"intermediate_size": 10**10}, "it announces"),
        ({"max_position_embeddings": 10**12}, "it announces"),
        ({"type_vocab_size": 10**12}, "it announces"),
        ({"num_labels": 10**8}, "speaks of 100000000 labels in num_labels"),
        ({"id2label": {str(n): f"l{n}" for n in range(50_000)}}, "speaks of 50000 labels in id2label"),
        ({"note": "x" * 4_000_000}, r"has over 3,000,000 bytes"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_asks_for_code_or_memory(folder, changes, words, command, tiny_task, monkeypatch):
    import sys

    monkeypatch.setattr(sys, "set_int_max_str_digits", sys.set_int_max_str_digits)
    try:
        sys.set_int_max_str_digits(0)
        edited(folder, "config.json", **changes)
    finally:
        sys.set_int_max_str_digits(4300)
    refused(folder, words, command, tiny_task)


@pytest.mark.parametrize("name", ["eager", "sdpa"])
def test_attention_of_the_library_itself_is_no_code_from_elsewhere(folder, name):
    assert load_classifier(find_model(str(edited(folder, "config.json", _attn_implementation=name))))


def test_an_adapter_is_told_from_a_model(folder, command, tiny_task):
    (folder / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": "evil/model", "peft_type": "LORA"})
    )
    refused(folder, r"adapter_config\.json says that weights are those of an adapter", command, tiny_task)


def test_code_of_a_tokenizer_is_not_run(folder, tmp_path):
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Tokenizer: pass\n")
    own = edited(
        folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Tokenizer", None]}, tokenizer_class="Evil"
    )
    with pytest.raises(UserError, match="contains custom code"):
        load_tokenizer(find_model(str(own)))
    assert not (tmp_path / "run").exists()
