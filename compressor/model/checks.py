"""What is refused in a checkpoint's configuration and weight files, each with its field and the remedy.

No weight is loaded, only what files say of it, and nothing in them is executed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers.activations import ACT2FN

from compressor.data.answers.config import task_of
from compressor.errors import UserError
from compressor.model.families import Family, family_of, kernel_of
from compressor.model.units import Shape

SIZES = "vocab_size", "max_position_embeddings", "type_vocab_size"
"""Fields of a configuration, beside those of the family, that must be whole numbers from 1 on where they are given."""
KEY = "compressor"
"""The field of config.json that holds the shape."""


MOST = {"num_labels": 20_000, "id2label": 20_000, "label2id": 20_000}
"""How many labels a classifier may have; comparing them with one another takes long."""
MOST_LAYERS = 1_000
"""Layers of a model, many times those of any encoder."""
TYPES = {
    **dict.fromkeys(("id2label", "label2id", "pruned_heads", "sentence_transformers"), (dict, "an object")),
    **dict.fromkeys(("problem_type", "sbert_ce_default_activation_function"), (str, "a text")),
    "architectures": (list, "a list"),
}
"""What fields are that we read ourselves, where they are given."""
KERNELS = {
    "attn_implementation",
    "_attn_implementation",
    "_attn_implementation_internal",
    "use_kernels",
    "kernel_config",
}
"""Fields that may have transformers fetch and run compiled code from a hub."""
BUILT_IN = "eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"


def check_given(raw: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError, beginning with `where`, for what must not even be looked at by transformers in a configuration.

    Code that it asks for, and numbers that fill memory before anything is made of them.
    """
    if "auto_map" in raw:
        raise UserError(f"{where} asks for remote code (auto_map), which is never run; use a stock model.")
    for name in sorted(KERNELS & raw.keys()):
        if raw[name] and raw[name] not in BUILT_IN:
            raise UserError(
                f"{where} asks for code from a hub ({name}: {str(raw[name])[:60]!r}), which is never run; take {name} out."
            )
    layers = raw.get(family.layers_key)
    if layers is not None and (type(layers) is not int or not 1 <= layers <= MOST_LAYERS):
        raise UserError(
            f"{where} gives no usable {family.layers_key} ({_cut(layers)}); it must be a whole number from 1 to {MOST_LAYERS:,}."
        )
    for name, (kind, word) in TYPES.items():
        if raw.get(name) is not None and not isinstance(raw[name], kind):
            raise UserError(f"{where}: {name} is {_cut(raw[name])}; it must be {word}.")
    for name, most in MOST.items():
        given = raw.get(name)
        count = len(given) if isinstance(given, list | dict | str) else given
        if isinstance(count, int | float) and count > most:
            raise UserError(f"{where} speaks of {_cut(count)} labels in {name}; at most {most:,} are served.")


