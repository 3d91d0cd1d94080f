"""Physically drop encoder layers: kept weights renumbered, config true, class stock."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.errors import UserError
from compressor.model.families import Family, family_of, layer_kinds, layer_list
from compressor.model.sublayers import cut_part, padded_state, shape_of, write_shape
from compressor.model.units import Unit, kept_period, ordered, parts_of, whole_layers

NO_PERIOD = (
    "layers of this family attend globally at a regular distance and locally in between, by their place, and layer 1 alone has "
    "no norm in front of its attention, so layer 1 must stay and what stays must be as regular"
)
"""Why a set of layers may not go where the kind of a layer is tied to its place."""
ONE_LAYER = (
    "layers of this family are one layer, applied again and again, so that each set of as many leaves the same model, and the "
    "last ones stand for them all"
)
"""Why a set of layers is not the one that goes where all share their weights."""

CONVOLVED = (
    "a convolution behind layer 1 reads what that layer reads, and the stock class would put it behind another one, so layer 1 "
    "must stay"
)
"""Why layer 1 may not go where a convolution acts behind it."""


def why_not(kinds: Sequence[bool | None]) -> str:
    """Return why some sets of layers of these kinds (`families.layer_kinds`) may not go."""
    return ONE_LAYER if None in kinds else NO_PERIOD


def check_skip(skip: Sequence[int], layers: int, field: str = "selection.skip") -> None:
    """Raise UserError unless `skip` names layers of 1..`layers` and leaves at least one."""
    wrong = [layer for layer in skip if not 1 <= layer <= layers]
    if wrong:
        raise UserError(f"{field}: layer {wrong[0]} does not exist; the model's layers are 1..{layers}.")
    if len(set(skip)) >= layers:
        raise UserError(
            f"{field}: skipping {len(set(skip))} of {layers} layers leaves none; skip at most {layers - 1}."
        )


def kept_layers(layers: int, skip: Sequence[int]) -> list[int]:
    """Return the numbers (from 1) of the layers that stay where `skip` go."""
    return [layer for layer in range(1, layers + 1) if layer not in set(skip)]


def drop_layers(model: PreTrainedModel, family: Family, skip: Sequence[int]) -> PreTrainedModel:
    """Return a new model of the same class without the layers `skip` (from 1); the rest is copied bit by bit.

    Where the kind of a layer is tied to its place (`layer_kinds`), the configuration gets the period that the kept ones have.
    Layers that share their weights still share them. Raises UserError if a layer does not exist, none would be left, or the
    set may not go.
    """
    stack, kinds = layer_list(model, family), layer_kinds(model.config.to_dict())
    check_skip(skip, len(stack))
    keep = kept_layers(len(stack), skip)
    period = kinds and kept_period(kinds, keep)
    if kinds and period is None:
        raise UserError(f"without layers {', '.join(map(str, sorted(set(skip))))}: {why_not(kinds)}.")
    if 1 in skip and is_convolved(stack[0]):
        raise UserError(f"without layer 1: {CONVOLVED}.")
    made = copy.deepcopy(model, {id(stack[layer - 1]): None for layer in skip})  # what goes is not copied
    _put_layers(made, family, [layer for layer in layer_list(made, family) if layer is not None])
    setattr(made.config, family.layers_key, len(keep))
    if family.period_key and len(keep) < len(stack):
        setattr(made.config, family.period_key, period)
    write_shape(made.config, family, shape_of(made, family))
    return made.eval()


def unrolled(model: PreTrainedModel) -> PreTrainedModel:
    """Give each time that a shared layer is applied a module of its own, in place, with the same parameters in all of them.

    The stock class runs such a model as it runs one of as many different layers (`Family.groups_key`), so that hooks, trials
    and files know each time apart, as they know layers. `rolled` is the way back; other families are left as they are.
    """
    family = family_of(model.config.model_type)
    if family.groups_key and len(stack := layer_list(model, family)) == 1:
        count = getattr(model.config, family.layers_key)
        shared = {id(one): one for one in (model.config, *stack.parameters(), *stack.buffers())}
        _put_layers(model, family, [copy.deepcopy(stack[0], dict(shared)) for _ in range(count)])
    return model


class _Convolution:
    """A hook that lets the convolution behind layer 1 of a DeBERTa-v2 act on what leaves the layer.

    The stock encoder calls it with what enters the layer, what leaves it and the mask of the tokens [B, S]; all of these the
    layer sees. A class, not a function, so that a copied layer or model has the copied convolution.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, _layer: nn.Module, args: tuple[Tensor, ...], made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, mask = args[:2]
        # [B, 1, S, S] holds whether two tokens are text: one that is text is so with some other
        text = (mask[:, 0].sum(-1) > 0).long()
        return (type(self.module).forward(self.module, hidden, made[0], text), *made[1:])


