"""Find and load a sequence classifier, refusing what would fail or mislead later. Never runs code from a checkpoint."""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from compressor.data.answers.config import by_token, cross_encoder, task_of
from compressor.data.answers.kinds import KINDS, TOKENS, Task
from compressor.data.tokenizer import check_tokenizer, probe, tokenizing
from compressor.errors import UserError, first_line
from compressor.files import file_sha256, read_json
from compressor.model.checks import check_config, check_given, check_outputs, shape_in
from compressor.model.families import family_of
from compressor.model.files.weights import WEIGHTS, check_size, check_stored, misfit, stored_precision, stored_tensors
from compressor.model.places import fetch, local_model
from compressor.model.sublayers import as_stored, loading_class
from compressor.model.surgery import convolved, rolled, unrolled

TOKENIZERS = "tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model"
LONGEST_CONFIG = 3_000_000
"""Bytes of config.json; twenty thousand labels take one million."""
ADAPTER = "adapter_config.json"
"""What makes transformers load another model, from a hub, in place of the one that lies beside it."""
NEUTRAL = {
    **{"return_dict": True, "torchscript": False, "output_hidden_states": False, "output_attentions": False},
    **{"chunk_size_feed_forward": 0, "is_decoder": False, "add_cross_attention": False},
}
"""Fields of a configuration that change what forward returns, or in which portions it computes, and nothing else."""


@dataclass(frozen=True)
class ModelSource:
    """A model directory that was looked at, not loaded: its config, layers, label names and the hash of its files."""

    path: Path
    config: dict
    layers: int
    label_names: list[str]
    sha256: str

    @property
    def task(self) -> Task:
        """What its outputs mean; UserError where that is not known (`task_of`)."""
        return task_of(self.config, f"model {self.path}: config.json")


def find_model(path: str, revision: str | None = None, *, field: str = "model.path") -> ModelSource:
    """Return the directory behind a path, a `package:NAME` or a hub id, checked without loading the weights.

    `field` is what messages call the path.

    Raises UserError if there is no such model, the hub cannot be reached, the directory is no model, its family is
    not supported, or it asks for remote code.
    """
    directory = local_model(path, field) or fetch(path, revision)
    config = read_config(directory, field)
    check_files(directory, config, f"{field} {path!r}")
    names, layers = config["id2label"], config[family_of(config["model_type"]).layers_key]
    return ModelSource(directory, config, layers, [str(names[key]) for key in sorted(names)], _hash_files(directory))


def check_files(directory: Path, config: Mapping[str, Any], where: str) -> None:
    """Raise UserError, beginning with `where`, for a model directory without weights or a tokenizer, or with wrong ones.

    That is as far as the files themselves say so: damaged weights, sizes in its `config` that they do not have, an adapter.
    """
    if not any((directory / name).is_file() for name in WEIGHTS):
        raise UserError(f"{where}: {directory} holds no weights ({' or '.join(WEIGHTS[::2])}).")
    if not any((directory / name).is_file() for name in TOKENIZERS):
        wanted = ", ".join(TOKENIZERS)
        raise UserError(f"{where}: {directory} holds no tokenizer ({wanted}); save one beside the model.")
    if (directory / ADAPTER).is_file():
        raise UserError(
            f"{where}: {ADAPTER} says that weights are those of an adapter to another model; merge and save them."
        )
    check_size(config, family_of(config["model_type"]), stored_tensors(directory), f"{where}: config.json")
    check_tokenizer(directory / TOKENIZERS[0], where)


