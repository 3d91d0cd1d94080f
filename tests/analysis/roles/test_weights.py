"""Checkpoints of roles: encoders and decoders in several layouts, whole or in parts, and what is refused."""

import json

import pytest
import torch
from role_cases import FFN, WIDTH, encoder, gpt2, layer_matrices, llama, name, neox, save

from compressor.analysis.roles.roles import analyze_roles
from compressor.analysis.roles.weights import NAMINGS, open_weights
from compressor.errors import UserError
from compressor.model.families import FAMILIES

EXACT = "attention_rank", "ffn_rank", "magnitude_cv", "saturated", "write_ratio", "total_write", "attention_share"


def test_plain_decoders_in_two_layouts_say_the_same(tmp_path):
    matrices = layer_matrices(3, gated=False)
    first = analyze_roles(save(tmp_path / "gpt2", gpt2(matrices)), draws=4)
    second = analyze_roles(save(tmp_path / "neox", neox(matrices)), draws=4)
    assert (first.naming, second.naming) == ("gpt2", "gpt-neox")
    for feature in EXACT:
        assert first.features[feature] == pytest.approx(second.features[feature], rel=1e-5), feature
    assert first.features["norm_concentration"] == [None] * 3  # these checkpoints hold no norms
    wanted = matrices[0]["ffn_in"].norm(dim=1) * matrices[0]["ffn_out"].norm(dim=0)
    assert first.features["magnitude_cv"][0] == pytest.approx(float(wanted.std(correction=0) / wanted.mean()), rel=1e-5)


def test_gated_decoders_in_parts_and_in_sixteen_bits(tmp_path):
    matrices = layer_matrices(3, gated=True)
    whole = analyze_roles(save(tmp_path / "whole", llama(matrices), model_type="llama"), draws=4)
    parts = analyze_roles(save(tmp_path / "parts", llama(matrices), shards=4, model_type="llama"), draws=4)
    assert whole.naming == "llama"
    assert {**vars(whole), "model": ""} == {**vars(parts), "model": ""}
    wanted = matrices[1]["gate"].norm(dim=1) * matrices[1]["ffn_in"].norm(dim=1)
    assert whole.features["magnitude_cv"][1] == pytest.approx(float(wanted.std(correction=0) / wanted.mean()), rel=1e-5)
    energy = {part: float(matrix.square().sum()) for part, matrix in matrices[1].items()}
    ffn = energy["gate"] + energy["ffn_in"] + energy["ffn_out"]
    attention = sum(energy.values()) - ffn
    assert whole.features["attention_share"][1] == pytest.approx(attention / (attention + ffn), rel=1e-5)
    inputs = (energy["gate"] + energy["ffn_in"]) / 2
    assert whole.features["write_ratio"][1] == pytest.approx((energy["ffn_out"] / inputs) ** 0.5, rel=1e-5)
    half = {key: tensor.bfloat16() for key, tensor in llama(matrices).items()}
    rounded = analyze_roles(save(tmp_path / "half", half, shards=2), draws=0)
    assert rounded.features["magnitude_cv"] == pytest.approx(whole.features["magnitude_cv"], rel=0.01)


def test_norms_that_are_stored_as_a_difference_from_one(tmp_path):
    tensors = llama(layer_matrices(2, gated=True))  # the scales of its norms are stored as 0
    shifted = analyze_roles(save(tmp_path / "gemma", tensors, model_type="gemma2"), draws=0)
    assert shifted.features["norm_concentration"] == pytest.approx([1 / WIDTH] * 2)
    plain = analyze_roles(save(tmp_path / "llama", tensors, model_type="llama"), draws=0)
    assert plain.features["norm_concentration"] == [0.0, 0.0]


