"""One recipe in one run directory: its inputs, checked before anything expensive, and what several stages share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.cascade.exits import LEAST_ROWS
from compressor.cascade.plan import layers_to_try
from compressor.cascade.thresholds import rows_needed
from compressor.compensation.distill import check_labels
from compressor.compensation.head import check_nodes
from compressor.data.batches import Encodings, encode, join
from compressor.data.splits import Split, first_of_each, without_overlaps
from compressor.data.tasks import TaskData, load_task
from compressor.errors import UserError
from compressor.export.onnx import STOCK, variants_for
from compressor.measurement.environment import processor, versions
from compressor.model.checkpoint import Checkpoint
from compressor.model.families import Family, family_of
from compressor.model.load import ModelSource, find_model, load_classifier, load_tokenizer, longest_input
from compressor.model.sublayers import shape_in
from compressor.progress import Track
from compressor.recipe import Recipe, SelectionSpec
from compressor.rundir import CHECKPOINTS, STAGES_FOLDER, read_json, stage_key
from compressor.selection.search import check_selection
from compressor.selection.units import check_budget, flops_savings, part_names

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

    @property
    def family(self) -> Family:
        """The family of the model."""
        return family_of(self.source.config["model_type"])

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.data.label_names)

    @cached_property
    def teacher_source(self) -> ModelSource:
        """The full model: the one the recipe names, or the one that was fine-tuned here."""
        return self.source if self.recipe.finetune is None else find_model(str(self.path / TEACHER))

    @cached_property
    def teacher(self) -> PreTrainedModel:
        """The full model, loaded."""
        return load_classifier(self.teacher_source, device=self.device)

    @cached_property
    def compressed(self) -> PreTrainedModel:
        """The compressed model, loaded."""
        return load_classifier(find_model(str(self.path / "model")), device=self.device)

    @cached_property
    def variants(self) -> list[str]:
        """The ONNX variants of the compressed model."""
        return variants_for(self.recipe.export.variants, self.device, processor()["instructions"])

    @property
    def full_variants(self) -> list[str]:
        """The ONNX variants of the full model: the same, and what the exact savings are measured against."""
        added = ["alltokens"] if "optimized" in self.variants and self.recipe.export.cls_only_tail else []
        return list(dict.fromkeys([*self.variants, *added]))

    @property
    def tail(self) -> str | None:
        """The form of the CLS-only tail in the files that have one, None for none."""
        if measures_tail(self.recipe):
            return read_json(self.path / TAIL)["form"]
        wanted = self.recipe.export.cls_only_tail
        return wanted if isinstance(wanted, str) else None

    @cached_property
    def calibration(self) -> Encodings:
        """Tokens of the calibration split."""
        return self.encode(self.data.calibration)

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
        """Tokens of the texts that the cascade's exits are fitted on: training text, then the selection split."""
        size, parts = self.recipe.cascade.fit_size, []
        for part in (self.data.train, self.data.selection):
            parts.append(self.encode(part.take(list(range(min(size, len(part)))))))
            size -= len(parts[-1])
        return join(parts)

    def checkpoint(self, name: str, inputs: Mapping[str, Any], minutes: float = 5.0) -> Checkpoint:
        """Return the checkpoint of training `name` in this run directory; `inputs` (JSON) decide the result with the seed."""
        shared = {"seed": self.recipe.seed, "max_length": self.recipe.data.max_length, "device": self.device}
        shared["version"] = versions()["compressor"]
        return Checkpoint(
            self.path / STAGES_FOLDER / CHECKPOINTS / name, stage_key(name, {**shared, **inputs}), minutes
        )

    def encode(self, split: Split) -> Encodings:
        """Tokenise a split."""
        return encode(split.texts, self.tokenizer, self.recipe.data.max_length)


def prepare(recipe: Recipe, path: Path, device: str, track: Track) -> Run:
    """Look at the model and read the data; refuse what cannot work before anything expensive or any file is made."""
    source = find_model(recipe.model.path, recipe.model.revision)
    check_selection(recipe.selection, source.layers, recipe.goals)
    if recipe.selection.budget is not None:
        _check_budget(recipe.selection, source)
    head = recipe.compensation.head
    if head is not None:
        check_nodes(head.nodes, source.config[family_of(source.config["model_type"]).width_key])
    if source.path.resolve().is_relative_to(path.resolve()):
        raise UserError(
            f"model.path {recipe.model.path!r}: the model lies in the run directory {path}; name another --out."
        )
    longest = longest_input(source.config)
    if recipe.data.max_length > longest:
        raise UserError(
            f"data.max_length: {recipe.data.max_length} is more than the {longest} tokens that the model takes."
        )
    too_long = [length for length in recipe.benchmark.lengths if length > longest]
    if too_long:
        raise UserError(f"benchmark.lengths: {too_long[0]} is more than the {longest} tokens that the model takes.")
    tokenizer = load_tokenizer(source)
    fine_tuned = recipe.finetune is None
    if fine_tuned and len(source.label_names) < 2:
        raise UserError(
            f"model.path {recipe.model.path!r}: the model has one output (regression); a classifier is needed."
        )
    data = load_task(recipe.data, model_labels=source.label_names if fine_tuned else None, seed=recipe.seed)
    _check_labels(recipe, data)
    if recipe.cascade is not None:
        data = _with_guard(recipe, data, source.layers)
        if not tokenizer.is_fast:
            raise UserError(
                f"cascade: the tokenizer of {recipe.model.path!r} has no fast form (tokenizer.json), which the exported "
                "classifier needs; save one beside the model, or leave cascade out."
            )
    return Run(recipe, source, tokenizer, data, path, device, track)