def read_config(directory: Path, field: str = "model.path") -> dict:
    """Return the configuration in `directory` with its family's defaults filled in.

    Raises UserError, naming `field`, where there is none, it cannot be used, or it asks for remote code.
    """
    file, where = directory / "config.json", f"{field} {str(directory)!r}"
    if not file.is_file():
        raise UserError(f"{where}: the folder holds no config.json, so it is no Hugging Face model directory.")
    if file.stat().st_size > LONGEST_CONFIG:
        raise UserError(
            f"{where}: config.json has over {LONGEST_CONFIG:,} bytes, which no configuration has; save it again."
        )
    try:
        raw = read_json(file)
    except (ValueError, OSError) as error:
        raise UserError(f"{where}: config.json cannot be read ({error}).") from error
    if not isinstance(raw, dict):
        raise UserError(f"{where}: config.json does not hold a model configuration.")
    if not isinstance(raw.get("model_type"), str | None):
        raise UserError(f"{where}: config.json gives no usable model_type ({raw['model_type']!r}).")
    try:
        family = family_of(raw.get("model_type"))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    check_given(raw, family, f"{where}: config.json")
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(directory, local_files_only=True, trust_remote_code=False).to_dict()
        config |= cross_encoder(directory)
    except Exception as error:  # transformers raises whatever a value of the wrong kind leads it to
        raise UserError(f"{where}: config.json cannot be used ({first_line(error)}).") from error
    check_config(config, family, f"{where}: config.json")
    shape_in(config, f"{where}: config.json")
    return config


def longest_input(config: dict) -> int:
    """Return how many tokens the positions of a model with this configuration allow."""
    positions = config.get("max_position_embeddings", 512)
    return positions - (config["pad_token_id"] + 1 if family_of(config["model_type"]).position_offset else 0)


def load_classifier(
    source: ModelSource,
    *,
    device: str = "cpu",
    new_labels: list[str] | None = None,
    kind: str = "single_label",
    seed: int = 0,
) -> PreTrainedModel:
    """Load the classifier, in float32, in eval mode, on `device`; `config.dtype` says how its weights are stored.

    `new_labels` gives a checkpoint that is about to be fine-tuned new outputs, drawn by `seed`, for these labels of a `kind`;
    without it a checkpoint that has no classification head of its own is refused. Raises UserError for weights that are
    missing, do not fit the config, cannot be read, or hold NaN or infinity.
    """
    kind = source.task.kind if new_labels is None else kind
    fresh, family, where = {}, family_of(source.config["model_type"], kind), f"model {source.path}"
    if new_labels is not None:
        names = dict(enumerate(new_labels))
        ids = {name: index for index, name in names.items()}
        fresh = {"num_labels": len(names), "id2label": names, "label2id": ids, "problem_type": KINDS[kind].problem_type}
    else:
        check_outputs(source.config, f"{where}: config.json")
    check_stored(source.path, family, where, head=new_labels is None)
    try:
        with quiet_transformers(), torch.random.fork_rng():
            torch.manual_seed(seed)
            model, info = loading_class(source.config, classes_for(kind)).from_pretrained(
                source.path,
                output_loading_info=True,
                dtype=torch.float32,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # told below, with both shapes
                **NEUTRAL,
                **family.loaded_with,
                **fresh,
            )
    except Exception as error:  # safetensors, pickle and zip raise their own types: all mean a file that is no use
        raise UserError(
            f"{where}: the weights cannot be loaded ({first_line(error)}); fetch or save them again."
        ) from error
    head = tuple(f"{name}." for name in (family.dense, family.output, family.head_norm) if name)
    # transformers 4.57 gives names alone, other versions names with both shapes
    unfit = [entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]]
    misfits = [key for key in unfit if new_labels is None or not key.startswith(head)]
    if misfits:
        wanted = list(model.state_dict()[misfits[0]].shape)
        raise UserError(f"{where}: {misfit(source.path, source.config, misfits[0], wanted)}.")
    model = convolved(unrolled(as_stored(model)))
    model.config.architectures = [type(model).__name__]  # which says what the outputs mean, also of a head that is new
    missing = sorted(info["missing_keys"])
    if encoder_missing := [name for name in missing if not name.startswith(head)]:
        raise UserError(
            f"model {source.path}: {len(encoder_missing)} weights that config.json announces are missing, such as "
            f"{encoder_missing[0]}; check {family.layers_key} and the weight file."
        )
    if missing and new_labels is None:
        raise UserError(
            f"{where}: the checkpoint has no classification head ({missing[0]} is missing), so it is not fine-tuned; add a "
            "finetune section to the recipe or give a fine-tuned model."
        )
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise UserError(f"model {source.path}: weight {name} holds NaN or infinity; the checkpoint is broken.")
    model.config.dtype = getattr(torch, stored_precision(source.path))
    model.config.update(cross_encoder(source.path))
    model.eval()
    try:
        with torch.inference_mode():
            model(input_ids=torch.zeros(1, 2, dtype=torch.long), attention_mask=torch.ones(1, 2, dtype=torch.long))
    except Exception as error:  # a value of the wrong kind that only forward meets
        raise UserError(f"{where}: it cannot be run ({first_line(error)}); correct its config.json.") from error
    return model.to(device)


