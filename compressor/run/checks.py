"""What is refused before anything expensive is done or any file is made."""

from dataclasses import replace
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from compressor.cascade.exits import LEAST_ROWS
from compressor.cascade.plan import layers_to_try
from compressor.cascade.thresholds import rows_needed
from compressor.compensation.distill import check_labels
from compressor.compensation.heads.head import check_nodes
from compressor.compensation.heads.trainers import check_trainer
from compressor.data.answers.config import WORDS
from compressor.data.answers.kinds import MANY_LABELS, RANKING, SCORE, SINGLE_LABEL, TOKENS
from compressor.data.batches import check_room, same_tokens
from compressor.data.named import kind_of
from compressor.data.splits import Same, first_rows
from compressor.data.tasks import TaskData, load_task
from compressor.data.words.fit import fit_data
from compressor.errors import UserError
from compressor.model.capture import check_fit_rows
from compressor.model.checks import check_outputs
from compressor.model.cls_row import relative_positions
from compressor.model.families import family_of
from compressor.model.files.weights import check_stored
from compressor.model.load import ModelSource, find_model, load_tokenizer, longest_input
from compressor.progress import Track
from compressor.recipe.compression import Recipe
from compressor.run.archive import check_archive
from compressor.run.run import Run
from compressor.run.rundir import GIVEN
from compressor.run.structure import fit_structure
from compressor.run.workers import check_engine


def prepare(recipe: Recipe, path: Path, device: str, track: Track) -> Run:
    """Look at the model and read the data; refuse what cannot work before anything expensive or any file is made."""
    source = find_model(recipe.model.path, recipe.model.revision)
    recipe = fit_structure(recipe, source)
    _check_head(recipe, source)
    inside = source.path.resolve().is_relative_to(path.resolve())
    if inside and source.path.resolve() != path.resolve() / GIVEN:
        raise UserError(
            f"model.path {recipe.model.path!r}: the model lies in the run directory {path}; name another --out."
        )
    _check_lengths(recipe, longest_input(source.config))
    kind = _kind(recipe, source)
    tokenizer = load_tokenizer(source, kind)
    fine_tuned = recipe.finetune is None
    if fine_tuned:
        check_classifier(source, f"model.path {recipe.model.path!r}")
    names, same = source.label_names if fine_tuned else None, same_tokens(tokenizer)
    data = load_task(recipe.data, model_labels=names, seed=recipe.seed, same=same, kind=kind)
    check_room(tokenizer, len(data.text_columns), recipe.data.max_length, "data.max_length")
    if kind == TOKENS:
        data = fit_data(data, tokenizer, recipe.data.max_length, skip=recipe.data.on_bad_row == "skip")
    _check_labels(recipe, data)
    check_archive(recipe.data.archive, data, kind)
    check_engine(recipe.selection.engine)
    if recipe.cascade is not None:
        _check_cascade(recipe, source, tokenizer, device)
        data = _with_guard(recipe, data, source.layers, same)
    if recipe.ship is not None:
        data = _with_deciding(recipe, data)
    if recipe.compensation.refit is not None or recipe.selection.budget is not None:
        check_fit_rows(len(data.calibration))
    return Run(recipe, source, tokenizer, data, path, device, track)


def _check_head(recipe: Recipe, source: ModelSource) -> None:
    """Raise UserError for a head that the model cannot have."""
    head = recipe.compensation.head
    if head is not None:
        family = family_of(source.config["model_type"])
        check_nodes(head.nodes, source.config[family.width_key])
        check_trainer(head, family, source.config["model_type"])


def _kind(recipe: Recipe, source: ModelSource) -> str:
    """Return the kind of task; raises UserError where data and model do not agree on it, or it cannot do what is asked."""
    if recipe.finetune is not None:
        kind = kind_of(recipe.data)
    else:
        kind, asked = source.task.kind, recipe.data.kind
        if asked == RANKING and kind == SCORE:
            kind = RANKING  # what scores are used for
        if asked not in {kind, None}:
            raise UserError(
                f"data.kind: {asked}, but {recipe.model.path} gives {WORDS[kind]} ({kind}); leave data.kind out, or correct "
                "problem_type in the model's config.json."
            )
        for key, own in (("tolerance", SCORE), ("threshold", MANY_LABELS)):
            if getattr(recipe.data, key) is not None and kind != own:
                raise UserError(
                    f"data.{key}: it is for {WORDS[own]}, and {recipe.model.path} gives {WORDS[kind]}; leave it out."
                )
    if kind != SINGLE_LABEL:
        _check_kind(recipe, kind)
    return kind