def _check_budget(spec: SelectionSpec, source: ModelSource) -> None:
    """Raise UserError where the budget cannot be reached, as far as that is known before anything is timed."""
    if shape_in(source.config) is not None:
        raise UserError(
            f"selection.budget: {source.path} has already lost parts of layers; give the model it was made from."
        )
    if spec.budget.of == "flops":
        check_budget(spec, source_savings(spec, source), source.layers)


def source_savings(spec: SelectionSpec, source: ModelSource) -> dict[tuple[int, str], np.ndarray]:
    """Return what the parts that may go save of the FLOPs of a model."""
    family = family_of(source.config["model_type"])
    hidden, width = source.config[family.width_key], source.config[family.ffn_key]
    return flops_savings(source.layers, hidden, width, part_names(spec, width))


def measures_tail(recipe: Recipe) -> bool:
    """Return whether the form of the CLS-only tail is to be found by measurement, and any file has one."""
    variants = recipe.export.variants
    spares = variants == "auto" or set(variants) - set(STOCK) or recipe.cascade is not None
    return recipe.export.cls_only_tail is True and bool(spares)


def _check_labels(recipe: Recipe, data: TaskData) -> None:
    """Raise UserError where the recipe asks for labels that the data does not have."""
    if "errors" in recipe.analysis and (data.evaluation.labels is None or data.selection.labels is None):
        raise UserError(
            "analysis: errors needs gold labels, and the data has none; set data.label, or leave errors out."
        )
    if recipe.finetune is not None and data.train.labels is None:
        raise UserError("finetune: the training data has no labels; set data.label, or give a fine-tuned model.")
    if recipe.compensation.distill is not None:
        labelled = [name for name in ("train", "calibration") if getattr(data, name).labels is not None]
        check_labels(recipe.compensation.distill, labelled)
    if data.calibration.labels is None:
        remedy = "set it to teacher, or calibrate on labelled text (data.calibration.split: train)"
        if recipe.separability.labels == "gold":
            raise UserError(f"separability.labels: gold, but the calibration text has no labels; {remedy}.")
        head = recipe.compensation.head
        if head is not None and head.targets == "gold":
            raise UserError(f"compensation.head.targets: gold, but the calibration text has no labels; {remedy}.")


def _with_guard(recipe: Recipe, data: TaskData, layers: int) -> TaskData:
    """Return `data` with the rows that certify the cascade; raises UserError where they cannot certify anything."""
    spec, selection = recipe.cascade, recipe.selection
    if spec.model == "compressed":
        # refits, head and distillation learn from the calibration text, so it cannot certify what they made
        half = len(data.calibration) // 2
        halves = {
            "calibration": data.calibration.take(list(range(half))),
            "guard": data.calibration.take(list(range(half, 2 * half))),
        }
        data = replace(data, **without_overlaps(halves)[0])
    else:
        data = replace(data, guard=data.calibration)
    # parts are drawn text by text, so the copies of one text are one draw, not several
    data = replace(data, guard=first_of_each(data.guard))
    searched = selection.layers == "auto" or (selection.budget is not None and "layer" in selection.units)
    if spec.model == "full" or not searched:  # how deep the model is otherwise, the search decides
        skipped = 0 if spec.model == "full" or selection.budget is not None else selection.layers
        layers_to_try(spec.exits, layers - skipped)
    texts = min(spec.fit_size, len(data.train) + len(data.selection))
    if texts < LEAST_ROWS:
        raise UserError(
            f"cascade: the exits take at least {LEAST_ROWS} texts to fit, here are {texts}; give more training text, or "
            "raise cascade.fit_size."
        )
    needed = rows_needed(spec.max_flips, spec.confidence)
    if len(data.guard) < needed:
        raise UserError(
            f"cascade.max_flips: {spec.max_flips:.2%} at {spec.confidence:.0%} confidence takes at least {needed} "
            f"different calibration texts that nothing else uses, here are {len(data.guard)}; raise data.calibration.size, "
            "give more text, or allow more flips."
        )
    return data
