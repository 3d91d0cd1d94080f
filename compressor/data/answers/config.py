"""What a model's configuration says of its task, and what tasks other than one label a row cannot have."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.data.answers.kinds import (
    KINDS,
    MANY_LABELS,
    RANKING,
    SCORE,
    SINGLE,
    SINGLE_LABEL,
    THRESHOLD,
    TOKENS,
    Task,
)
from compressor.errors import UserError
from compressor.files import read_json

if TYPE_CHECKING:  # figures of finished runs are compared without waiting for torch
    from transformers import PreTrainedModel

OWN_FILE = "config_sentence_transformers.json"
"""Where sentence-transformers keeps what config.json has no field for."""
ACTIVATIONS = {"identity": False, "sigmoid": True}
"""What a cross-encoder makes of its one output -> whether that is the logistic function of it."""
LOGISTIC = {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}
"""What config.json says of a model whose score is the logistic function of its output."""
WORDS = {
    SINGLE_LABEL: "one label a row",
    SCORE: "a score",
    MANY_LABELS: "any number of labels a row",
    RANKING: "an order of documents",
    TOKENS: "a label a word",
}
"""What a model gives -> in words."""


def task_of(config: Mapping[str, Any], where: str) -> Task:
    """Return the task of a classifier by its configuration.

    Raises UserError, beginning with `where`, for several numbers a row, and for an activation of a cross-encoder that is
    neither the identity nor the logistic function.
    """
    kind, outputs = config.get("problem_type"), len(config["id2label"])
    if by_token(config):
        return Task(TOKENS, names=tuple(str(name) for _, name in sorted(config["id2label"].items())))
    if kind == KINDS[SCORE].problem_type or (kind is None and outputs == 1):
        if outputs > 1:
            raise UserError(
                f"{where}: problem_type is regression with {outputs} outputs, and a score is one number; give a model with one."
            )
        return Task(SCORE, sigmoid=_sigmoid(config, where))
    if kind == KINDS[MANY_LABELS].problem_type:
        return Task(MANY_LABELS, thresholds=(THRESHOLD,) * outputs)
    return SINGLE


def by_token(config: Mapping[str, Any]) -> bool:
    """Return whether a model with this configuration is a token classifier: the class that it was saved from says so."""
    return str(next(iter(config.get("architectures") or ()), "")).endswith("ForTokenClassification")


def need_single_label(kind: str, where: str, why: str) -> None:
    """Raise UserError, beginning with `where`, for a kind whose rows have other answers than one label; `why` is the reason."""
    if kind != SINGLE_LABEL:
        raise UserError(f"{where}: {why}, and this model gives {WORDS[kind]}; it needs one with one label a row.")


def model_task(model: PreTrainedModel) -> Task:
    """Return the task of a model that is loaded, by its configuration; see `task_of`."""
    return task_of(model.config.to_dict(), "the model")


def cross_encoder(directory: Path) -> dict[str, Any]:
    """Return what sentence-transformers' own file in a model directory says of the activation, as older versions had it.

    Up to version 4 it stood in config.json under the key that this returns; a stock model has neither.
    """
    try:
        own = read_json(directory / OWN_FILE)
    except (OSError, ValueError):
        return {}
    named = own.get("activation_fn") if isinstance(own, dict) and own.get("model_type") == "CrossEncoder" else None
    return {} if named is None else {"sentence_transformers": {"activation_fn": named}}


def _sigmoid(config: Mapping[str, Any], where: str) -> bool:
    """Return whether the score of a cross-encoder is the logistic function of the output (sentence-transformers' config)."""
    named = config.get("sentence_transformers") or {}
    name = named.get("activation_fn") or config.get("sbert_ce_default_activation_function")
    short = str(name).rpartition(".")[2].lower() if name else "identity"
    if short not in ACTIVATIONS:
        raise UserError(f"{where}: the cross-encoder's activation is {name}; use {' or '.join(ACTIVATIONS)}.")
    return ACTIVATIONS[short]
