"""The runs of a placement experiment: one placement and one seed each, in a folder of its own, whole or resumed."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout

from compressor.files import read_json, stage_key, write_json
from compressor.measurement.cost import parameter_count
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.load import find_model, load_classifier
from compressor.model.surgery import save_model
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.training.training import finetune
from compressor.placement.data import TaskText, TextData
from compressor.placement.pretrain import build, evaluate, pretrain
from compressor.placement.widths import Placement
from compressor.recipe.placement import PlacementRecipe
from compressor.run.rundir import CHECKPOINTS, LOCK, STAGES_FOLDER, RunDir

FORMAT = 1
"""Raised whenever a run computes something else, so that older results are not believed."""
RUNS, MODEL, PRETRAINED = "runs", "model", "pretrained.json"
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
CARD = """---
library_name: transformers
tags: [compressor, ffn-placement]
---

# {name}

An encoder pre-trained from scratch whose feed-forward blocks have the widths {widths} (0: no block), seed {seed}.
`compressor.load_model` and a `finetune` section read it; stock classes do not know these widths.
"""

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Job:
    """One run: a placement and a seed, and where its results are."""

    placement: Placement
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """What the run is called."""
        return f"{self.placement.name}-seed{self.seed}"


@dataclass(frozen=True)
class Prepared:
    """What all runs of an experiment share; everything that can be refused has been."""

    recipe: PlacementRecipe
    placements: list[Placement]
    text: TextData
    tasks: list[TaskText]
    jobs: list[Job]
    accelerator: Accelerator


def jobs_of(placements: Sequence[Placement], seeds: Sequence[int], folder: Path) -> list[Job]:
    """Return all runs, one seed after the other, so that what is there at any time can be compared."""
    return [
        Job(placement, seed, folder / RUNS / f"{placement.name}-seed{seed}")
        for seed in seeds
        for placement in placements
    ]


def run_jobs(made: Prepared, tick: Tick) -> None:
    """Finish all runs. Processes started with the same folder share them: each takes what no other is at.

    `tick(count)` is called for steps done, `work_of` in all for each run.
    """
    left = list(made.jobs)
    for patient in (False, True):  # first what is free, then what another process is at or has left
        for job in tuple(left):
            (job.folder / STAGES_FOLDER).mkdir(parents=True, exist_ok=True)
            # the processes of one training on several GPUs take all runs together, in the same order
            alone = made.accelerator.num_processes == 1
            lock = FileLock(job.folder / LOCK, timeout=-1 if patient else 0)
            try:
                with lock if alone else contextlib.nullcontext():
                    _run(job, made, tick)
            except Timeout:
                continue
            left.remove(job)


def work_of(made: Prepared) -> int:
    """Return the steps of one run: updates of pre-training and of every fine-tuning."""
    return made.recipe.pretrain.steps + sum(finetune_steps(made.recipe, task) for task in made.tasks)


def finetune_steps(recipe: PlacementRecipe, task: TaskText) -> int:
    """Return the updates of one fine-tuning."""
    return recipe.finetune.epochs * -(-len(task.train) // recipe.finetune.batch_size)


def read_run(job: Job, made: Prepared) -> dict[str, Any] | None:
    """Return the stored result of a run, None where it is not finished; an unstable one has no task results."""
    run, keys = RunDir(job.folder), keys_of(job, made)
    if not run.cached("pretrain", keys["pretrain"]):
        return None
    found = {**read_json(job.folder / PRETRAINED), "tasks": {}}
    if found["status"] == "ok":
        for task in made.tasks:
            if not run.cached(_stage(task), keys[task.name]):
                return None
            found["tasks"][task.name] = read_json(job.folder / f"{_stage(task)}.json")
    return found


def keys_of(job: Job, made: Prepared) -> dict[str, str]:
    """Return the key of the pre-training (`pretrain`) and of each task, over all that decides the result."""
    recipe = made.recipe
    inputs = {
        "format": FORMAT, "widths": job.placement.widths, "seed": job.seed, "text": made.text.sha256,
        "encoder": recipe.encoder.model_dump(mode="json", exclude={"tokenizer"}),
        "pretrain": recipe.pretrain.model_dump(mode="json"),
    }  # fmt: skip
    keys = {"pretrain": stage_key("pretrain", inputs)}
    settings = recipe.finetune.model_dump(mode="json")
    for task in made.tasks:
        keys[task.name] = stage_key(
            _stage(task), {"model": keys["pretrain"], "task": task.sha256, "finetune": settings}
        )
    return keys


def right_rows(result: Mapping[str, Any], task: TaskText) -> np.ndarray:
    """Return which evaluation rows a run's stored predictions got right: bool [N]."""
    predicted = np.array([DIGITS.index(digit) for digit in result["tasks"][task.name]["predictions"]])
    return predicted == task.evaluation_labels


