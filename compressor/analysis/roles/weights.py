"""Weights of a checkpoint by what they do in a layer, read one tensor at a time; no model is built, nothing is executed.

A checkpoint may be larger than memory: only names are looked up when it is opened, and whoever reads a tensor lets it go
before the next.
"""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressor.errors import UserError, first_line
from compressor.files import lies_inside, read_json
from compressor.model.checks import KEY
from compressor.model.families import FAMILIES, Family
from compressor.model.files.weights import WEIGHTS, load_pickled
from compressor.model.load import read_config
from compressor.model.sublayers import any_shape, padded, padded_sizes, shape_of
from compressor.model.units import Shape

HEADS = "num_attention_heads", "n_heads", "n_head"
"""Names of the number of attention heads in config.json."""
SHIFTED_NORMS = "gemma", "gemma2", "gemma3", "gemma3_text"
"""Model types whose norms multiply by 1 + weight."""


@dataclass(frozen=True)
class Naming:
    """How a kind of checkpoint names the tensors of layer N: `LAYERS.N.PART.weight`, whatever stands in front of LAYERS."""

    layers: str
    attention_in: tuple[str, ...]
    """Maps from the state to queries, keys and values, together or apart."""
    attention_out: str
    ffn_in: tuple[str, ...]
    """One map, or gate and up of a gated feed-forward block."""
    ffn_out: str
    norms: tuple[str, ...]
    """Those that there are count."""
    transposed: bool = False
    """Whether matrices are stored [inputs, outputs]."""
    gates: int = 1
    """Numbers that each map of `ffn_in` gives a neuron: 2 where one map is gate and up."""


def _of_family(family: Family) -> Naming:
    return Naming(
        layers=family.layers.removeprefix(f"{family.encoder}."),
        attention_in=tuple(dict.fromkeys((family.query, family.key, family.value))),
        attention_out=family.attention_output,
        ffn_in=(family.ffn_input,),
        ffn_out=family.ffn_output,
        norms=(family.attention_norm, family.ffn_norm),
        gates=1 + family.gated,
    )


NAMINGS: dict[str, Naming] = {
    # encoders: roberta, xlm-roberta, camembert and electra name their layers as bert does
    **{name: _of_family(FAMILIES[name]) for name in ("bert", "distilbert", "mpnet", "deberta-v2", "modernbert")},
    # decoders with a gated block: llama, mistral, qwen2, qwen3, gemma and others
    "llama": Naming(
        "layers",
        ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "self_attn.o_proj",
        ("mlp.gate_proj", "mlp.up_proj"),
        "mlp.down_proj",
        ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
    ),
    # decoders with a plain block
    "gpt2": Naming("h", ("attn.c_attn",), "attn.c_proj", ("mlp.c_fc",), "mlp.c_proj", ("ln_1", "ln_2"), True),
    "gpt-neox": Naming(
        "layers",
        ("attention.query_key_value",),
        "attention.dense",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        ("input_layernorm", "post_attention_layernorm"),
    ),
}
"""Kinds of checkpoints by the names of their tensors; the first that fits is taken."""


@dataclass(frozen=True)
class LayerNames:
    """Full tensor names of one layer, by what they do; all names of the layer begin with `prefix`."""

    prefix: str
    attention_in: tuple[str, ...]
    attention_out: str
    ffn_in: tuple[str, ...]
    ffn_out: str
    norms: tuple[str, ...]

    @property
    def matrices(self) -> tuple[str, ...]:
        """The names of all matrices."""
        return (*self.attention_in, self.attention_out, *self.ffn_in, self.ffn_out)


