"""The [CLS] row of one layer's output, exactly, at a fraction of the cost of all rows."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from compressor.model.families import Family, family_of
from compressor.model.states.reading import reads_first
from compressor.model.sublayers import attends, heads_of

Attend = Callable[[nn.Module, Family, Tensor, Tensor], Tensor]
"""Attention of row 0 over all rows, in front of its output map: (layer, family, hidden, mask) -> [B, 1, A], A <= H."""


def single_row(layer: nn.Module, family: Family, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return what the query of row 0 reads, [B, 1, A], from the keys and values of all rows of `hidden` [B, S, H].

    A is the size of all heads together: H, or less where heads are gone.
    """
    query, keys, values = (
        layer.get_submodule(name)(rows)
        for name, rows in ((family.query, hidden[:, :1]), (family.key, hidden), (family.value, hidden))
    )
    heads = heads_of(layer, family)
    query, keys, values = (rows.unflatten(-1, (heads, -1)) for rows in (query, keys, values))
    size = query.shape[-1]
    scores = (query / size**0.5).transpose(1, 2) @ keys.permute(0, 2, 3, 1)  # [B, heads, 1, S]
    attention = (scores + _penalty(mask, scores)[:, None, None]).softmax(-1)
    return (attention @ values.transpose(1, 2)).reshape(-1, 1, heads * size)


def reassociated(layer: nn.Module, family: Family, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return the same as `single_row` without a key or a value of any row.

    With head h's query q, `q . (W_K x + b_K)` is `(W_K^T q) . x` plus a constant that the softmax ignores, and
    `sum a_i (W_V x_i + b_V)` is `W_V (sum a_i x_i) + b_V`, as the weights a sum to 1.
    """
    query, key, value = (layer.get_submodule(name) for name in (family.query, family.key, family.value))
    heads, width = heads_of(layer, family), key.in_features
    size = key.out_features // heads
    # heads in front, so that the texts of a batch are the rows of one product with each head's weights
    queries = (query(hidden[:, :1]) / size**0.5).view(-1, heads, size).transpose(0, 1)
    directions = queries @ key.weight.view(heads, size, width)  # [heads, B, H]
    scores = directions.transpose(0, 1) @ hidden.transpose(1, 2)  # [B, heads, S]
    attention = (scores + _penalty(mask, scores)[:, None]).softmax(-1)
    context = (attention @ hidden).transpose(0, 1)  # [heads, B, H]
    values = context @ value.weight.view(heads, size, width).transpose(1, 2)  # [heads, B, size]
    return values.transpose(0, 1).reshape(-1, 1, heads * size) + value.bias


def relative_positions(config: Mapping[str, Any]) -> bool:
    """Return whether scores of a model with this configuration depend on the distance of tokens.

    Then attention is left to the stock layer, for all rows and in single nodes, and the graph cannot be cut for an early exit.
    """
    return family_of(config["model_type"]).relative or config.get("position_embedding_type", "absolute") != "absolute"


def form_for(config: Mapping[str, Any], wanted: str | None) -> str | None:
    """Return the form of the CLS-only tail in files of a model with this configuration, where others take the one `wanted`.

    None where every token is read, or nothing is wanted; `ATTENDED` where scores depend on distances.
    """
    if wanted is None or not reads_first(config):
        return None
    return ATTENDED if relative_positions(config) else wanted


ATTENDED = "attended"
"""The form where all rows attend as in the stock layer, and row 0 alone goes through the feed-forward block."""
FORMS: dict[str, Attend] = {"reassociated": reassociated, "single_row": single_row}
"""Ways to compute the same row where nothing depends on distances; which is faster depends on the provider."""


def cls_row(layer: nn.Module, family: Family, hidden: Tensor, mask: Tensor, attend: Attend = reassociated) -> Tensor:
    """Return row 0 [B, 1, H] of what `layer` makes of the states `hidden` [B, S, H], without the other rows.

    `mask` [B, S] is 1 where a token counts. Written with matrix products only, so that it exports to ONNX. Not for models
    with `relative_positions`.
    """
    # an attention block that is gone has nothing to read; its output map then gives its bias
    context = attend(layer, family, hidden, mask) if attends(layer, family) else hidden[:, :1, :0]
    attended = layer.get_submodule(family.attention_output)(context) + hidden[:, :1]
    attended = layer.get_submodule(family.attention_norm)(attended)
    inner = layer.get_submodule(family.ffn_activation)(layer.get_submodule(family.ffn_input)(attended))
    return layer.get_submodule(family.ffn_norm)(layer.get_submodule(family.ffn_output)(inner) + attended)


def _penalty(mask: Tensor, scores: Tensor) -> Tensor:
    """Return what to add to the scores of each token [B, S]: 0, or so much less that padding gets no attention."""
    return (1 - mask.to(scores.dtype)) * -1e9
