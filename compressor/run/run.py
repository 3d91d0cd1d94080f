"""One recipe in one run directory: its inputs, and what several stages share."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.cascade.thresholds import rows_needed
from compressor.compensation.refits.amounts import Amount, Piece
from compressor.data.answers.kinds import MANY_LABELS, RANKING, SCORE, SINGLE_LABEL, THRESHOLD, TOKENS, TOLERANCE, Task
from compressor.data.archive.stream import files_of
from compressor.data.batches import Encodings, encode, encode_words, join, same_tokens
from compressor.data.named import kind_of
from compressor.data.splits import Split, first_rows
from compressor.data.tasks import TaskData
from compressor.export.onnx import STOCK, variants_for
from compressor.files import file_sha256, read_json, stage_key
from compressor.measurement.machine.environment import processor, versions
from compressor.measurement.predictions import predict
from compressor.model.cls_row import form_for
from compressor.model.families import Family, family_of
from compressor.model.load import ModelSource, find_model, load_classifier
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.units import Unit
from compressor.progress import Track
from compressor.recipe.compression import Recipe
from compressor.recipe.training import CascadeSpec
from compressor.run.rundir import CHECKPOINTS, STAGES_FOLDER
from compressor.selection.goals import corrected_confidence

AIMED = 0.6
"""Share of the changed predictions that the goal allows which the certificate of an early exit aims at."""
FIT_TEXTS = 1000
"""Texts that refits and stand-ins are fitted to where the run decides what to ship."""
EXIT_TEXTS = 4000
"""Texts that the exits are fitted on where the run decides what to ship."""
TEACHER = "teacher"
"""Folder of the full model where the run fine-tunes it."""
TAIL = "tail.json"
"""The form of the CLS-only tail, and the measurement that chose it."""


@dataclass
class Run:
    """One recipe in one run directory: its inputs, checked, and what several stages share, loaded when first needed."""

    recipe: Recipe
    source: ModelSource
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    path: Path
    device: str
    track: Track
    started: float = field(default_factory=time.monotonic)
    amounts: dict[Piece, Amount] = field(default_factory=dict)
    """What was fitted already of the heads and neurons that may go, so that several stages need not."""

    @property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.source.config["model_type"], self.kind)

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.data.label_names)

    @cached_property
    def task(self) -> Task:
        """What the outputs of the full model mean."""
        spec = self.recipe.data
        given = self.source.task if self.recipe.finetune is None else Task(sigmoid=self.logistic)
        given = replace(given, kind=self.kind)
        if given.kind == TOKENS:
            return replace(given, names=tuple(self.data.label_names))
        if given.kind == MANY_LABELS:
            asked = spec.threshold if isinstance(spec.threshold, list) else [spec.threshold or THRESHOLD] * self.classes
            return replace(given, thresholds=tuple(asked))
        if given.kind == SCORE:
            return replace(given, tolerance=self._tolerance(given) if spec.tolerance is None else spec.tolerance)
        return given

    @property
    def task_inputs(self) -> dict[str, Any]:
        """What the answers depend on beside the outputs: nothing where they are one label."""
        spec = self.recipe.data
        named = {"kind": self.kind, "tolerance": spec.tolerance, "threshold": spec.threshold}
        return {} if self.kind == SINGLE_LABEL else {"answers": named}

    @property
    def kind(self) -> str:
        """The kind of task: a ranking is what a model that gives scores is used for, so the recipe says it."""
        asked, given = kind_of(self.recipe.data), self.source.task.kind
        return asked if self.recipe.finetune is not None or asked == RANKING else given

    @property
    def logistic(self) -> bool:
        """Whether a model that is fine-tuned here gives as its score the probability of being relevant: labels are in 0..1."""
        return self.recipe.finetune is not None and self.kind == RANKING and bool(self.data.train.labels.max() <= 1)

    def _tolerance(self, task: Task) -> float:
        """Return the share of the labels' range by which a score may move; of the full model's scores where there are none."""
        values = self.data.train.labels
        if values is None:
            values = task.answers(predict(self.teacher, self.calibration, track=self.track, description="full model"))
        return TOLERANCE * float(np.ptp(values))

    @cached_property
    def teacher_source(self) -> ModelSource:
        """The full model: the one the recipe names, or the one that was fine-tuned here."""
        return self.source if self.recipe.finetune is None else find_model(str(self.path / TEACHER))

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The full model, loaded."""
        return load_classifier(self.teacher_source, device=self.device)

    @cached_property
    def compressed_source(self) -> ModelSource:
        """The compressed model."""
        return find_model(str(self.path / "model"))

    @cached_property
    def compressed(self) -> PreTrainedModel:
        """The compressed model, loaded."""
        return load_classifier(self.compressed_source, device=self.device)

    @cached_property
    def lost_units(self) -> list[Unit]:
        """The layers and parts of layers that the plan leaves out."""
        return read_json(self.path / "plan.json")["units"]

    @cached_property
    def variants(self) -> list[str]:
        """The ONNX variants of the compressed model."""
        wanted = "auto" if self.recipe.ship is not None else self.recipe.export.variants
        return variants_for(wanted, self.device, processor()["instructions"])

    @property
    def branches(self) -> int:
        """How many series of compositions a run that decides what to ship tests: the level of each is corrected for that.

        Files and models of the full model, those of the compressed one, and the early exit.
        """
        return 1 + bool(self.lost_units) + (self.recipe.ship.exits and self.data.guard is not None)

    @property
    def cascade(self) -> CascadeSpec | None:
        """The guarded early exit that the recipe asks for, or the one that a run which decides what to ship tries."""
        ship = self.recipe.ship
        if ship is None:
            return self.recipe.cascade
        limits, level = ship.limits, corrected_confidence(ship.confidence, self.branches)
        allowed = limits["max_drop"] if limits["max_flips"] is None else limits["max_flips"]
        # thresholds go as far as their certificate lets them: a part of what is allowed is left to the rows to come
        aimed = AIMED * allowed
        if self.data.guard is None or rows_needed(aimed, level) > len(self.data.guard):
            aimed = allowed
        return CascadeSpec(
            model="compressed" if self.lost_units else "full",
            max_flips=aimed,
            confidence=level,
            fit_size=EXIT_TEXTS,
            precision="int8" if "int8" in self.variants else "float32",
        )

    @property
    def late(self) -> bool:
        """Whether the time that the recipe gives to compositions is over."""
        minutes = self.recipe.ship and self.recipe.ship.budget_minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    def deciding(self, *, exits: bool = False) -> list[str]:
        """Return the parts of the data whose rows decide whether a composition may be shipped.

        `guard`, calibration text that nothing is fitted to, and the selection split where the model was not trained on it
        and nothing was fitted to it either: no mix was chosen by it and no exits learned from it. Without a guard it decides
        alone, whatever the model knows of it.
        """
        if self.data.guard is None:
            return ["selection"]
        new = self.recipe.finetune is not None or self.recipe.data.calibration.seen_in_training is False
        return ["guard", "selection"] if new and not exits and not self.recipe.ship.parts else ["guard"]

    @property
    def full_variants(self) -> list[str]:
        """The ONNX variants of the full model: the same, and what the exact savings are measured against."""
        added = ["alltokens"] if "optimized" in self.variants and self.recipe.export.cls_only_tail else []
        return list(dict.fromkeys([*self.variants, *added]))

    @property
    def tail(self) -> str | None:
        """The form of the CLS-only tail in the files that have one, None for none."""
        if self.kind == TOKENS:  # every token of the last layer is read, also where the source is no tagger yet
            return None
        if measures_tail(self.recipe):
            return read_json(self.path / TAIL)["form"]
        wanted = self.recipe.export.cls_only_tail
        return form_for(self.source.config, wanted) if isinstance(wanted, str) else None

    @cached_property
    def archive_files(self) -> list[str]:
        """The sha256 of each file of the archive, in order; none where it comes from a hub."""
        return [file_sha256(path) for path in files_of(self.recipe.data.archive)]

    @cached_property
    def calibration(self) -> Encodings:
        """Tokens of the calibration split."""
        return self.encode(self.data.calibration)

    @cached_property
    def fitting(self) -> Encodings:
        """Tokens of the texts that refits, stand-ins and the head are fitted to: the calibration split.

        A run that decides what to ship takes training texts in its place, since calibration decides there.
        """
        if self.recipe.ship is None:
            return self.calibration
        return self.encode(self.train_texts.take(list(range(min(FIT_TEXTS, len(self.train_texts))))))

    @cached_property
    def train_texts(self) -> Split:
        """The training rows, each text once."""
        return self.data.train.take(first_rows(self.data.train, same_tokens(self.tokenizer)))

    @cached_property
    def selection(self) -> Encodings:
        """Tokens of the selection split."""
        return self.encode(self.data.selection)

    @cached_property
    def evaluation(self) -> Encodings:
        """Tokens of the evaluation split."""
        return self.encode(self.data.evaluation)

    @cached_property
    def guard(self) -> Encodings:
        """Tokens of the rows that certify the cascade."""
        return self.encode(self.data.guard)

    @cached_property
    def exit_text(self) -> Encodings:
        """Tokens of the texts that the cascade's exits are fitted on, none twice: training text, then the selection split."""
        size, parts = self.cascade.fit_size, []
        for part in (self.train_texts, self.data.selection):
            parts.append(self.encode(part.take(list(range(min(size, len(part)))))))
            size -= len(parts[-1])
        return join(parts)

    @property
    def provenance(self) -> dict[str, str]:
        """What the full model knows of each part of the data that decides or certifies something, in words."""
        spec = self.recipe.data.calibration
        if self.recipe.finetune is not None:
            cut = "cut out of the training file, and kept from the fine-tuning in this run"
        elif spec.seen_in_training is False:
            cut = "cut out of the training file, which the recipe says the model was not trained on"
        else:
            cut = "cut out of the training file, which the model may have been fine-tuned on"
        told = cut if spec.split == "train" else "taken from the test file, which is no part of training"
        parts = {"calibration": told, "selection": cut}
        return parts if self.data.guard is None else {**parts, "guard": told}

    def checkpoint(self, name: str, inputs: Mapping[str, Any], minutes: float = 5.0) -> Checkpoint:
        """Return the checkpoint of training `name` in this run directory; `inputs` (JSON) decide the result with the seed."""
        shared = {"seed": self.recipe.seed, "max_length": self.recipe.data.max_length, "device": self.device}
        shared["version"] = versions()["compressor"]
        return Checkpoint(
            self.path / STAGES_FOLDER / CHECKPOINTS / name, stage_key(name, {**shared, **inputs}), minutes
        )

    def encode(self, split: Split) -> Encodings:
        """Tokenise a split."""
        if split.by_word:
            return encode_words(split.texts, self.tokenizer, self.recipe.data.max_length)
        return encode(split.texts, self.tokenizer, self.recipe.data.max_length)


def measures_tail(recipe: Recipe) -> bool:
    """Return whether the form of the CLS-only tail is to be found by measurement, and any file has one."""
    variants = recipe.export.variants
    spares = variants == "auto" or set(variants) - set(STOCK) or recipe.cascade is not None or recipe.ship is not None
    return recipe.export.cls_only_tail is True and bool(spares)