def _cut(value: Any) -> str:  # noqa: ANN401
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else f"over {'-' * (value < 0)}10^20"
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_config(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError, beginning with `where`, for fields with which no model of the family can be built or run."""
    if config.get("quantization_config") is not None:
        quantised = config["quantization_config"]
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise UserError(
            f"{where}: quantization_config says that the weights are quantised ({method or 'unknown method'}); give the "
            "checkpoint from before the quantisation."
        )
    if config.get("is_decoder"):
        raise UserError(f"{where}: is_decoder is true, so tokens see only those before them; give an encoder.")
    own = (family.layers_key, family.width_key, family.heads_key, family.ffn_key, family.period_key)
    for name in (*own, *SIZES):
        value, least = config.get(name), 0 if name in family.may_be_zero else 1
        if name in config and not (type(value) is int and value >= least):
            raise UserError(
                f"{where}: {name} is {json.dumps(value, default=str)}; it must be a whole number from {least} on."
            )
    activation = config.get(family.act_key, config.get("activation", "gelu"))
    if not isinstance(activation, str) or activation not in ACT2FN:
        raise UserError(f"{where}: {activation!r} is no activation that transformers knows; correct {family.act_key}.")
    if config[family.width_key] % config[family.heads_key]:
        raise UserError(
            f"{where}: {family.width_key} ({config[family.width_key]}) is no multiple of {family.heads_key} "
            f"({config[family.heads_key]})."
        )
    padding = config.get("pad_token_id")
    if family.position_offset and not (type(padding) is int and padding >= 0):
        raise UserError(
            f"{where}: pad_token_id is {json.dumps(padding, default=str)}, but positions of a {config['model_type']} model "
            "start behind it; set it to the tokenizer's padding token."
        )
    if family.head_act_key and config.get(family.head_act_key) != "gelu":
        raise UserError(
            f"{where}: {family.head_act_key} is {json.dumps(config.get(family.head_act_key), default=str)}; only gelu is served."
        )
    kernel = kernel_of(config)
    if kernel and not (type(kernel) is int and kernel > 0 and kernel % 2):
        raise UserError(
            f"{where}: {family.kernel_key} is {json.dumps(kernel, default=str)}; it must be 0 or an odd number, so that the "
            "convolution behind layer 1 leaves as many tokens as there are."
        )
    _check_one_layer(config, family, where)
    _check_pruned_heads(config.get("pruned_heads") or {}, config[family.layers_key], config[family.heads_key], where)
    _check_heads(stock_shape(config).heads, config[family.heads_key], family, f"{where}: pruned_heads")


def _check_one_layer(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError, beginning with `where`, unless layers that are to be one are, and none has lost heads."""
    if not family.groups_key:
        return
    for name in (family.groups_key, "inner_group_num"):
        if config.get(name, 1) != 1:
            raise UserError(
                f"{where}: {name} is {json.dumps(config[name], default=str)}; the stock class parts layers into groups by "
                "their number, so that fewer layers would be others, and only 1, one layer for all, is served."
            )
    if config.get("pruned_heads"):
        raise UserError(
            f"{where}: pruned_heads says what single layers have lost, but layers of this family are one; give the model "
            "from before."
        )


def _check_heads(heads: Sequence[int], full: int, family: Family, where: str) -> None:
    """Raise UserError, beginning with `where`, for layers that lost some of their heads where heads cannot be told apart."""
    if not family.movable_heads and set(heads) - {0, full}:
        raise UserError(
            f"{where}: a layer of this family has all its {full} heads or none; each has a bias by its place."
        )


def _check_pruned_heads(pruned: Mapping[int, Any], layers: int, heads: int, where: str) -> None:
    """Raise UserError, beginning with `where`, for heads that are not there; layers and heads count from 0 in the file."""
    for layer, gone in pruned.items():
        at = f"{where}: pruned_heads of layer {layer} (from 0)"
        if not 0 <= layer < layers:
            raise UserError(f"{at}: there are {layers} layers; correct it.")
        if not isinstance(gone, list) or any(type(head) is not int or not 0 <= head < heads for head in gone):
            raise UserError(f"{at}: {json.dumps(gone, default=str)} must be a list of heads from 0 to {heads - 1}.")
        if len(set(gone)) == heads:
            raise UserError(f"{at}: no head is left; one at least must stay.")


def shape_in(config: Mapping[str, Any], where: str = "config.json") -> Shape | None:
    """Return the shape that a configuration (config.json as a dict) announces, None for a stock one.

    Raises UserError, beginning with `where`, for lists of the wrong length, widths or heads that are no whole numbers from
    0 on, more heads than there are, or entries that are not known. Directories of earlier versions say of each layer
    whether it attends (`attention`) and not with how many heads.
    """
    entry = config.get(KEY)
    if entry is None:
        return None
    stock = stock_shape(config)
    layers = len(stock.heads)
    known = {"ffn_widths", "heads", "attention", "stored"}
    if not isinstance(entry, Mapping) or set(entry) - known or "ffn_widths" not in entry:
        raise UserError(f"{where}: {KEY} must hold ffn_widths and may hold heads, one value a layer, and stored.")
    widths = check_widths(entry["ffn_widths"], layers, f"{where}: {KEY}.ffn_widths")
    attention = entry.get("attention", [True] * layers)
    if not isinstance(attention, list) or len(attention) != layers or {type(value) for value in attention} - {bool}:
        raise UserError(f"{where}: {KEY}.attention must be {layers} times true or false, one for each layer.")
    heads = entry.get("heads", [own * attends for own, attends in zip(stock.heads, attention, strict=True)])
    if (
        not isinstance(heads, list)
        or len(heads) != layers
        or any(type(own) is not int or not 0 <= own <= most for own, most in zip(heads, stock.heads, strict=True))
    ):
        raise UserError(
            f"{where}: {KEY}.heads must be {layers} whole numbers, for each layer how many of its {max(stock.heads)} heads "
            "are left, 0 for no attention."
        )
    family = family_of(config["model_type"])
    _check_heads(heads, stock.full_heads, family, f"{where}: {KEY}.heads")
    if family.groups_key and (len({*zip(widths, heads, strict=True)}) > 1 or 0 in {*widths, *heads}):
        raise UserError(f"{where}: {KEY} says what single layers have lost, but layers of this family are one.")
    stored = entry.get("stored", "stock")
    if stored not in {"stock", "exact"}:
        raise UserError(f"{where}: {KEY}.stored is {stored!r}; it must be stock or exact.")
    return replace(stock, ffn_widths=widths, heads=tuple(heads), stored=stored)


def stock_shape(config: Mapping[str, Any]) -> Shape:
    """Return the shape of the model that the stock class of transformers 4 makes: an even one but for pruned heads."""
    family = family_of(config["model_type"])
    heads, pruned = config[family.heads_key], config.get("pruned_heads") or {}
    left = tuple(heads - len(pruned.get(layer, ())) for layer in range(config[family.layers_key]))
    return Shape((config[family.ffn_key],) * len(left), left, heads, ffn_maps=2 + family.gated)


def check_widths(widths: Any, layers: int, where: str) -> tuple[int, ...]:  # noqa: ANN401
    """Return the widths as a tuple; raises UserError unless there is a whole number from 0 on for each of `layers`."""
    if not isinstance(widths, list | tuple):
        raise UserError(f"{where}: give a list with one width for each of the {layers} layers.")
    if len(widths) != layers:
        raise UserError(f"{where}: {len(widths)} widths for {layers} layers; give one for each.")
    for number, width in enumerate(widths, start=1):
        if type(width) is not int or width < 0:
            raise UserError(f"{where}: layer {number} has width {width!r}; give a whole number, 0 for no FFN.")
    return tuple(widths)


def check_outputs(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, beginning with `where`, for a classifier whose task is not known or whose labels are not clear."""
    task_of(config, where)
    names = config["id2label"]
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{where}: id2label has the keys {', '.join(map(str, names))}; they must be 0 to {len(names) - 1}."
        )
    labels = [str(name) for _, name in sorted(names.items())]
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: id2label calls several labels {twice!r}; give each a name of its own.")
    for name, index in (config.get("label2id") or {}).items():
        if name in labels and labels.index(name) != index:
            raise UserError(
                f"{where}: label2id says that {name!r} is {index}, id2label that it is {labels.index(name)}; correct one."
            )
