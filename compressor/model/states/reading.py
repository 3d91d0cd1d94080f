"""What a classification head reads of a state, and what it makes of it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from compressor.data.answers.config import by_token
from compressor.data.batches import Read
from compressor.model.families import Family, family_of


def read_state(model: nn.Module, family: Family, hidden: Tensor, mask: Tensor, at: Read | None = None) -> Tensor:
    """Return what the head reads [B, H] of states [B, S, H] behind any layer, as if it were the last; `mask` [B, S].

    Row 0 or the mean over the tokens of `mask`, behind the final norm of a pre-norm family; with `at` the first token of each
    word, [W, H].
    """
    norm = model.get_submodule(family.final_norm) if family.final_norm else nn.Identity()
    if at is not None:
        return norm(hidden[at])
    # asked for every state of every set that is tried: the attribute, since a dict of all fields takes longer than the rest
    if not family.pooling_key or getattr(model.config, family.pooling_key) == "cls":
        return norm(hidden[:, 0])
    return (norm(hidden) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


def reads_first(config: Mapping[str, Any]) -> bool:
    """Return whether the head of a model with this configuration reads the first token alone."""
    family = family_of(config["model_type"])
    return not by_token(config) and (not family.pooling_key or config[family.pooling_key] == "cls")


def head_nodes(model: nn.Module, family: Family, state: Tensor) -> Tensor:
    """Return what the last map of the stock head reads [N, H] where its first reads `state` [N, H] (`read_state`)."""
    if not family.dense:
        return state
    nodes = family.activation(model.get_submodule(family.dense)(state))
    return model.get_submodule(family.head_norm)(nodes) if family.head_norm else nodes


def head_logits(model: nn.Module, family: Family, state: Tensor) -> Tensor:
    """Return the stock head's logits [N, C] of what it reads [N, H] (`read_state`), without dropout."""
    return model.get_submodule(family.output)(head_nodes(model, family, state))
