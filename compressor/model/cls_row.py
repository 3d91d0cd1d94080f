"""The [CLS] row of one layer's output, exactly, at about the cost of one token instead of all."""

from torch import Tensor, nn

from compressor.model.families import Family


def cls_row(layer: nn.Module, family: Family, heads: int, hidden: Tensor, mask: Tensor) -> Tensor:
    """Return row 0 [B, H] of what `layer` makes of the states `hidden` [B, S, H], without the other rows.

    `mask` [B, S] is 1 where a token counts. Attention for a single query needs neither keys nor values: with head h's
    query q, `q . (W_K x + b_K)` is `(W_K^T q) . x` plus a constant that the softmax ignores, and `sum a_i (W_V x_i + b_V)`
    is `W_V (sum a_i x_i) + b_V`, as the weights a sum to 1. Written with matrix products only, so that it exports to ONNX.
    """
    query, key, value = (layer.get_submodule(name) for name in (family.query, family.key, family.value))
    batch, _, width = hidden.shape
    size = width // heads
    first = hidden[:, 0]
    queries = query(first).view(batch, heads, 1, size)
    directions = (queries @ key.weight.view(heads, size, width)).squeeze(2)  # [B, heads, H]
    scores = directions @ hidden.transpose(1, 2) / size**0.5
    hidden_tokens = (1 - mask[:, None, :].to(scores.dtype)) * -1e9
    attention = (scores + hidden_tokens).softmax(-1)
    context = (attention @ hidden).unsqueeze(2)  # [B, heads, 1, H]
    values = (context @ value.weight.view(heads, size, width).transpose(1, 2)).reshape(batch, width) + value.bias
    attended = layer.get_submodule(family.attention_output)(values) + first
    attended = layer.get_submodule(family.attention_norm)(attended)
    inner = layer.get_submodule(family.ffn_activation)(layer.get_submodule(family.ffn_input)(attended))
    return layer.get_submodule(family.ffn_norm)(layer.get_submodule(family.ffn_output)(inner) + attended)
