"""Do the weights of a model directory agree with its configuration: names, shapes, finite numbers. Nothing of it is executed."""

from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig

from compressor.data.answers.config import task_of
from compressor.errors import first_line
from compressor.model.files.weights import stored_tensors
from compressor.model.load import classes_for, quiet_transformers, read_config
from compressor.model.sublayers import loading_class

WEIGHTS = "model.safetensors"


def weight_problems(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield (file, what is wrong) for the weights in a directory that a run wrote; UserError for one that cannot be read.

    The shapes are those that the stock class of config.json has, made without weights.
    """
    config = read_config(directory, "MODEL_DIR")
    if not (directory / WEIGHTS).is_file():
        yield WEIGHTS, "is missing"
        return
    classes = classes_for(task_of(config, str(directory)).kind)
    with quiet_transformers(), torch.device("meta"):
        known = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False)
        made = loading_class(config, classes)(known)
    wanted = {name: list(tensor.shape) for name, tensor in made.state_dict().items()}
    stored = {name: shape for name, (_, shape) in stored_tensors(directory).items()}
    for name in sorted(wanted.keys() - stored.keys()):
        yield WEIGHTS, f"lacks the tensor {name} that config.json asks for"
    for name in sorted(stored.keys() - wanted.keys()):
        yield WEIGHTS, f"holds the tensor {name}, which a model of config.json does not have"
    for name in sorted(wanted.keys() & stored.keys()):
        if wanted[name] != stored[name]:
            yield WEIGHTS, f"has the tensor {name} of shape {stored[name]}, and config.json says {wanted[name]}"
    yield from _not_finite(directory / WEIGHTS)


def _not_finite(file: Path) -> Iterator[tuple[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            for name in sorted(opened.keys()):
                tensor = opened.get_tensor(name)
                if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                    yield WEIGHTS, f"holds NaN or infinity in the tensor {name}"
    except (SafetensorError, OSError) as error:
        yield WEIGHTS, f"cannot be read ({first_line(error)})"
