"""What weight files of a model directory say of themselves: names, precisions and shapes. No weight is loaded."""

import math
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from compressor.data.answers.config import task_of
from compressor.errors import UserError, first_line
from compressor.files import json_of, lies_inside, read_json
from compressor.model.checks import SIZES
from compressor.model.families import Family, family_of

WEIGHTS = "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"
PRECISIONS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float32"}
"""What a safetensors header says -> in which precision weights that were computed in float32 are stored again."""
PICKLED = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
"""The same of tensors in .bin files; all others go by torch's own name in capitals."""

Stored = dict[str, tuple[str, list[int]]]
"""Name -> (dtype as a safetensors header calls it, shape) of every weight."""
FLOAT8 = "F8_", "FLOAT8_"
ROOM, SMALL = 8, 20_000_000
"""How many times the weights of its files a configuration may announce, and how many in any case."""
LONGEST_HEADER = 10_000_000
"""Bytes of the header of a safetensors file; twenty thousand tensors take three million."""
MOST_TENSORS = 20_000
"""Tensors in a file; libraries compare the names of those that a model does not know with all others."""


def stored_tensors(directory: Path) -> Stored:
    """Return what the first of `WEIGHTS` that is there holds; raises UserError naming a file that cannot be read."""
    name = next((name for name in WEIGHTS if (directory / name).is_file()), "")
    names = [name] if name else []
    if name.endswith(".index.json"):
        try:
            names = sorted({str(shard) for shard in read_json(directory / name)["weight_map"].values()})
            if (outside := next((shard for shard in names if not lies_inside(shard)), None)) is not None:
                raise ValueError(f"it names {outside!r}, which lies elsewhere")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{directory / name}: cannot be read ({error}); fetch or save the model again.") from error
    found: Stored = {}
    for file in (directory / name for name in names):
        try:
            found |= _pickled(file) if file.suffix == ".bin" else _header(file)
        except PermissionError as error:
            raise UserError(
                f"{file}: cannot be read ({error.strerror or first_line(error)}); check its rights."
            ) from error
        except Exception as error:  # pickle and zip raise whatever a damaged file leads them to
            raise UserError(
                f"{file}: the weight file is damaged or cannot be read ({first_line(error)}); fetch or save it again."
            ) from error
    return found


def check_size(config: Mapping[str, Any], family: Family, stored: Stored, where: str) -> None:
    """Raise UserError, beginning with `where`, for a configuration that announces far more weights than the files hold.

    Nothing is made of it then: a file of a few bytes would have all memory filled. What a checkpoint lacks, such as a head, or
    has lost, such as neurons, is within the room that is left.
    """
    wide, inner = config[family.width_key], config[family.ffn_key] or 0
    layers = 1 if family.groups_key else config[family.layers_key]
    names = sum(config.get(size) or 0 for size in SIZES)
    announced = names * config.get("embedding_size", wide) + layers * (
        4 * wide * wide + (2 + family.gated) * wide * inner
    )
    held = sum(math.prod(shape) for _, shape in stored.values())
    if announced > ROOM * held + SMALL:
        sizes = ", ".join(
            f"{key} {config[key]:,}" for key in (family.width_key, family.ffn_key, *SIZES) if config.get(key)
        )
        raise UserError(
            f"{where}: it announces {announced:,} weights ({family.layers_key} {layers:,}, {sizes}), and the files hold "
            f"{held:,}; correct the one that is wrong."
        )


def stored_precision(directory: Path) -> str:
    """Return in which precision (a value of `PRECISIONS`) most of the weights lie in a model directory."""
    sizes = Counter({"float32": 0})
    for dtype, shape in stored_tensors(directory).values():
        if dtype in PRECISIONS:
            sizes[PRECISIONS[dtype]] += math.prod(shape)
    return sizes.most_common(1)[0][0]


def check_stored(directory: Path, family: Family, where: str, *, head: bool) -> None:
    """Raise UserError for weights in 8-bit floats and, where a `head` is needed, for a checkpoint without one."""
    tensors = stored_tensors(directory)
    narrow = next((name for name, (dtype, _) in tensors.items() if dtype.startswith(FLOAT8)), None)
    if narrow is not None:
        raise UserError(
            f"{where}: weight {narrow} is stored in 8 bits ({tensors[narrow][0]}); give the checkpoint from before the "
            "quantisation."
        )
    if head and not any(name.startswith(f"{family.output}.") for name in tensors):
        raise UserError(
            f"{where}: this model has no classification head ({family.output} is missing), so it is not fine-tuned; add a "
            "finetune section to the recipe, such as finetune: {epochs: 3}, or give a fine-tuned model."
        )


def misfit(directory: Path, config: Mapping[str, Any], name: str, wanted: list[int]) -> str:
    """Say which shape the weight `name` has in the file, which is `wanted`, and by which fields of the configuration."""
    _, stored = stored_tensors(directory).get(name, ("", None))
    if stored is None:
        return f"weight {name} is not the {wanted} that config.json announces"
    family = family_of(config["model_type"], task_of(config, "config.json").kind)
    apart = {wide for have, wide in zip(stored, wanted, strict=False) if have != wide}
    fields = [key for key in (family.width_key, family.ffn_key, *SIZES) if config.get(key) in apart]
    fields = ["num_labels"] if name.startswith(f"{family.output}.") else fields
    by = f" by {' or '.join(fields)}" if fields else ""
    return f"weight {name} is {stored} in the file and {wanted}{by} in config.json; correct the one that is wrong"


def _header(file: Path) -> Stored:
    with file.open("rb") as opened:
        size, there = int.from_bytes(opened.read(8), "little"), file.stat().st_size - 8
        if size > min(there, LONGEST_HEADER):
            raise ValueError(f"it announces {size:,} bytes of header, and has {there:,} bytes in all")
        header = json_of(opened.read(size))
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise ValueError(f"it names {len(header):,} tensors, and no classifier has over {MOST_TENSORS:,}")
    end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    if end != there - size:
        raise ValueError(f"its header speaks of {end:,} bytes of weights, and {there - size:,} are there")
    return {key: (str(entry["dtype"]), [int(size) for size in entry["shape"]]) for key, entry in header.items()}


def _check_zip(file: Path) -> None:
    """Raise ValueError for a zip file whose content is larger than it is: torch compresses nothing."""
    with zipfile.ZipFile(file) as archive:
        content = sum(entry.file_size for entry in archive.infolist())
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    if packed or content > file.stat().st_size:
        raise ValueError(
            f"its content is compressed, {content:,} bytes in {file.stat().st_size:,}, and torch does not do so"
        )


def load_pickled(file: Path, device: str) -> Any:  # noqa: ANN401
    """Return what a .bin file holds, mapped rather than read where its format allows that; no code in it is run.

    Raises ValueError for one that is larger than it looks, and whatever pickle and zip make of a damaged one.
    """
    zipped = zipfile.is_zipfile(file)
    if zipped:
        _check_zip(file)
    return torch.load(file, map_location=device, weights_only=True, mmap=zipped)


def _pickled(file: Path) -> Stored:
    content = load_pickled(file, "meta")
    tensors = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    return {
        name: (PICKLED.get(tensor.dtype, str(tensor.dtype).removeprefix("torch.").upper()), list(tensor.shape))
        for name, tensor in tensors.items()
    }
