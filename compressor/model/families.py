"""The table of model families: where the layers and the classification head of each sit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from compressor.data.answers.kinds import SINGLE_LABEL, TOKENS
from compressor.errors import UserError, nearest


@dataclass(frozen=True)
class Family:
    """Names inside a `*ForSequenceClassification` of one `config.model_type`.

    Most heads read row 0 ([CLS] or <s>) of the last state z and compute `output(activation(dense(z)))`, which lets a small
    head fold into them exactly. A pre-norm family has a `final_norm`: its layers add to a stream that nothing normalises
    before the end, `attention_norm` and `ffn_norm` stand in front of their blocks, and layer 1 may have no attention norm.
    """

    encoder: str
    """Module that holds embeddings and layers; its name prefixes their weights."""
    layers: str
    """The ModuleList of encoder layers."""
    dense: str
    """First linear map of the head, [H, H]; "" where the head is one map alone (`family_of` with tokens)."""
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
    """Inside a layer: the norm over the sum of the layer's input and the attention output (pre-norm: in front of attention)."""
    ffn_input: str = "intermediate.dense"
    """Inside a layer: the linear map that begins the feed-forward block, [F, H]."""
    ffn_activation: str = "intermediate.intermediate_act_fn"
    """Inside a layer: the activation inside the feed-forward block."""
    ffn_output: str = "output.dense"
    """Inside a layer: the linear map that ends the feed-forward block, [H, F]."""
    ffn_norm: str = "output.LayerNorm"
    """Inside a layer: the norm over the sum of attention and feed-forward outputs, which ends the layer (pre-norm: in front
    of the feed-forward block)."""
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
    act_key: str = "hidden_act"
    """Config field with the activation inside the feed-forward block."""
    final_norm: str = ""
    """The norm behind the last layer of a pre-norm family."""
    head_norm: str = ""
    """The norm between the head's activation and its second map, where there is one."""
    pooling_key: str = ""
    """Config field that says what the head reads, where that differs: `cls` (row 0) or `mean` (over the text's tokens)."""
    gated: bool = False
    """Whether the map into the feed-forward block gives two numbers a neuron: all inputs of the activation, then all gates."""
    bias_keys: tuple[str, str] = ("", "")
    """Config fields that say whether the maps of attention and of the feed-forward block have biases; "": they do."""
    period_key: str = ""
    """Config field n where a layer's kind follows from its place: layers 1, 1 + n, 1 + 2 n, ... attend globally."""
    loaded_with: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `from_pretrained` with which the family's layers run as plain modules."""
    groups_key: str = ""
    """Config field with the number of different layers, 1, where that one is applied again and again (`surgery.unrolled`)."""
    kernel_key: str = ""
    """Config field with the width of the convolution behind layer 1, in tokens; 0 or absent: there is none."""

    @property
    def merged(self) -> bool:
        """Whether one map gives the queries, keys and values of all heads, one kind after the other."""
        return self.query == self.value


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
        kernel_key="conv_kernel_size",
    ),
    "modernbert": Family(
        encoder="model",
        layers="model.layers",
        dense="head.dense",
        output="classifier",
        activation=nn.functional.gelu,
        query="attn.Wqkv",
        key="attn.Wqkv",
        value="attn.Wqkv",
        attention_core="attn",
        head_counts=("num_heads", "all_head_size"),
        attention_output="attn.Wo",
        attention_norm="attn_norm",
        ffn_input="mlp.Wi",
        ffn_activation="mlp.act",
        ffn_output="mlp.Wo",
        ffn_norm="mlp_norm",
        token_types=False,
        relative=True,
        head_act_key="classifier_activation",
        act_key="hidden_activation",
        final_norm="model.final_norm",
        head_norm="head.norm",
        pooling_key="classifier_pooling",
        gated=True,
        bias_keys=("attention_bias", "mlp_bias"),
        period_key="global_attn_every_n_layers",
        loaded_with={"reference_compile": False, "attn_implementation": "sdpa"},
    ),
    "albert": Family(
        encoder="albert",
        layers="albert.encoder.albert_layer_groups",
        dense="albert.pooler",
        output="classifier",
        query="albert_layers.0.attention.query",
        key="albert_layers.0.attention.key",
        value="albert_layers.0.attention.value",
        attention_core="albert_layers.0.attention",
        attention_output="albert_layers.0.attention.dense",
        attention_norm="albert_layers.0.attention.LayerNorm",
        ffn_input="albert_layers.0.ffn",
        ffn_activation="albert_layers.0.activation",
        ffn_output="albert_layers.0.ffn_output",
        ffn_norm="albert_layers.0.full_layer_layer_norm",
        groups_key="num_hidden_groups",
    ),
}

TOKEN_FAMILIES = {
    name: family if family.head_norm else replace(family, dense="", output="classifier", activation=nn.Identity())
    for name, family in FAMILIES.items()
}
"""The same with the heads of token classifiers."""
REFUSED: dict[str, str] = {"deberta": "its relative-position attention is not covered by the layer capture yet"}


def family_of(model_type: str | None, kind: str = SINGLE_LABEL) -> Family:
    """Return the row of `model_type` with the head for a `kind` of answers, which is another for tokens.

    `*ForTokenClassification` has a linear map of every token's state and nothing in front of it but, in ModernBERT, what its
    other head has as well. Raises UserError with the reason for families that are not supported.
    """
    table = TOKEN_FAMILIES if kind == TOKENS else FAMILIES
    if model_type in table:
        return table[model_type]
    if model_type in REFUSED:
        raise UserError(f"model type {model_type!r} is not supported: {REFUSED[model_type]}; use one of {_names()}.")
    raise UserError(
        f"model type {model_type!r} is not supported{nearest(model_type, FAMILIES)}; supported: {_names()}."
    )


def part_sizes(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many neurons and how many heads a layer of a model with this configuration has that may go one by one."""
    family = family_of(config["model_type"])
    return config[family.ffn_key], config[family.heads_key] if family.movable_heads else 1


def kernel_of(config: Mapping[str, Any]) -> Any:  # noqa: ANN401
    """Return the width of the convolution behind layer 1, as the configuration has it; 0 where the family has none."""
    key = family_of(config["model_type"]).kernel_key
    return config.get(key, 0) if key else 0


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


def layer_kinds(config: Mapping[str, Any]) -> tuple[bool | None, ...] | None:
    """Return of each layer whether it attends globally, where a stock model tells that by its place; None where any may go.

    Then only sets may go whose rest has a period (`units.kept_period`). Of layers that are one, applied again and again, the
    kind is None: what goes are the last times.
    """
    family = family_of(config["model_type"])
    if family.groups_key:
        return (None,) * config[family.layers_key]
    if not family.period_key:
        return None
    return tuple(index % config[family.period_key] == 0 for index in range(config[family.layers_key]))


def _names() -> str:
    return ", ".join(sorted(FAMILIES))