def load_model(path: str | Path, *, device: str = "cpu") -> PreTrainedModel:
    """Return the classifier in a directory (or behind a hub id), float32, in eval mode, on `device`.

    Where the directory announces fewer neurons or heads, or layers without one of their blocks, what the stock class
    would compute with zeros is really gone here: the same predictions in less time. Raises UserError for whatever
    is no usable classifier.
    """
    return rolled(load_classifier(find_model(str(path)), device=device))


def classes_for(kind: str) -> Mapping[type, type]:
    """Return what transformers has for models with a `kind` of answers: class of a configuration -> class of a model."""
    return MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING if kind == TOKENS else MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING


def load_tokenizer(source: ModelSource, kind: str | None = None) -> PreTrainedTokenizerBase:
    """Load the fast tokenizer beside the model; raises UserError when it cannot be read.

    `kind` is that of the answers, None for what the model says. Byte-level tokenizers take texts as words only with a space in
    front of each, which one for tokens is therefore made to put there.
    """
    by_words = by_token(source.config) if kind is None else kind == TOKENS
    if not any((source.path / name).is_file() for name in TOKENIZERS[:-1]) and find_spec("sentencepiece") is None:
        raise UserError(
            f"model {source.path}: {TOKENIZERS[-1]} is all that it has of a tokenizer, which the library sentencepiece reads; "
            "run `pip install sentencepiece`, or save tokenizer.json beside the model."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.path, trust_remote_code=False, local_files_only=True)
        with tokenizing(f"model {source.path}"):
            tokenizer("a", "a")  # what only its use meets, such as a model_max_length that is no number
        if by_words and not getattr(tokenizer, "add_prefix_space", True):
            told = {"trust_remote_code": False, "local_files_only": True, "add_prefix_space": True}
            tokenizer = AutoTokenizer.from_pretrained(source.path, **told)
    except UserError:
        raise
    except Exception as error:  # the Rust tokenizers raise plain Exception for a damaged file
        raise UserError(f"model {source.path}: the tokenizer cannot be loaded ({first_line(error)}).") from error
    probe(partial(tokenizer, verbose=False), f"model {source.path}")
    if tokenizer.pad_token_id is None:
        raise UserError(f"model {source.path}: the tokenizer has no padding token; set pad_token and save it again.")
    if len(tokenizer) > source.config["vocab_size"]:
        raise UserError(
            f"model {source.path}: the tokenizer has {len(tokenizer)} tokens, the model embeds {source.config['vocab_size']}; "
            "they do not belong together."
        )
    if not family_of(source.config["model_type"]).token_types or source.config.get("type_vocab_size", 2) < 2:
        # a BERT tokenizer beside a DistilBERT or RoBERTa would pass segment ids that the model does not know
        tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    return tokenizer


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence the loading messages of transformers: what they warn of is checked here and raised."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _hash_files(directory: Path) -> str:
    """Return one hash over the files that decide what the model computes: config, weights, tokenizer."""
    digest = hashlib.sha256()
    for file in sorted(directory.iterdir()):
        if file.is_file() and file.suffix in {".json", ".txt", ".safetensors", ".bin", ".model"}:
            try:
                digest.update(f"{file.name}:{file_sha256(file)}\n".encode())
            except OSError as error:
                raise UserError(f"{file}: cannot be read ({error.strerror}); check its rights.") from error
    return digest.hexdigest()
