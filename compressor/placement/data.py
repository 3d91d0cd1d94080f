"""The text and the tasks of a placement experiment, made once for all its runs, and kept in its folder."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from filelock import FileLock
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from compressor.data.batches import Encodings, encode
from compressor.data.tasks import TaskData, load_task
from compressor.errors import UserError
from compressor.files import stage_key
from compressor.placement.masks import Masked
from compressor.placement.pretrain import masked_rows
from compressor.placement.text import (
    Packed,
    held_out,
    load_given_tokenizer,
    make_tokenizer,
    pack,
    read_texts,
    unigram_loss,
)
from compressor.recipe.placement import PlacementRecipe, PlacementTask
from compressor.run.rundir import LOCK, STAGES_FOLDER, RunDir

SHARED = "shared"
"""Folder of what all runs have in common."""
EVALUATION_SEED = 0
"""Decides the mask of the held-out text: one for all placements and all seeds, whatever the recipe's seeds are."""
MOST_CLASSES = 36
"""Predictions are stored as one character a row."""


@dataclass(frozen=True)
class TextData:
    """Packed text, its tokenizer, and the mask under which the held-out part is predicted by every model."""

    tokenizer: PreTrainedTokenizerBase
    train: Packed
    evaluation: Packed
    masked: Masked
    texts: int
    unigram_loss: float
    """Loss on the evaluation masks of a model that knows only how often each token occurs."""

    @cached_property
    def sha256(self) -> str:
        """Hex digest of what a pre-training reads."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return hashlib.sha256(f"{self.train.sha256}{self.evaluation.sha256}{vocabulary}".encode()).hexdigest()


@dataclass(frozen=True)
class TaskText:
    """A task as every model is fine-tuned on it: tokens and labels int64 of training and evaluation rows."""

    name: str
    label_names: tuple[str, ...]
    train: Encodings
    train_labels: np.ndarray
    evaluation: Encodings
    evaluation_labels: np.ndarray
    sha256: str


def load_tasks(recipe: PlacementRecipe) -> list[TaskData]:
    """Read the tasks of the recipe; raises UserError where one is unknown, unreadable or has no labels."""
    found = []
    for number, spec in enumerate(recipe.tasks):
        data = load_task(spec, model_labels=None, seed=0)
        if data.train.labels is None or data.evaluation.labels is None:
            raise UserError(f"tasks.{number}: fine-tuning needs labels, and the data has none; set label.")
        if len(data.label_names) > MOST_CLASSES:
            raise UserError(
                f"tasks.{number}: {len(data.label_names)} classes; predictions are kept for at most {MOST_CLASSES}."
            )
        found.append(data)
    return found


def task_text(spec: PlacementTask, data: TaskData, tokenizer: PreTrainedTokenizerBase) -> TaskText:
    """Tokenise a task: its first `train_rows` training rows, which are in hash order, and all evaluation rows."""
    train = data.train.take(list(range(min(len(data.train), spec.train_rows or len(data.train)))))
    digest = f"{train.sha256}{data.evaluation.sha256}{spec.max_length}{data.label_names}"
    return TaskText(
        name=spec.label_of_task,
        label_names=data.label_names,
        train=encode(train.texts, tokenizer, spec.max_length),
        train_labels=train.labels,
        evaluation=encode(data.evaluation.texts, tokenizer, spec.max_length),
        evaluation_labels=data.evaluation.labels,
        sha256=hashlib.sha256(digest.encode()).hexdigest(),
    )


def prepare_text(recipe: PlacementRecipe, folder: Path) -> TextData:
    """Return the text of the recipe, tokenised and packed; made by the first process that asks, read by all others.

    Raises UserError where there is no text, the tokenizer does not fit, or a sequence cannot be filled.
    """
    texts = read_texts(recipe.text)
    given = load_given_tokenizer(recipe.encoder) if recipe.encoder.tokenizer else None
    encoder, length = recipe.encoder, recipe.pretrain.length
    key = stage_key(SHARED, {
        "texts": hashlib.sha256("\n".join(texts).encode("utf-8", "surrogatepass")).hexdigest(),
        "held_out": recipe.text.held_out, "length": length, "vocab_size": encoder.vocab_size,
        "tokenizer": None if given is None else sorted(given.get_vocab().items()),
    })  # fmt: skip

    def compute(made: Path) -> None:
        early, late = held_out(texts, recipe.text.held_out)
        tokenizer = given or make_tokenizer(early, encoder.vocab_size)
        parts = {"train": pack(early, tokenizer, length), "evaluation": pack(late, tokenizer, length)}
        for name, part in parts.items():
            if not len(part):
                raise UserError(
                    f"text: the {name} text does not fill one sequence of {length} tokens; give more text or a lower "
                    "pretrain.length."
                )
            np.savez(made / f"{name}.npz", ids=part.ids, starts=part.starts)
        tokenizer.save_pretrained(made / "tokenizer")

    run = RunDir(folder / SHARED)
    (run.path / STAGES_FOLDER).mkdir(parents=True, exist_ok=True)
    with FileLock(run.path / LOCK):
        run.stage("text", key, ["train.npz", "evaluation.npz", "tokenizer"], compute)
        tokenizer = AutoTokenizer.from_pretrained(run.path / "tokenizer", local_files_only=True)
        train, evaluation = (_read(run.path / f"{name}.npz") for name in ("train", "evaluation"))
    most = recipe.pretrain.evaluation_sequences
    evaluation = Packed(evaluation.ids[:most], evaluation.starts[:most])
    masked = masked_rows(evaluation, np.arange(len(evaluation)), tokenizer, recipe.pretrain.mask, EVALUATION_SEED)
    if not masked.chosen.any():
        raise UserError("text: no held-out word is masked; give more text or a larger text.held_out.")
    loss = unigram_loss(train, evaluation.ids[masked.chosen], encoder.vocab_size)
    return TextData(tokenizer, train, evaluation, masked, len(texts), loss)


def _read(path: Path) -> Packed:
    with np.load(path) as arrays:
        return Packed(arrays["ids"], arrays["starts"])