@dataclass(frozen=True)
class Weights:
    """The weights of a model: all their names, those of each layer, and a function that reads one of them.

    `naming` is the key of `NAMINGS`, `source` what messages call the model, `heads` the attention heads of a layer.
    """

    source: str
    model_type: str
    naming: str
    heads: int
    names: tuple[str, ...]
    layers: tuple[LayerNames, ...]
    read: Callable[[str], Tensor] = field(repr=False)

    def matrix(self, name: str) -> Tensor:
        """Return a matrix [outputs, inputs] in float32 on the CPU; raises UserError for quantised weights."""
        tensor = self.read(name)
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise UserError(
                f"{self.source}: tensor {name} is stored as {str(tensor.dtype).removeprefix('torch.')}; roles need the "
                "weights in a floating-point format of 16 bits or more, so give the checkpoint before quantisation."
            )
        if tensor.ndim != 2:
            raise UserError(f"{self.source}: tensor {name} has shape {list(tensor.shape)}, not that of a matrix.")
        tensor = tensor.detach().float().cpu()
        return tensor.T if NAMINGS[self.naming].transposed else tensor

    def scale(self, name: str) -> Tensor:
        """Return what a norm multiplies each position with, float32 [H]."""
        return self.read(name).detach().float().cpu() + (self.model_type in SHIFTED_NORMS)


def open_weights(directory: Path) -> Weights:
    """Look up the weights of a model directory: safetensors (whole or in parts) or, where there are none, .bin.

    Raises UserError where there is no config.json or no weights, they cannot be read, or their names fit no naming.
    """
    where = f"model {directory}"
    if not directory.is_dir():
        raise UserError(f"{where}: no such directory; give the folder that holds config.json and the weights.")
    config = _read_object(directory / "config.json", where)
    name = next((name for name in WEIGHTS if (directory / name).is_file()), None)
    if name is None:
        raise UserError(f"{where}: the folder holds no weights ({' or '.join(WEIGHTS)}).")
    if name.endswith(".index.json"):
        listed = _read_object(directory / name, where).get("weight_map")
        if not isinstance(listed, dict) or not all(isinstance(part, str) for part in listed.values()):
            raise UserError(f"{where}: {name} holds no weight_map from tensors to files; save the model again.")
        missing = sorted(
            {part for part in listed.values() if not lies_inside(part) or not (directory / part).is_file()}
        )
        if missing:
            raise UserError(f"{where}: {name} names {missing[0]}, which is not in the folder; fetch the missing file.")
        files = {tensor: directory / part for tensor, part in listed.items()}
    else:
        files = dict.fromkeys(_names_in(directory / name), directory / name)
    shaped = (KEY in config or config.get("pruned_heads")) and config.get("model_type") in FAMILIES
    config = read_config(directory, "model") if shaped else config
    shape = any_shape(config) if shaped else None
    return _weights(config, files, lambda tensor: _read_tensor(files[tensor], tensor), where, shape)


def model_weights(model: nn.Module, where: str = "model") -> Weights:
    """Return the weights of a loaded Hugging Face model; nothing is copied until it is read."""
    state, config = model.state_dict(), model.config.to_dict()
    family = FAMILIES.get(config["model_type"])
    return _weights(config, state, state.__getitem__, where, family and shape_of(model, family))


def _weights(
    config: Mapping[str, Any], names: Collection[str], read: Callable[[str], Tensor], where: str, shape: Shape | None
) -> Weights:
    """Return the weights of an encoder of a known `shape` as the stock class has them: what has gone counts as zeros."""
    uneven = shape is not None and not shape.uniform()
    sizes = padded_sizes(shape, FAMILIES[config["model_type"]], config) if uneven else {}

    def whole(name: str) -> Tensor:
        found = read(name) if name in names else torch.zeros(0)
        return padded(found, *sizes[name]) if name in sizes else found

    return weights_of(config, dict.fromkeys([*names, *sizes]), whole, where)