def test_a_bin_file_says_the_same_and_old_norms_are_known(tmp_path):
    tensors = encoder(3)
    folder = save(tmp_path / "new", tensors)
    old = {key.replace("LayerNorm.weight", "LayerNorm.gamma"): value for key, value in tensors.items()}
    for zipped in (True, False):
        other = tmp_path / f"bin-{zipped}"
        other.mkdir()
        (other / "config.json").write_text((folder / "config.json").read_text())
        torch.save(old, other / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
        assert analyze_roles(other, draws=0).features == analyze_roles(folder, draws=0).features


def test_namings_of_encoders_cover_all_families():
    laid_out = {
        (family.layers.removeprefix(f"{family.encoder}."), family.query, family.attention_output, family.ffn_input,
         family.ffn_output, family.ffn_norm) for family in FAMILIES.values() if not family.groups_key
    }  # fmt: skip
    known = {
        (
            naming.layers,
            naming.attention_in[0],
            naming.attention_out,
            naming.ffn_in[0],
            naming.ffn_out,
            naming.norms[-1],
        )
        for naming in NAMINGS.values()
    }
    assert laid_out <= known


def without(key):
    return lambda tensors: {other: value for other, value in tensors.items() if other != key}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        (lambda _: {"encoder.albert_layer_groups.0.full.weight": torch.ones(2, 2)}, {}, "fit none of the layouts"),
        (without(name(2, "ffn_out")), {}, "layer 2 has no tensor bert.encoder.layer.1.output.dense.weight"),
        (without(name(2, "key")), {}, "layer 2 has no tensor"),
        (
            lambda tensors: tensors | {"other." + key: value.clone() for key, value in tensors.items()},
            {},
            "several stacks",
        ),
        (lambda tensors: tensors | {name(1, "query"): torch.ones(4, 4, dtype=torch.int8)}, {}, "stored as int8"),
        (lambda tensors: tensors | {name(1, "query"): torch.ones(4)}, {}, "not that of a matrix"),
        (lambda tensors: tensors | {name(1, "ffn_out"): torch.ones(WIDTH, FFN + 1)}, {}, "do not share the width"),
        (lambda tensors: tensors, {"num_attention_heads": 5}, "which 5 attention heads cannot share"),
        (lambda tensors: tensors, {"num_attention_heads": None}, "no number of attention heads"),
        (lambda tensors: tensors, {"is_encoder_decoder": True}, "an encoder and a decoder"),
    ],
)
def test_what_roles_cannot_be_read_from_is_refused_in_one_sentence(tmp_path, change, config, message):
    folder = save(tmp_path / "model", change(encoder(3)), **config)
    with pytest.raises(UserError, match=message) as caught:
        analyze_roles(folder, draws=0)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_missing_or_damaged_are_named(tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        open_weights(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no config\.json"):
        open_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds no weights"):
        open_weights(tmp_path)
    for file in ("model.safetensors", "pytorch_model.bin"):
        (tmp_path / file).write_bytes(b"damaged")
        with pytest.raises(UserError, match=f"{file} cannot be read"):
            open_weights(tmp_path)
        (tmp_path / file).unlink()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "pytorch_model.bin")  # a pickle of code, which is never run
    with pytest.raises(UserError, match="cannot be read"):
        open_weights(tmp_path)
    # pickles end in errors of many types: IndexError, KeyError, UnicodeDecodeError, struct.error, AssertionError
    for content in (
        b"\x80\x020.",
        b"\x80\x02h\x05.",
        b"\x80\x02X\x01\x00\x00\x00\xff.",
        b"\x80\x02J\x00",
        b"\x80\x02K\x01Q.",
    ):
        (tmp_path / "pytorch_model.bin").write_bytes(content)
        with pytest.raises(UserError, match=r"pytorch_model\.bin cannot be read"):
            open_weights(tmp_path)
    for content in ("[1", "[" * 100_000):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(UserError, match=r"config\.json cannot be read"):
            open_weights(tmp_path)


def test_parts_that_are_missing_or_do_not_hold_what_the_index_says(tmp_path):
    folder = save(tmp_path / "parts", llama(layer_matrices(2, gated=True)), shards=2)
    index = folder / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    moved = {key: "model-0.safetensors" for key in content["weight_map"]}
    index.write_text(json.dumps({"weight_map": moved}))
    with pytest.raises(UserError, match=r"model-0\.safetensors cannot be read"):
        analyze_roles(folder, draws=0)
    index.write_text(json.dumps(content))
    (folder / "model-1.safetensors").unlink()
    with pytest.raises(UserError, match=r"names model-1\.safetensors, which is not in the folder"):
        open_weights(folder)
    index.write_text("{}")
    with pytest.raises(UserError, match="no weight_map"):
        open_weights(folder)
