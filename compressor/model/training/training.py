"""Train a sequence classifier: one explicit loop for fine-tuning and distillation."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, get_linear_schedule_with_warmup

from compressor.data.answers.config import model_task
from compressor.data.batches import Encodings, pad, read, shuffled_rows
from compressor.errors import UserError
from compressor.model.families import Family
from compressor.model.training.checkpoint import Checkpoint, Progress, Training
from compressor.progress import Track, silent
from compressor.recipe.training import DistillSpec, FinetuneSpec

LossOfBatch = Callable[[np.ndarray, dict[str, Tensor]], Mapping[str, Tensor]]
"""Takes row indices [B] and the model's inputs, each int64 [B, S]; returns the parts of the loss, whose sum is minimised."""


@dataclass(frozen=True)
class Watch:
    """Early stopping: `measure` says how good the model is, lower being better, before the first step and `every` steps.

    Training ends after `patience` measurements that were no better than the best one behind a step before them. The start does
    not count: behind a closed-form fit training makes a model worse at first, and better than that only as its rate falls.
    """

    measure: Callable[[], float]
    every: int
    patience: int

    def ends(self, progress: Progress) -> bool:
        """Return whether the last `patience` measurements were all in vain."""
        values = [value for step, value in progress.curve if step > 0]
        return bool(values) and len(values) - 1 - values.index(min(values)) >= self.patience


def best_of(curve: Sequence[Sequence[float]]) -> int:
    """Return the step of the lowest value of a curve of [step, value], the first of equals."""
    return int(min(curve, key=lambda point: point[1])[0])


def train(
    model: PreTrainedModel,
    encodings: Encodings,
    spec: FinetuneSpec | DistillSpec,
    loss_of_batch: LossOfBatch,
    *,
    field: str,
    dropout: bool,
    seed: int = 0,
    track: Track = silent,
    description: str = "training",
    checkpoint: Checkpoint | None = None,
    watch: Watch | None = None,
) -> Progress:
    """Train the parameters of `model` that require gradients, in place; return how far it came and the losses by epoch.

    AdamW with linear warm-up and decay (Devlin et al. 2019, appendix A.3), gradients clipped to norm 1, batches of
    similar lengths shuffled anew each epoch. The same seed gives the same weights on the same machine and thread count,
    also where a `checkpoint` ends one process and another goes on from it. The end is kept in the checkpoint as well:
    the caller removes it once the result is stored. With a `watch` the model ends with the weights that it found best, those
    from before the first step included. Raises UserError, naming `field`, when the loss diverges.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    decays = [parameter for parameter in trained.values() if parameter.ndim > 1]
    plain = [parameter for parameter in trained.values() if parameter.ndim == 1]  # biases and LayerNorm
    groups = [{"params": decays, "weight_decay": spec.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=spec.lr)
    per_epoch = -(-len(encodings) // spec.batch_size)
    steps = spec.epochs * per_epoch
    schedule = get_linear_schedule_with_warmup(optimizer, int(spec.warmup * steps), steps)
    training, progress = Training(trained, optimizer, schedule, model.device), Progress()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if checkpoint:
            progress = checkpoint.restore(training)
        model.train(dropout)
        generator = np.random.default_rng(seed)  # its draws are repeated when a training goes on: that takes no time
        order = (
            rows for _ in range(spec.epochs) for rows in shuffled_rows(encodings.lengths, spec.batch_size, generator)
        )
        if watch and not progress.curve:
            _look(watch, model, training, progress)
        remaining = 0 if watch and watch.ends(progress) else steps - progress.done
        left = islice(order, progress.done, progress.done + remaining)
        for rows in track(left, f"{description}, {spec.epochs} epochs", total=remaining):
            inputs = {name: torch.from_numpy(value).to(model.device) for name, value in pad(encodings, rows).items()}
            parts = loss_of_batch(rows, inputs)
            optimizer.zero_grad()
            sum(parts.values()).backward()
            nn.utils.clip_grad_norm_(trained.values(), 1.0)
            optimizer.step()
            schedule.step()
            _count(progress, parts, len(rows))
            ended = progress.done == steps
            if watch and (ended or progress.done % watch.every == 0):
                _look(watch, model, training, progress)
                model.train(dropout)
                ended = ended or watch.ends(progress)
            if not math.isfinite(sum(progress.totals.values()) + sum(value for _, value in progress.curve[-1:])):
                epoch = -(-progress.done // per_epoch)
                raise UserError(f"{field}: training diverged in epoch {epoch}; lower {field}.lr ({spec.lr:g}).")
            if ended or progress.done % per_epoch == 0:
                progress.losses.append({name: total / progress.rows for name, total in progress.totals.items()})
                progress.totals, progress.rows = {}, 0
            if checkpoint and (checkpoint.due or ended):
                checkpoint.save(training, progress)
            if ended:
                break
    with torch.no_grad():
        for name, weight in training.best.items():
            trained[name].copy_(weight)
    model.eval()
    return progress


def finetune(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray,
    spec: FinetuneSpec,
    *,
    seed: int = 0,
    track: Track = silent,
    checkpoint: Checkpoint | None = None,
) -> list[float]:
    """Train `model` in place on labels as `Task` has them, with dropout; return the mean loss (nats) of every epoch."""
    if spec.freeze_embeddings:
        model.get_submodule(family.encoder).embeddings.requires_grad_(False)
    targets, task = torch.from_numpy(labels), model_task(model)

    def loss_of_batch(rows: np.ndarray, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        logits = read(model(**inputs).logits, encodings.read_at(rows))
        return {"gold": task.loss(logits, targets[encodings.answers_of(rows)].to(model.device))}

    progress = train(
        model, encodings, spec, loss_of_batch, field="finetune", dropout=True, seed=seed, track=track,
        description="fine-tuning", checkpoint=checkpoint,
    )  # fmt: skip
    return [epoch["gold"] for epoch in progress.losses]


def _count(progress: Progress, parts: Mapping[str, Tensor], rows: int) -> None:
    """Add a batch to `progress`; one transfer from the device for all parts."""
    values = torch.stack([part.detach() for part in parts.values()]).tolist()
    for name, value in zip(parts, values, strict=True):
        progress.totals[name] = progress.totals.get(name, 0.0) + value * rows
    progress.rows += rows
    progress.done += 1


def _look(watch: Watch, model: PreTrainedModel, training: Training, progress: Progress) -> None:
    """Measure the model as it is, and keep its weights where it is the best so far."""
    model.eval()
    progress.curve.append([progress.done, watch.measure()])
    if best_of(progress.curve) == progress.done:
        training.best = {name: parameter.detach().clone() for name, parameter in training.trained.items()}
