"""What is no usable model is refused with its reason."""

import json

import numpy as np
import pytest
import torch
from checkpoints import edit_config, edit_weights
from safetensors.torch import load_file
from tiny import CONFIGS, LETTERS, TEXTS, save_model

from compressor.data.answers.config import model_task
from compressor.data.batches import encode
from compressor.errors import UserError
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES
from compressor.model.load import find_model, load_classifier, load_tokenizer, longest_input


def test_a_good_directory_is_found_without_loading_it(folder):
    source = find_model(str(folder))
    assert (source.layers, source.label_names) == (2, ["LABEL_0", "LABEL_1", "LABEL_2"])
    before = source.sha256
    edit_weights(folder, lambda weights: {name: tensor + 1 for name, tensor in weights.items()})
    assert find_model(str(folder)).sha256 != before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "deberta"}, "its relative-position attention is not covered"),
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


def test_several_numbers_a_row_are_refused_and_fine_tuning_resets_them(folder):
    edit_config(folder, problem_type="regression")
    with pytest.raises(UserError, match="problem_type is regression with 3 outputs"):
        load_classifier(find_model(str(folder)))
    assert load_classifier(find_model(str(folder)), new_labels=["a", "b"]).config.problem_type is None


@pytest.mark.parametrize(("kind", "labels"), [("score", ["score"]), ("many_labels", ["a", "b", "c"])])
def test_fine_tuning_makes_the_outputs_of_a_kind(folder, kind, labels):
    model = load_classifier(find_model(str(folder)), new_labels=labels, kind=kind)
    assert (model_task(model).kind, model.config.num_labels) == (kind, len(labels))
    assert load_classifier(find_model(str(folder))).config.num_labels == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"id2label": {"1": "a", "2": "b", "3": "c"}}, "id2label has the keys 1, 2, 3; they must be 0 to 2"),
        ({"id2label": {"0": "a", "1": "a", "2": "b"}}, "calls several labels 'a'"),
        (
            {"id2label": {"0": "no", "1": "yes", "2": "c"}, "label2id": {"no": 1, "yes": 0, "c": 2}},
            "label2id says that 'no' is 1, id2label that it is 0",
        ),
    ],
)
def test_label_names_that_contradict_each_other_are_refused(folder, changes, words):
    edit_config(folder, **changes)
    with pytest.raises(UserError, match=words):
        load_classifier(find_model(str(folder)))


def set_field(folder, name, value):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))


@pytest.mark.parametrize("model_type", list(CONFIGS))
@pytest.mark.parametrize("name", ["vocab_size", "max_position_embeddings", "heads_key", "width_key", "ffn_key"])
@pytest.mark.parametrize("value", [None, 0, -1, "many", 2.5, True])
def test_what_is_no_whole_number_where_one_is_expected_is_refused(tmp_path, model_type, name, value):
    folder = save_model(tmp_path / "model", model_type, layers=1)
    field = getattr(FAMILIES[model_type], name, name)
    set_field(folder, field, value)
    with pytest.raises(UserError, match=field if value is not None else "config"):
        find_model(str(folder))


@pytest.mark.parametrize("model_type", list(CONFIGS))
def test_a_null_padding_id_is_refused_only_where_positions_need_it(tmp_path, model_type):
    folder = save_model(tmp_path / "model", model_type, layers=1)
    set_field(folder, "pad_token_id", None)
    if FAMILIES[model_type].position_offset:
        with pytest.raises(UserError, match="pad_token_id is null, but positions"):
            find_model(str(folder))
    else:
        assert longest_input(find_model(str(folder)).config) == 60
        load_classifier(find_model(str(folder)))


def test_quantised_checkpoints_and_decoders_are_refused(folder):
    edit_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_8bit": True})
    with pytest.raises(UserError, match=r"quantised \(bitsandbytes\); give the checkpoint from before"):
        find_model(str(folder))
    edit_config(folder, quantization_config=None, is_decoder=True)
    with pytest.raises(UserError, match="is_decoder is true"):
        find_model(str(folder))
    edit_config(folder, is_decoder=None)
    edit_weights(
        folder,
        lambda w: {name: t.to(torch.float8_e4m3fn) if name.endswith("dense.weight") else t for name, t in w.items()},
    )
    with pytest.raises(UserError, match=r"dense\.weight is stored in 8 bits \(F8_E4M3\)"):
        load_classifier(find_model(str(folder)))


def test_output_flags_and_chunks_change_nothing(folder):
    encodings = encode(TEXTS, load_tokenizer(find_model(str(folder))), 40)
    wanted = predict(load_classifier(find_model(str(folder))), encodings)
    flags = {"return_dict": False, "torchscript": True, "output_hidden_states": True, "output_attentions": True}
    edit_config(folder, **flags, chunk_size_feed_forward=1)
    np.testing.assert_array_equal(predict(load_classifier(find_model(str(folder))), encodings), wanted)


@pytest.mark.parametrize("pickled", [False, True])
@pytest.mark.parametrize("prefix", ["bert.", ""])
def test_an_encoder_without_a_head_says_to_fine_tune_it(tmp_path, tiny_task, command, prefix, pickled):
    folder = save_model(tmp_path / "model", layers=3, num_labels=2)
    edit_weights(
        folder,
        lambda weights: {
            name.replace("bert.", prefix, 1): t for name, t in weights.items() if not name.startswith("classifier")
        },
    )
    if pickled:
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    names = tmp_path / "named.csv"
    names.write_text(
        "text,label\n" + "".join(f"{letter} b,{'good' if letter < 'm' else 'bad'}\n" for letter in LETTERS)
    )
    sets = [f"model.path={folder}", f"data.train={names}"]
    code, _, stderr = command(
        "score", tiny_task / "recipe.yaml", *(w for s in sets for w in ("--set", s)), "--out", tmp_path / "r"
    )
    assert (code, "has no classification head" in stderr, "add a finetune section" in stderr) == (2, True, True), stderr


def test_a_hub_id_may_lack_an_owner(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        UserError, match=r"'bert-base-that-is-not-here': no such directory here, and the hub cannot be reached"
    ):
        find_model("bert-base-that-is-not-here")
    with pytest.raises(UserError, match="a hub id has the form owner/name or name"):
        find_model("a/b/c")


def test_a_tokenizer_that_loads_and_cannot_be_used_is_refused(folder):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": [512]}))
    with pytest.raises(UserError, match="the tokenizer cannot be loaded"):
        load_tokenizer(find_model(str(folder)))


def test_a_sentencepiece_model_alone_needs_its_library(folder, monkeypatch):
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    (folder / "sentencepiece.bpe.model").write_bytes(b"x")
    monkeypatch.setattr("compressor.model.load.find_spec", lambda _name: None)
    with pytest.raises(UserError, match=r"pip install sentencepiece`, or save tokenizer\.json"):
        load_tokenizer(find_model(str(folder)))