def weights_of(config: Mapping[str, Any], names: Iterable[str], read: Callable[[str], Tensor], where: str) -> Weights:
    """Return the tensors `names` by layer and part; raises UserError, naming `where`, if they fit no naming."""
    names = tuple(names)
    if getattr(FAMILIES.get(config.get("model_type")), "groups_key", ""):
        raise UserError(f"{where}: its layers are one, applied again and again, so that none has a role of its own.")
    if config.get("is_encoder_decoder"):
        raise UserError(f"{where}: it has an encoder and a decoder; roles compare the layers of one stack.")
    heads = next((config[key] for key in HEADS if isinstance(config.get(key), int) and config[key] > 0), None)
    if heads is None:
        raise UserError(f"{where}: config.json names no number of attention heads ({', '.join(HEADS)}).")
    for key, naming in NAMINGS.items():
        prefixes = _prefixes(naming, names)
        if len(prefixes) > 1:
            raise UserError(
                f"{where}: it holds several stacks of layers ({', '.join(map(repr, sorted(prefixes)))}); roles compare the "
                "layers of one stack, so give a model with one."
            )
        if prefixes:
            layers = _layers(naming, *next(iter(prefixes.items())), set(names), where)
            return Weights(where, str(config.get("model_type")), key, heads, names, layers, read)
    raise UserError(
        f"{where}: its tensor names (such as {min(names, default='none')}) fit none of the layouts that roles can be read "
        f"from ({', '.join(NAMINGS)}; one attention output and one feed-forward block in each layer)."
    )


def _prefixes(naming: Naming, names: tuple[str, ...]) -> dict[str, set[int]]:
    """Return what stands in front of layer numbers -> the numbers, of layers with some of this naming's maps."""
    wanted = [f"{part}.weight" for part in (*naming.attention_in, naming.attention_out, *naming.ffn_in)]
    pattern = re.compile(rf"((?:.*\.)?{re.escape(naming.layers)}\.)(\d+)\.(.+)")
    found: dict[str, dict[int, set[str]]] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match and match[3] in wanted:
            found.setdefault(match[1], {}).setdefault(int(match[2]), set()).add(match[3])
    # a layout that only some layers follow is named by the check of every layer
    return {prefix: set(layers) for prefix, layers in found.items() if len(wanted) in map(len, layers.values())}


def _layers(naming: Naming, prefix: str, numbers: set[int], names: set[str], where: str) -> tuple[LayerNames, ...]:
    made = []
    for number in range(max(numbers) + 1):
        stem = f"{prefix}{number}."
        full = partial("{}{}.weight".format, stem)
        layer = LayerNames(
            stem,
            tuple(map(full, naming.attention_in)),
            full(naming.attention_out),
            tuple(map(full, naming.ffn_in)),
            full(naming.ffn_out),
            # LayerNorms of early checkpoints call their scale gamma
            tuple(name for part in naming.norms for name in (full(part), f"{stem}{part}.gamma") if name in names),
        )
        missing = next((name for name in layer.matrices if name not in names), None)
        if missing:
            raise UserError(f"{where}: layer {number + 1} has no tensor {missing}; roles need the same parts in each.")
        made.append(layer)
    return tuple(made)


def _read_object(file: Path, where: str) -> dict[str, Any]:
    try:
        content = read_json(file)
    except FileNotFoundError as error:
        raise UserError(
            f"{where}: the folder holds no {file.name}, so it is no Hugging Face model directory."
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: {file.name} cannot be read ({error}).") from error
    if not isinstance(content, dict):
        raise UserError(f"{where}: {file.name} holds no JSON object; save the model again.")
    return content


def _names_in(file: Path) -> list[str]:
    if file.suffix == ".bin":
        return list(_load_bin(file))
    try:
        with safe_open(file, framework="pt") as handle:
            return list(handle.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _read_tensor(file: Path, name: str) -> Tensor:
    """Return one tensor. The file is opened anew each time, so that the pages of a large one can leave memory."""
    try:
        if file.suffix == ".bin":
            return _load_bin(file)[name]
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(name)
    except KeyError as error:
        raise UserError(f"model {file.parent}: {file.name} holds no tensor {name}, which the index names.") from error
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _load_bin(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a .bin file, mapped rather than read where its format allows that."""
    try:
        content = load_pickled(file, "cpu")
    except Exception as error:  # pickle and zip raise whatever a broken file leads them to
        raise _damaged(file, error) from error
    if not isinstance(content, dict):
        raise UserError(f"model {file.parent}: {file.name} holds no tensors by name; save the model as safetensors.")
    return {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}


def _damaged(file: Path, error: Exception) -> UserError:
    return UserError(f"model {file.parent}: {file.name} cannot be read ({first_line(error)}); fetch or save it again.")
