"""What is refused in a checkpoint's configuration and weight files, each with its field and the remedy; nothing is loaded."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressor.errors import UserError
from compressor.model.families import Family

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
SIZES = "vocab_size", "max_position_embeddings", "type_vocab_size"
"""Fields of a configuration, beside those of the family, that must be whole numbers from 1 on where they are given."""
OTHER_TASKS = {
    "multi_label_classification": "each row may have several labels",
    "regression": "its outputs are numbers, not labels",
}
"""`problem_type` -> what keeps a model of that kind from being judged by its label."""
FLOAT8 = "F8_"


def check_config(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Raise UserError, beginning with `where`, for fields with which no model of the family can be built or run."""
    if config.get("quantization_config") is not None:
        quantised = config["quantization_config"]
        method = quantised.get("quant_method") if isinstance(quantised, Mapping) else None
        raise UserError(
            f"{where}: quantization_config says that the weights are quantised ({method or 'unknown method'}); give the "
            "checkpoint from before the quantisation."
        )
    if config.get("is_decoder"):
        raise UserError(f"{where}: is_decoder is true, so tokens see only those before them; give an encoder.")
    own = (family.layers_key, family.width_key, family.heads_key, family.ffn_key)
    for name in (*own, *SIZES):
        value = config.get(name)
        if name in config and not (type(value) is int and value >= 1):
            raise UserError(
                f"{where}: {name} is {json.dumps(value, default=str)}; it must be a whole number from 1 on."
            )
    if config[family.width_key] % config[family.heads_key]:
        raise UserError(
            f"{where}: {family.width_key} ({config[family.width_key]}) is no multiple of {family.heads_key} "
            f"({config[family.heads_key]})."
        )
    padding = config.get("pad_token_id")
    if family.position_offset and not (type(padding) is int and padding >= 0):
        raise UserError(
            f"{where}: pad_token_id is {json.dumps(padding, default=str)}, but positions of a {config['model_type']} model "
            "start behind it; set it to the tokenizer's padding token."
        )


def check_single_label(config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, beginning with `where`, for a classifier that does not give each row one of several labels."""
    kind = config.get("problem_type")
    if kind in OTHER_TASKS:
        raise UserError(
            f"{where}: problem_type is {kind}: {OTHER_TASKS[kind]}, which is not supported; give a model with one label a row."
        )
    names = config["id2label"]
    if sorted(names) != list(range(len(names))):
        raise UserError(
            f"{where}: id2label has the keys {', '.join(map(str, names))}; they must be 0 to {len(names) - 1}."
        )
    labels = [str(name) for _, name in sorted(names.items())]
    twice = next((name for name in labels if labels.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: id2label calls several labels {twice!r}; give each a name of its own.")
    for name, index in (config.get("label2id") or {}).items():
        if name in labels and labels.index(name) != index:
            raise UserError(
                f"{where}: label2id says that {name!r} is {index}, id2label that it is {labels.index(name)}; correct one."
            )


def stored_tensors(directory: Path) -> dict[str, tuple[str, list[int]]]:
    """Return name -> (safetensors dtype, shape) of every weight, from the headers alone; empty for other formats.

    Raises UserError naming the file where one cannot be read.
    """
    names = [SINGLE] if (directory / SINGLE).is_file() else []
    try:
        if not names and (directory / INDEX).is_file():
            shards = json.loads((directory / INDEX).read_text(encoding="utf-8"))["weight_map"]
            names = sorted({str(shard) for shard in shards.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{directory / INDEX}: cannot be read ({error}); fetch or save the model again.") from error
    found = {}
    for name in names:
        try:
            with (directory / name).open("rb") as file:
                size = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(size, 100_000_000)))
            found |= {key: (entry["dtype"], entry["shape"]) for key, entry in header.items() if key != "__metadata__"}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{directory / name}: the weight file is damaged or cannot be read ({error}); fetch or save it again."
            ) from error
    return found


def check_stored(directory: Path, family: Family, where: str, *, head: bool) -> None:
    """Raise UserError for weights in 8-bit floats and, where a `head` is needed, for a checkpoint without one."""
    tensors = stored_tensors(directory)
    narrow = next((name for name, (dtype, _) in tensors.items() if dtype.startswith(FLOAT8)), None)
    if narrow is not None:
        raise UserError(
            f"{where}: weight {narrow} is stored in 8 bits ({tensors[narrow][0]}); give the checkpoint from before the "
            "quantisation."
        )
    if head and tensors and not any(name.startswith(f"{family.output}.") for name in tensors):
        raise UserError(
            f"{where}: this model has no classification head ({family.output} is missing), so it is not fine-tuned; add a "
            "finetune section to the recipe, such as finetune: {epochs: 3}, or give a fine-tuned model."
        )
