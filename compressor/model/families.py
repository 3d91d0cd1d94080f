"""The table of model families: where the layers and the classification head of each sit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from compressor.errors import UserError, nearest


@dataclass(frozen=True)
class Family:
    """Names inside a `*ForSequenceClassification` of one `config.model_type`.

    The head of every family here reads row 0 ([CLS] or <s>) of the last state z and computes
    `output(activation(dense(z)))`; that is what lets a small head fold into it exactly.
    """

    encoder: str
    """Module that holds embeddings and layers; its name prefixes their weights."""
    layers: str
    """The ModuleList of encoder layers."""
    dense: str
    """First linear map of the head, [H, H]."""
    output: str
    """Second linear map of the head, [C, H]."""
    activation: Callable[[Tensor], Tensor] = torch.tanh
    layers_key: str = "num_hidden_layers"
    """Config field with the number of layers."""
    ffn_key: str = "intermediate_size"
    """Config field with the width of the feed-forward block."""
    width_key: str = "hidden_size"
    """Config field with the width of the states."""
    heads_key: str = "num_attention_heads"
    """Config field with the number of attention heads."""
    position_offset: bool = False
    """Whether positions start behind the padding id, so that fewer tokens fit than there are positions."""
    query: str = "attention.self.query"
    """Inside a layer: the linear map to the queries of all heads, [H, H]; `key` and `value` likewise."""
    key: str = "attention.self.key"
    value: str = "attention.self.value"
    attention_core: str = "attention.self"
    """Inside a layer: the module that holds these three, and whose output `attention_output` reads or gives."""
    head_counts: tuple[str, str] = ("num_attention_heads", "all_head_size")
    """Attributes of that module: how many heads it has, and their sizes together."""
    attention_output: str = "attention.output.dense"
    """Inside a layer: the linear map that ends the attention block, [H, H]."""
    attention_norm: str = "attention.output.LayerNorm"
    """Inside a layer: the norm over the sum of the layer's input and the attention output."""
    ffn_input: str = "intermediate.dense"
    """Inside a layer: the linear map that begins the feed-forward block, [F, H]."""
    ffn_activation: str = "intermediate.intermediate_act_fn"
    """Inside a layer: the activation inside the feed-forward block."""
    ffn_output: str = "output.dense"
    """Inside a layer: the linear map that ends the feed-forward block, [H, F]."""
    ffn_norm: str = "output.LayerNorm"
    """Inside a layer: the norm over the sum of attention and feed-forward outputs, which ends the layer."""
    token_types: bool = True
    """Whether the model takes token type ids (segments)."""
    position_maps: Mapping[str, str] = field(default_factory=dict)
    """Kind of `pos_att_type` -> inside a layer, the map [H, H] of distances to what heads compare them with."""
    relative: bool = False
    """Whether attention always reads how far tokens are apart, by what every layer is given beside the states."""
    movable_heads: bool = True
    """Whether a head may lie at another's place: not where each place has a bias of its own."""
    may_be_zero: tuple[str, ...] = ()
    """Config fields of sizes of which 0 says that there is none."""
    head_act_key: str = ""
    """Config field with the head's activation, where it has one; `activation` is the only one that is served."""


_ROBERTA = Family(
    encoder="roberta",
    layers="roberta.encoder.layer",
    dense="classifier.dense",
    output="classifier.out_proj",
    position_offset=True,
)
FAMILIES: dict[str, Family] = {
    "bert": Family(encoder="bert", layers="bert.encoder.layer", dense="bert.pooler.dense", output="classifier"),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "distilbert": Family(
        encoder="distilbert",
        layers="distilbert.transformer.layer",
        dense="pre_classifier",
        output="classifier",
        activation=torch.relu,
        layers_key="n_layers",
        ffn_key="hidden_dim",
        width_key="dim",
        heads_key="n_heads",
        query="attention.q_lin",
        key="attention.k_lin",
        value="attention.v_lin",
        attention_core="attention",
        head_counts=("n_heads", "dim"),
        attention_output="attention.out_lin",
        attention_norm="sa_layer_norm",
        ffn_input="ffn.lin1",
        ffn_activation="ffn.activation",
        ffn_output="ffn.lin2",
        ffn_norm="output_layer_norm",
        token_types=False,
    ),
    "electra": Family(
        encoder="electra",
        layers="electra.encoder.layer",
        dense="classifier.dense",
        output="classifier.out_proj",
        activation=nn.functional.gelu,
    ),
    "mpnet": Family(
        encoder="mpnet",
        layers="mpnet.encoder.layer",
        dense="classifier.dense",
        output="classifier.out_proj",
        position_offset=True,
        query="attention.attn.q",
        key="attention.attn.k",
        value="attention.attn.v",
        attention_core="attention.attn",
        attention_output="attention.attn.o",
        attention_norm="attention.LayerNorm",
        token_types=False,
        relative=True,
        movable_heads=False,
    ),
    "deberta-v2": Family(
        encoder="deberta",
        layers="deberta.encoder.layer",
        dense="pooler.dense",
        output="classifier",
        activation=nn.functional.gelu,
        query="attention.self.query_proj",
        key="attention.self.key_proj",
        value="attention.self.value_proj",
        position_maps={"c2p": "attention.self.pos_key_proj", "p2c": "attention.self.pos_query_proj"},
        relative=True,
        may_be_zero=("type_vocab_size",),
        head_act_key="pooler_hidden_act",
    ),
}

REFUSED: dict[str, str] = {
    "albert": "all its layers share one set of weights, so dropping a layer removes nothing",
    "deberta": "its relative-position attention is not covered by the layer capture yet",
    "modernbert": "layers attend globally or locally by their index, so renumbering changes what they compute",
}


def family_of(model_type: str | None) -> Family:
    """Return the row of `model_type`; raises UserError with the reason for families that are not supported."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if model_type in REFUSED:
        raise UserError(f"model type {model_type!r} is not supported: {REFUSED[model_type]}; use one of {_names()}.")
    raise UserError(
        f"model type {model_type!r} is not supported{nearest(model_type, FAMILIES)}; supported: {_names()}."
    )


def part_sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many neurons and how many heads a layer of a model with this configuration has that may go one by one."""
    family = family_of(config["model_type"])
    return config[family.ffn_key], config[family.heads_key] if family.movable_heads else 1


def layer_list(model: nn.Module, family: Family) -> nn.ModuleList:
    """Return the encoder layers, layer 1 at index 0."""
    return model.get_submodule(family.layers)


def position_maps(config: Mapping[str, Any], family: Family) -> list[str]:
    """Return the names of the maps of distances that each layer of a model with this configuration has."""
    kinds = (
        (config.get("pos_att_type") or [])
        if config.get("relative_attention") and not config.get("share_att_key")
        else []
    )
    return [name for kind, name in family.position_maps.items() if kind in kinds]


def head_logits(model: nn.Module, family: Family, cls: Tensor) -> Tensor:
    """Return the stock head's logits [N, C] of final [CLS] states [N, H], without dropout."""
    dense, output = model.get_submodule(family.dense), model.get_submodule(family.output)
    return output(family.activation(dense(cls)))


def _names() -> str:
    return ", ".join(sorted(FAMILIES))