def _run(job: Job, made: Prepared, tick: Tick) -> None:
    run, keys, accelerator = RunDir(job.folder), keys_of(job, made), made.accelerator
    # only the first process writes, so only it knows what is there
    cached = accelerator.is_main_process and run.cached("pretrain", keys["pretrain"]) is not None
    if broadcast_object_list([cached])[0]:
        tick(made.recipe.pretrain.steps)
    else:
        checkpoint = Checkpoint(job.folder / STAGES_FOLDER / CHECKPOINTS / "pretrain", keys["pretrain"])
        train = partial(_pretrain, job, made, checkpoint, tick)
        if accelerator.is_main_process:
            run.stage("pretrain", keys["pretrain"], [MODEL, PRETRAINED], train)
            checkpoint.remove()
        else:
            train(None)
        accelerator.wait_for_everyone()
    if accelerator.is_main_process and read_json(job.folder / PRETRAINED)["status"] == "ok":
        for task in made.tasks:
            if not run.cached(_stage(task), keys[task.name]):
                checkpoint = Checkpoint(job.folder / STAGES_FOLDER / CHECKPOINTS / _stage(task), keys[task.name])
                tune = partial(_finetune, job, made, task, checkpoint)
                run.stage(_stage(task), keys[task.name], [f"{_stage(task)}.json"], tune)
                checkpoint.remove()
            tick(finetune_steps(made.recipe, task))
    accelerator.wait_for_everyone()


def _pretrain(job: Job, made: Prepared, checkpoint: Checkpoint, tick: Tick, folder: Path | None) -> None:
    """Train the encoder and, where there is a `folder` for it, write the result: in the first process alone."""
    recipe, text, accelerator = made.recipe, made.text, made.accelerator
    model = build(recipe.encoder, job.placement.widths, text.tokenizer, job.seed)
    parameters = parameter_count(model)
    try:
        done = pretrain(
            model,
            text.train,
            text.tokenizer,
            recipe.pretrain,
            accelerator,
            checkpoint,
            seed=job.seed,
            tick=lambda: tick(1),
        )
    finally:
        accelerator.free_memory()
    if folder is None:
        return
    result: dict[str, Any] = {**asdict(done), "parameters": parameters, "mlm_loss": None, "mlm_accuracy": None}
    if done.status == "ok":
        result["mlm_loss"], result["mlm_accuracy"] = evaluate(model, text.evaluation, text.masked, accelerator)
    card = CARD.format(name=job.name, widths=list(job.placement.widths), seed=job.seed)
    save_model(model, text.tokenizer, folder / MODEL, card, stock=False)
    write_json(folder / PRETRAINED, result)


def _finetune(job: Job, made: Prepared, task: TaskText, checkpoint: Checkpoint, folder: Path) -> None:
    spec = made.recipe.finetune
    model = load_classifier(
        find_model(str(job.folder / MODEL)),
        device=str(made.accelerator.device),
        new_labels=list(task.label_names),
        seed=job.seed,
    )
    losses = finetune(
        model, family_of("bert"), task.train, task.train_labels, spec, seed=job.seed, checkpoint=checkpoint
    )
    predicted = predict(model, task.evaluation, batch_size=spec.batch_size).argmax(1)
    accuracy = float((predicted == task.evaluation_labels).mean())
    digits = "".join(DIGITS[label] for label in predicted)
    write_json(folder / f"{_stage(task)}.json", {"accuracy": accuracy, "losses": losses, "predictions": digits})


def _stage(task: TaskText) -> str:
    return f"task_{task.name}"
