"""Layers with less inside: feed-forward blocks of any width and attention blocks of any number of heads (0: none).

A model with such layers is the stock class with smaller linear maps in it, so stock `forward` code runs it. What is left
of a block that went is its output bias, one vector for every token, and its norm: `LayerNorm(x + b)`; where maps have no
bias and the norm stands in front (pre-norm), nothing. On disk the shape
stands in config.json under `compressor`; the weights lie there filled up with zeros to the sizes that the stock class
expects, whose outputs are the same, or (`stored: exact`) as they are. Heads that transformers 4 pruned (`pruned_heads`,
which 5 does not know) are heads that are gone like others: they are read, and written as part of the shape.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PretrainedConfig, PreTrainedModel

from compressor.model.checks import KEY, shape_in, stock_shape
from compressor.model.families import Family, family_of, layer_list, position_maps
from compressor.model.units import Shape, heads_left, neurons_left, pieces


class Nothing(nn.Module):
    """Stands for the map into a feed-forward block that is gone: no activation at all, [..., 0]."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Return an empty slice of `hidden` [..., H]."""
        return hidden[..., :0]


class Constant(nn.Linear):
    """The map out of a block that is gone: nothing in, its bias [H] out, whatever the token; 0 [1] where it has none."""

    def __init__(self, outputs: int, *, bias: bool = True, device: torch.device | None = None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, that there is nothing to draw
            super().__init__(0, outputs, bias, device=device)

    def forward(self, nothing: Tensor) -> Tensor:
        """Return the bias; it broadcasts over texts and tokens where it is added to the block's input."""
        return nothing.new_zeros(1) if self.bias is None else self.bias


class NoAttention(nn.Module):
    """Takes the place of the attention of any family and gives the map behind it nothing to read."""

    def forward(self, *args: Tensor, **kwargs: Any) -> tuple[Tensor, None]:  # noqa: ANN401
        """Return an empty context [B, S, 0], or where the output map lies inside (DistilBERT) its bias; no weights."""
        hidden = args[0] if args else kwargs.get("hidden_states", kwargs.get("query"))
        empty = hidden[..., :0]
        inner = next(self.children(), None)
        return (empty if inner is None else inner(empty)), None


def shape_of(model: nn.Module, family: Family) -> Shape:
    """Return the shape of a model, read from its modules."""
    stack = layer_list(model, family)
    layers = [*stack] * (getattr(model.config, family.layers_key) // max(1, len(stack)))  # one stands for all of them
    widths = tuple(layer.get_submodule(family.ffn_output).in_features for layer in layers)
    heads = tuple(heads_of(layer, family) for layer in layers)
    return Shape(widths, heads, getattr(model.config, family.heads_key), ffn_maps=2 + family.gated)


def attends(layer: nn.Module, family: Family) -> bool:
    """Return whether the layer has an attention block."""
    return not isinstance(layer.get_submodule(family.attention_core), NoAttention)


def heads_of(layer: nn.Module, family: Family) -> int:
    """Return how many attention heads the layer has."""
    return getattr(layer.get_submodule(family.attention_core), family.head_counts[0]) if attends(layer, family) else 0


def any_shape(config: Mapping[str, Any]) -> Shape:
    """Return the shape that a configuration announces, or that of a stock configuration; errors of `shape_in`."""
    return shape_in(config) or stock_shape(config)


def cut_ffn(layer: nn.Module, family: Family, kept: Sequence[int]) -> None:
    """Leave only the neurons `kept` (from 0) of the layer's feed-forward block, in place; none: only its bias stays."""
    first, last = layer.get_submodule(family.ffn_input), layer.get_submodule(family.ffn_output)
    chosen = torch.as_tensor(list(kept), dtype=torch.long, device=last.weight.device)
    output = _linear(last.weight.detach()[:, chosen], last.bias) if len(chosen) else _constant(last)
    rows = _in_every_part(chosen, last.in_features, 1 + family.gated)
    _put(layer, {family.ffn_input: _rows_of(first, rows) if len(chosen) else Nothing(), family.ffn_output: output})


def cut_part(layer: nn.Module, family: Family, part: str) -> None:
    """Take `part` (`model/units.py`) out of the layer, in place; of a narrower block the leading neurons stay."""
    attention, ffn = pieces(part)
    if attention:
        cut_heads(layer, family, range(heads_left(part, heads_of(layer, family))))
    if ffn:
        width = layer.get_submodule(family.ffn_output).in_features
        cut_ffn(layer, family, range(neurons_left(part, width)))


def cut_heads(layer: nn.Module, family: Family, kept: Sequence[int]) -> None:
    """Leave only the heads `kept` (from 0) of the layer's attention, in this order, in place; none: as `cut_attention`."""
    if not len(kept):
        cut_attention(layer, family)
        return
    core = layer.get_submodule(family.attention_core)
    output = layer.get_submodule(family.attention_output)
    chosen = torch.as_tensor(list(kept), dtype=torch.long, device=output.weight.device)
    columns = inputs_of(chosen, output.in_features // heads_of(layer, family))
    rows = _in_every_part(columns, output.in_features, 3 if family.merged else 1)
    maps = {name: _rows_of(layer.get_submodule(name), rows) for name in head_maps(layer, family)}
    _put(layer, {**maps, family.attention_output: _linear(output.weight.detach()[:, columns], output.bias)})
    for name, count in zip(family.head_counts, (len(chosen), len(columns)), strict=True):
        setattr(core, name, count)


def head_maps(layer: nn.Module, family: Family) -> list[str]:
    """Return the names of the maps inside a layer whose outputs [H] (merged: three times that) are parted into heads."""
    core = layer.get_submodule(family.attention_core)
    own = [name for name in family.position_maps.values() if hasattr(core, name.rpartition(".")[2])]
    return [*dict.fromkeys((family.query, family.key, family.value)), *own]


def inputs_of(units: Tensor, each: int) -> Tensor:
    """Return which inputs of a block's output map these heads (of `each` inputs) or neurons (1) are: int64 [units x each]."""
    return (units[:, None] * each + torch.arange(each, device=units.device)).flatten()


def cut_attention(layer: nn.Module, family: Family) -> None:
    """Take the layer's attention block out, in place; the bias of its output map stays."""
    constant, core = _constant(layer.get_submodule(family.attention_output)), NoAttention()
    inside, _, leaf = family.attention_output.rpartition(".")
    if inside == family.attention_core:
        core.add_module(leaf, constant)
    else:
        _put(layer, {family.attention_output: constant})
    _put(layer, {family.attention_core: core})


def apply_shape(model: nn.Module, family: Family, shape: Shape) -> None:
    """Give the layers of a stock `model` the widths and heads of `shape`, in place.

    Weights that fit are kept: the leading neurons and heads of a block that shrinks. A feed-forward block that grows gets new
    linear maps, with torch's default initialisation (the model's own `_init_weights` is for the caller to apply).
    """
    for layer, own in zip(layer_list(model, family), shape.each(), strict=not family.groups_key):
        (width,), (heads,) = own.ffn_widths, own.heads
        has = layer.get_submodule(family.ffn_output).in_features
        if width < has:
            cut_ffn(layer, family, range(width))
        elif width > has:
            _grow_ffn(layer, family, width)
        if heads < heads_of(layer, family):
            cut_heads(layer, family, range(heads))


def write_shape(config: PretrainedConfig, family: Family, shape: Shape) -> None:
    """Write `shape` into a configuration, where a stock one does not say it all; its stock width is the widest block.

    No head is pruned in it: the place of a layer in a stock model has all of them.
    """
    config.pruned_heads = {}
    setattr(config, family.ffn_key, max(1, *shape.ffn_widths))
    if shape.uniform():
        config.__dict__.pop(KEY, None)
    else:
        setattr(config, KEY, shape.as_config())


def padded_state(model: nn.Module, family: Family) -> dict[str, Tensor]:
    """Return the state dict with zeros for all that the stock class has more, so that it computes the same.

    A neuron or a head with zero weights behind it adds nothing; an attention block whose output map is zero adds its bias
    alone.
    """
    state, config = dict(model.state_dict()), model.config
    shape, nothing = shape_of(model, family), next(model.parameters()).detach().flatten()[:0]
    sizes = padded_sizes(shape, family, config.to_dict())
    if getattr(config, "position_embedding_type", "absolute") != "absolute":  # each layer has an embedding of distances
        size = 2 * config.max_position_embeddings - 1, getattr(config, family.width_key) // shape.full_heads
        gone = [index for index, heads in enumerate(shape.heads) if not heads]
        sizes |= {f"{family.layers}.{i}.{family.attention_core}.distance_embedding.weight": (size, 1) for i in gone}
    for name, size in sizes.items():
        state[name] = padded(state.get(name, nothing), *size)
    return state


def padded_sizes(shape: Shape, family: Family, config: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], int]]:
    """Return name -> (size, parts) of the weights that the stock class has where a model of `shape` may have less, or none.

    `parts` counts the maps of one size that a weight holds one below the other; `config` is that of the model.
    """
    wide, hidden, sizes = max(1, *shape.ffn_widths), config[family.width_key], {}
    inner = dict.fromkeys((family.query, family.key, family.value, *position_maps(config, family)))
    attention_bias, ffn_bias = (not key or config[key] for key in family.bias_keys)
    maps = [(family.ffn_input, wide, 1 + family.gated, ffn_bias)]
    maps += [(name, hidden, 3 if family.merged else 1, attention_bias) for name in inner]
    for index, heads in enumerate(shape.heads[:1] if family.groups_key else shape.heads):
        own = {f"{family.ffn_output}.weight": ((hidden, wide), 1)}
        if heads < shape.full_heads:
            own[f"{family.attention_output}.weight"] = (hidden, hidden), 1
        for name, rows, parts, bias in maps if heads < shape.full_heads else maps[:1]:
            own[f"{name}.weight"] = (parts * rows, hidden), parts
            if bias:
                own[f"{name}.bias"] = (parts * rows,), parts
        sizes |= {f"{family.layers}.{index}.{name}": size for name, size in own.items()}
    return sizes


def padded(weight: Tensor, size: tuple[int, ...], parts: int = 1) -> Tensor:
    """Return `weight` filled up with zeros to `size`, each of its `parts` by itself; one of no numbers may be of any shape."""
    filled = weight.new_zeros(size)
    if weight.numel():
        for part, room in zip(weight.chunk(parts), filled.chunk(parts), strict=True):
            room[tuple(map(slice, part.shape))] = part
    return filled


def shaped_model(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """Return a new model of `config`, which may announce a shape, with random weights drawn by torch's generator.

    All maps are drawn as the stock class draws its own. Under `torch.device("meta")` no weight is made at all.
    """
    family, shape = family_of(config.model_type), shape_in(config.to_dict())
    model = model_class(config)
    if shape is not None:
        apply_shape(model, family, shape)
        for layer in layer_list(model, family):
            for name in (family.ffn_input, family.ffn_output):
                model._init_weights(layer.get_submodule(name))
    return model


def loading_class(config: Mapping[str, Any], classes: Mapping[type, type]) -> type[PreTrainedModel]:
    """Return the class whose `from_pretrained` reads a directory with this configuration; `as_stored` belongs behind it.

    `classes` maps configuration classes to model classes, as transformers does for each task. Where the weights lie in
    their exact sizes, the class is one of its own that makes the layers fit before the weights are read.
    """
    stock = classes[CONFIG_MAPPING[config["model_type"]]]
    shape = shape_in(config)
    if shape is None or shape.stored == "stock":
        return stock

    def shaped(self: PreTrainedModel, config: PretrainedConfig, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        stock.__init__(self, config, *args, **kwargs)
        apply_shape(self, family_of(config.model_type), shape)

    return type(stock.__name__, (stock,), {"__init__": shaped, "__module__": stock.__module__})


def as_stored(model: PreTrainedModel) -> PreTrainedModel:
    """Return a model that `loading_class` read as an object of the stock class, with what was filled up cut away."""
    shape = shape_in(model.config.to_dict())
    if shape is not None and shape.stored == "exact":
        model.__class__ = model.__class__.__base__
    elif shape is not None:
        apply_shape(model, family_of(model.config.model_type), shape)
    return model


def _grow_ffn(layer: nn.Module, family: Family, width: int) -> None:
    """Replace both maps of the feed-forward block by new ones of `width`; the output bias stays."""
    last = layer.get_submodule(family.ffn_output)
    like = {"bias": last.bias is not None, "device": last.weight.device, "dtype": last.weight.dtype}
    output = nn.Linear(width, last.out_features, **like)
    output.bias = last.bias
    first = nn.Linear(last.out_features, (1 + family.gated) * width, **like)
    _put(layer, {family.ffn_input: first, family.ffn_output: output})


def _constant(output: nn.Linear) -> Constant:
    """Return what is left of a block's output map where the block is gone."""
    made = Constant(output.out_features, bias=output.bias is not None, device=output.weight.device)
    made.bias = output.bias
    return made


def _linear(weight: Tensor, bias: nn.Parameter | None) -> nn.Linear:
    """Return the linear map with this weight [O, I] and bias [O], which is taken as it is."""
    made = nn.Linear(*reversed(weight.shape), bias is not None, device="meta")
    made.weight, made.bias = nn.Parameter(weight.contiguous()), bias
    return made


def _rows_of(linear: nn.Linear, rows: Tensor) -> nn.Linear:
    """Return a copy of the map with these outputs alone."""
    bias = None if linear.bias is None else nn.Parameter(linear.bias.detach()[rows])
    return _linear(linear.weight.detach()[rows], bias)


def _in_every_part(chosen: Tensor, size: int, parts: int) -> Tensor:
    """Return where `chosen` outputs lie in each of several maps of `size` outputs that stand one below the other."""
    return torch.cat([chosen + part * size for part in range(parts)])


def _put(layer: nn.Module, modules: Mapping[str, nn.Module]) -> None:
    """Put modules in the place of those of that name inside the layer."""
    for name, module in modules.items():
        owner, _, leaf = name.rpartition(".")
        setattr(layer.get_submodule(owner), leaf, module)
    layer.train(layer.training)