def _passed_on(_hidden: Tensor, made: Tensor, _mask: Tensor) -> Tensor:
    return made


def convolved(model: PreTrainedModel) -> PreTrainedModel:
    """Let the convolution behind layer 1, where a model has one, act as part of that layer, in place; nothing is computed twice.

    So states, hooks and single layers (`capture.apply_layer`) know it, and the weights keep their names.
    """
    family = family_of(model.config.model_type)
    convolution = getattr(model.get_submodule(family.layers.rpartition(".")[0]), "conv", None)
    if isinstance(convolution, nn.Module):
        convolution.forward = _passed_on
        layer_list(model, family)[0].register_forward_hook(_Convolution(convolution))
    return model


def is_convolved(layer: nn.Module) -> bool:
    """Return whether a convolution acts behind this layer."""
    return any(isinstance(hook, _Convolution) for hook in layer._forward_hooks.values())


def rolled(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of a model that `unrolled` made with its shared layer once, as the stock class has it on disk."""
    family = family_of(model.config.model_type)
    if not family.groups_key:
        return model
    first, *others = layer_list(model, family)
    for number, layer in enumerate(others, start=2):
        if [*map(id, layer.parameters())] != [*map(id, first.parameters())]:
            raise ValueError(f"layer {number} has weights of its own, which a model of one layer has no place for")
    made = copy.deepcopy(model, {id(layer): None for layer in others})
    _put_layers(made, family, [layer_list(made, family)[0]])
    return made


def _put_layers(model: PreTrainedModel, family: Family, layers: Sequence[nn.Module]) -> None:
    """Put `layers` in the place of those of the model; where their number is no matter of course, the configuration has it."""
    owner, _, leaf = family.layers.rpartition(".")
    setattr(model.get_submodule(owner), leaf, nn.ModuleList(layers))
    if family.groups_key:
        setattr(model.config, family.groups_key, len(layers))


def leave_out(
    model: PreTrainedModel,
    family: Family,
    units: Collection[Unit],
    stand_ins: Mapping[tuple[int, str], nn.Module] | None = None,
) -> PreTrainedModel:
    """Return a new model of the same class without `units` (`model/units.py`).

    A layer that loses a part is replaced by a copy of its stand-in, (layer from 1, part) -> layer; without `stand_ins` the
    part is cut out and nothing else. Raises UserError if a layer does not exist or none would be left, and where layers that
    are one would lose different parts.
    """
    skip, layers = whole_layers(units), getattr(model.config, family.layers_key)
    made, keep = drop_layers(model, family, skip), kept_layers(layers, skip)
    stack, parts = layer_list(made, family), parts_of(units)
    if family.groups_key and len({parts.get(number) for number in keep}) > 1:
        raise UserError(
            f"{', '.join(map(str, ordered(units)))}: {ONE_LAYER}; name the same part of each layer that stays."
        )
    for number, part in parts.items():
        if stand_ins is None:
            cut_part(stack[keep.index(number)], family, part)
        else:
            stack[keep.index(number)] = copy.deepcopy(stand_ins[number, part])
    if family.groups_key and parts:
        _put_layers(made, family, stack[:1])
        unrolled(made)
    write_shape(made.config, family, shape_of(made, family))
    return made


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, card: str, *, stock: bool = True
) -> None:
    """Write a Hugging Face directory: config, one safetensors file, tokenizer, README.md with the model card.

    Weights are stored in the precision that `config.dtype` names, or in float32 where one of them is too large for it.
    A model with narrower blocks or with blocks left out is filled up with zeros, so that its stock class opens it and
    computes the same; with `stock=False` its weights are written as they are, for `compressor.load_model` alone.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model, family = rolled(model), family_of(model.config.model_type)
    shape = replace(shape_of(model, family), stored="stock" if stock else "exact")
    write_shape(model.config, family, shape)
    state = padded_state(model, family) if stock and not shape.uniform() else model.state_dict()
    precision = getattr(torch, str(model.config.dtype or model.dtype).removeprefix("torch."))  # text, once saved
    stored = {name: tensor.to(precision) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    if not all(tensor.isfinite().all() for tensor in stored.values()):
        precision, stored = model.dtype, state
    model.save_pretrained(directory, safe_serialization=True, max_shard_size="1TB", state_dict=stored)
    model.config.dtype = precision  # save_pretrained has written that of the model in memory
    model.config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card, encoding="utf-8")