def _check_kind(recipe: Recipe, kind: str) -> None:
    """Raise UserError where the recipe asks for what a kind other than one label a row does not have."""
    why = f"and this model gives {WORDS[kind]}"
    head = recipe.compensation.head
    if head is not None and head.trainer not in {"readout", None}:
        raise UserError(
            f"compensation.head.trainer: {head.trainer} learns classes, {why}; set it to readout, or leave it out."
        )
    if head is not None and head.targets == "gold":
        raise UserError(f"compensation.head.targets: gold is for classes, {why}; leave it out.")
    if recipe.cascade is not None:
        raise UserError(f"cascade: a text leaves early where one class is far ahead, {why}; leave cascade out.")
    if wrong := sorted({"errors", "ffn"} & set(recipe.analysis)):
        raise UserError(f"analysis: {', '.join(wrong)} tell classes apart, {why}; leave out {' and '.join(wrong)}.")


def _check_cascade(recipe: Recipe, source: ModelSource, tokenizer: PreTrainedTokenizerBase, device: str) -> None:
    """Raise UserError for a model that an early exit cannot be made of, on this device."""
    if recipe.cascade.precision == "int8" and device != "cpu":
        raise UserError(
            f"cascade.precision: int8 runs on the CPU alone, and this run is on {device}; run it with --device cpu, or set "
            "it to float32."
        )
    if relative_positions(source.config):
        raise UserError(
            f"cascade: {recipe.model.path} has relative positions, so its graph cannot be cut; leave cascade out."
        )
    if not tokenizer.is_fast:
        raise UserError(
            f"cascade: the tokenizer of {recipe.model.path!r} has no fast form (tokenizer.json), which the exported "
            "classifier needs; save one beside the model, or leave cascade out."
        )


def _check_lengths(recipe: Recipe, longest: int) -> None:
    """Raise UserError where the recipe asks for more tokens than the `longest` that the model takes."""
    if recipe.data.max_length > longest:
        raise UserError(
            f"data.max_length: {recipe.data.max_length} is more than the {longest} tokens that the model takes."
        )
    too_long = [length for length in recipe.benchmark.lengths if length > longest]
    if too_long:
        raise UserError(f"benchmark.lengths: {too_long[0]} is more than the {longest} tokens that the model takes.")


def check_classifier(source: ModelSource, where: str) -> None:
    """Raise UserError, beginning with `where`, for a model that is no classifier of a known task as it comes."""
    check_outputs(source.config, f"{where}: config.json")
    check_stored(source.path, family_of(source.config["model_type"], source.task.kind), where, head=True)


def _check_labels(recipe: Recipe, data: TaskData) -> None:
    """Raise UserError where the recipe asks for labels that the data does not have."""
    thresholds = recipe.data.threshold
    if isinstance(thresholds, list) and len(thresholds) != len(data.label_names):
        raise UserError(
            f"data.threshold: {len(thresholds)} numbers for {len(data.label_names)} labels; give one, or one for each."
        )
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


def _unseen(recipe: Recipe) -> bool:
    """Return whether the model cannot have been trained on the calibration text."""
    seen = recipe.data.calibration.seen_in_training
    return not seen and not (seen is None and recipe.finetune is None and recipe.data.calibration.split == "train")


def _with_deciding(recipe: Recipe, data: TaskData) -> TaskData:
    """Return `data` with rows that decide what to ship, where the calibration text can show that a goal is met."""
    limits = recipe.ship.limits
    allowed = max(limits["max_flips"] or 0.0, limits["max_drop"] or 0.0)
    enough = allowed == 0 or data.calibration.counted >= rows_needed(allowed, recipe.ship.confidence)
    return replace(data, guard=data.calibration) if _unseen(recipe) and enough else data


def _with_guard(recipe: Recipe, data: TaskData, layers: int, same: Same) -> TaskData:
    """Return `data` with the rows that certify the cascade; raises UserError where they cannot certify anything."""
    spec, selection = recipe.cascade, recipe.selection
    seen, split = recipe.data.calibration.seen_in_training, recipe.data.calibration.split
    if not _unseen(recipe):
        raise UserError(
            f"cascade: the calibration rows certify it, and {recipe.model.path} "
            f"{'was' if seen else 'comes fine-tuned and may have been'} trained on them (data.calibration.split: {split}); "
            "calibrate on text that it has not seen (split: test), or set data.calibration.seen_in_training: false where "
            "it has not seen these."
        )
    if spec.model == "compressed":
        # refits, head and distillation learn from the calibration text, so it cannot certify what they made
        half = len(data.calibration) // 2
        fitted, guard = (data.calibration.take(list(range(start, start + half))) for start in (0, half))
        data = replace(data, calibration=fitted, guard=guard)
    else:
        data = replace(data, guard=data.calibration)
    searched = selection.layers == "auto" or (selection.budget is not None and "layer" in selection.units)
    if spec.model == "full" or not searched:  # how deep the model is otherwise, the search decides
        skipped = 0 if spec.model == "full" or selection.budget is not None else selection.layers
        layers_to_try(spec.exits, layers - skipped)
    texts = min(spec.fit_size, len(first_rows(data.train, same)) + len(data.selection))
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
