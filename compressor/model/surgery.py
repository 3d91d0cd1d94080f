"""Physically drop encoder layers: kept weights renumbered, config true, class stock."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.errors import UserError
from compressor.model.families import Family, family_of, layer_list
from compressor.model.sublayers import cut_part, padded_state, shape_of, shaped_model, write_shape
from compressor.model.units import Unit, parts_of, shape_left, whole_layers


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

    Raises UserError if a layer does not exist or none would be left.
    """
    layers = getattr(model.config, family.layers_key)
    check_skip(skip, layers)
    keep = kept_layers(layers, skip)
    prefix = family.layers + "."
    new_index = {str(old - 1): str(new) for new, old in enumerate(keep)}
    state = {}
    for name, tensor in model.state_dict().items():
        if name.startswith(prefix):
            index, _, rest = name.removeprefix(prefix).partition(".")
            if index not in new_index:
                continue
            name = f"{prefix}{new_index[index]}.{rest}"
        state[name] = tensor.clone()
    config = copy.deepcopy(model.config)
    setattr(config, family.layers_key, len(keep))
    write_shape(config, family, shape_left(skip, shape_of(model, family)))
    with torch.device("meta"):  # no time lost on random weights that are replaced at once
        pruned = shaped_model(type(model), config)
    pruned.load_state_dict(state, strict=True, assign=True)
    _materialise_buffers(pruned, model)
    return pruned.to(model.device).eval()


def leave_out(
    model: PreTrainedModel,
    family: Family,
    units: Collection[Unit],
    stand_ins: Mapping[tuple[int, str], nn.Module] | None = None,
) -> PreTrainedModel:
    """Return a new model of the same class without `units` (`model/units.py`).

    A layer that loses a part is replaced by a copy of its stand-in, (layer from 1, part) -> layer; without `stand_ins` the
    part is cut out and nothing else. Raises UserError if a layer does not exist or none would be left.
    """
    skip, layers = whole_layers(units), getattr(model.config, family.layers_key)
    made, keep = drop_layers(model, family, skip), kept_layers(layers, skip)
    stack = layer_list(made, family)
    for number, part in parts_of(units).items():
        if stand_ins is None:
            cut_part(stack[keep.index(number)], family, part)
        else:
            stack[keep.index(number)] = copy.deepcopy(stand_ins[number, part])
    return made


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, card: str, *, stock: bool = True
) -> None:
    """Write a Hugging Face directory: config, one safetensors file, tokenizer, README.md with the model card.

    A model with narrower blocks or with blocks left out is filled up with zeros, so that its stock class opens it and
    computes the same; with `stock=False` its weights are written as they are, for `compressor.load_model` alone.
    """
    directory.mkdir(parents=True, exist_ok=True)
    family = family_of(model.config.model_type)
    shape = replace(shape_of(model, family), stored="stock" if stock else "exact")
    write_shape(model.config, family, shape)
    state = padded_state(model, family) if stock and not shape.uniform() else model.state_dict()
    model.save_pretrained(directory, safe_serialization=True, max_shard_size="1TB", state_dict=state)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(card, encoding="utf-8")


def _materialise_buffers(pruned: nn.Module, model: nn.Module) -> None:
    """Copy buffers that no state dict holds (position ids): they are still on the meta device."""
    originals = dict(model.named_buffers())
    for name, buffer in list(pruned.named_buffers()):
        if buffer.is_meta:
            owner, _, leaf = name.rpartition(".")
            pruned.get_submodule(owner).register_buffer(leaf, originals[name].clone(), persistent=False)
