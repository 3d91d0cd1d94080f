"""Masked-language pre-training of one encoder from scratch: one loop for a processor, a GPU or several.

Whatever is random is drawn from the seed and the number of the step, so a training that was interrupted ends as one that
was not, and all placements of a seed see the same text under the same masks.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerBase

from compressor.model.checks import KEY
from compressor.model.sublayers import shaped_model
from compressor.model.training.checkpoint import Checkpoint, Training
from compressor.model.units import Shape
from compressor.placement.masks import Masked, mask_words
from compressor.placement.text import Packed
from compressor.recipe.placement import EncoderSpec, GuardSpec, PretrainSpec

ORDER, MASK, DROPOUT = range(3)
"""What is drawn from a seed: the order of the sequences, the masks, dropout."""
CURVE = 20
"""Points of the loss curve that a result keeps."""


@dataclass
class Steps:
    """How far a pre-training is: updates done, the loss (nats) of each, halvings of the rate and their reasons."""

    done: int = 0
    losses: list[float] = field(default_factory=list)
    halvings: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Pretrained:
    """How a pre-training ended: `status` is ok or unstable; `curve` are mean losses (nats) of equal parts of the steps."""

    status: str
    steps: int
    curve: list[float]
    halvings: int
    events: list[dict[str, Any]]
    seconds: float


class MaskedLoss(nn.Module):
    """The summed loss of a masked-language model at the positions to predict; only these pass the output layer."""

    def __init__(self, model: BertForMaskedLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, places: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return (sum of losses in nats, number of right answers) for inputs [B, S], flat places [M] and targets [M]."""
        hidden = self.model.bert(input_ids=inputs).last_hidden_state.flatten(0, 1)[places]
        logits = self.model.cls(hidden).float()
        return nn.functional.cross_entropy(logits, targets, reduction="sum"), (logits.argmax(-1) == targets).sum()


def build(
    encoder: EncoderSpec, widths: Sequence[int], tokenizer: PreTrainedTokenizerBase, seed: int
) -> BertForMaskedLM:
    """Return a new encoder with these widths. Equal seeds draw equal embeddings and attention for all widths."""
    config = BertConfig(
        vocab_size=encoder.vocab_size,
        hidden_size=encoder.hidden,
        num_hidden_layers=encoder.layers,
        num_attention_heads=encoder.heads,
        intermediate_size=encoder.width,
        max_position_embeddings=encoder.positions,
        hidden_dropout_prob=encoder.dropout,
        attention_probs_dropout_prob=encoder.dropout,
        initializer_range=encoder.initializer_range,
        pad_token_id=tokenizer.pad_token_id,
        **{KEY: Shape(tuple(widths), (encoder.heads,) * encoder.layers, encoder.heads).as_config()},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = shaped_model(BertForMaskedLM, config)
    for parameter in model.parameters():
        # parameters without a number get no gradient, which several GPUs would wait for
        parameter.requires_grad_(parameter.numel() > 0)
    return model


def pretrain(
    model: BertForMaskedLM,
    text: Packed,
    tokenizer: PreTrainedTokenizerBase,
    spec: PretrainSpec,
    accelerator: Accelerator,
    checkpoint: Checkpoint,
    *,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Pretrained:
    """Train `model` in place: AdamW, warm-up and cosine, gradients clipped, masks drawn anew for every step.

    A loss or gradient that is not finite, or a spike (`trouble`), takes the training back to its last checkpoint with half
    the rate; after `guard.halvings` of these the status is `unstable`. Each process computes its rows of every batch, the
    parts of which are weighted by their positions to predict: devices and `accumulate` change nothing but rounding.
    """
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    groups = [
        {"params": [p for p in trained.values() if p.ndim > 1], "weight_decay": spec.weight_decay},
        {"params": [p for p in trained.values() if p.ndim == 1], "weight_decay": 0.0},  # biases and LayerNorm
    ]
    raw = torch.optim.AdamW(groups, lr=spec.lr, fused=True)
    schedule = LambdaLR(raw, lambda step: rate(step, spec.steps, spec.warmup))
    wrapped, optimizer = accelerator.prepare(MaskedLoss(model), raw)
    training = Training(trained, raw, schedule, accelerator.device)
    wrapped.train()
    started = time.perf_counter()
    with torch.random.fork_rng():
        progress = checkpoint.restore(training, Steps)
        while progress.done < spec.steps:
            step = progress.done
            drawn = np.random.SeedSequence((seed, DROPOUT, step, accelerator.process_index)).generate_state(1)
            torch.manual_seed(int(drawn[0]))
            rows = batch_rows(step, spec.batch_size, len(text), seed)
            masked = masked_rows(text, rows, tokenizer, spec.mask, seed, MASK, step)
            loss = _gradients(wrapped, optimizer, text.ids[rows], masked, spec, accelerator)
            norm = float(accelerator.clip_grad_norm_(list(trained.values()), spec.clip))
            reason = trouble(loss, norm, progress.losses, spec.guard)
            if reason:
                happened = {"step": step + 1, "reason": reason, "rate": schedule.get_last_lr()[0]}
                if progress.halvings == spec.guard.halvings:
                    progress.events.append({**happened, "back_to": None})
                    break
                halvings, events = progress.halvings + 1, progress.events
                progress = checkpoint.restore(training, Steps)
                progress.halvings, progress.events = halvings, [*events, {**happened, "back_to": progress.done}]
                schedule.base_lrs = [spec.lr * 0.5**halvings] * len(groups)
                for group in raw.param_groups:
                    group["lr"] = spec.lr * 0.5**halvings * rate(schedule.last_epoch, spec.steps, spec.warmup)
                _save(checkpoint, training, progress, accelerator)
                continue
            if step % spec.checkpoint_steps == 0:
                # in front of the update: what is saved has just shown a loss that is fine
                _save(checkpoint, training, progress, accelerator)
            optimizer.step()
            schedule.step()
            progress.losses.append(loss)
            progress.done += 1
            tick()
    model.eval()
    status = "ok" if progress.done == spec.steps else "unstable"
    curve = [float(np.mean(part)) for part in np.array_split(progress.losses, CURVE) if len(part)]
    seconds = time.perf_counter() - started
    return Pretrained(status, progress.done, curve, progress.halvings, progress.events, seconds)


def evaluate(
    model: BertForMaskedLM, text: Packed, masked: Masked, accelerator: Accelerator, batch_size: int = 64
) -> tuple[float, float]:
    """Return (mean loss in nats, share of right answers) at the masked positions of `text`."""
    loss, right, module = 0.0, 0, MaskedLoss(model.to(accelerator.device)).eval()
    with torch.inference_mode(), accelerator.autocast():
        for begin in range(0, len(text), batch_size):
            rows = slice(begin, begin + batch_size)
            part = module(*_tensors(text.ids, masked, rows, accelerator.device))
            loss, right = loss + float(part[0]), right + int(part[1])
    return loss / int(masked.chosen.sum()), right / int(masked.chosen.sum())


def masked_rows(text: Packed, rows: np.ndarray, tokenizer: PreTrainedTokenizerBase, share: float, *seed: int) -> Masked:
    """Return the sequences `rows` of `text` with words masked by `seed`."""
    specials = np.array(sorted(set(tokenizer.all_special_ids)))
    return mask_words(
        text.ids[rows], text.starts[rows], share, tokenizer.mask_token_id, len(tokenizer), specials, *seed
    )


def rate(step: int, steps: int, warmup: float) -> float:
    """Return the learning rate of update `step` (from 0) as a share of the highest: a line up, then half a cosine to 0."""
    rising = int(warmup * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def batch_rows(step: int, batch_size: int, rows: int, seed: int) -> np.ndarray:
    """Return the sequences [B] of update `step`: every epoch takes all of them in an order of its own."""
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    return np.array([_order(rows, seed, int(place // rows))[place % rows] for place in places])


def trouble(loss: float, norm: float, losses: Sequence[float], guard: GuardSpec) -> str | None:
    """Return what is wrong with a step, None where nothing is.

    A loss or a gradient norm that is not finite; or a spike: over the last `window` steps, once there are as many, the
    loss is above their mean by more than `deviations` standard deviations and by more than `rise` nats.
    """
    if not math.isfinite(loss):
        return "the loss is not finite"
    if not math.isfinite(norm):
        return "the gradient is not finite"
    recent = np.array(losses[-guard.window :])
    if len(recent) == guard.window:
        limit = recent.mean() + max(guard.deviations * recent.std(), guard.rise)
        if loss > limit:
            return f"a spike of the loss: {loss:.2f} nats, above {limit:.2f}"
    return None


def _gradients(
    wrapped: nn.Module,
    optimizer: Optimizer,
    ids: np.ndarray,
    masked: Masked,
    spec: PretrainSpec,
    accelerator: Accelerator,
) -> float:
    """Compute the gradient of the mean loss over all positions to predict; return that loss, the same in every process."""
    optimizer.zero_grad()
    world, count = accelerator.num_processes, max(1, int(masked.chosen.sum()))
    mine = np.arange(len(ids))[accelerator.process_index :: world]
    parts = [part for part in np.array_split(mine, spec.accumulate) if len(part)]
    total = torch.zeros((), device=accelerator.device)
    for number, part in enumerate(parts):
        inputs = _tensors(ids, masked, part, accelerator.device)
        # several GPUs exchange their gradients once, behind the last part
        with contextlib.nullcontext() if number == len(parts) - 1 else accelerator.no_sync(wrapped):
            loss, _ = wrapped(*inputs)
            accelerator.backward(loss * (world / count))  # gradients of processes are averaged, these are sums
        total += loss.detach()
    return float(accelerator.reduce(total, reduction="sum")) / count


def _tensors(
    ids: np.ndarray, masked: Masked, rows: slice | np.ndarray, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `MaskedLoss` takes for these rows of ids [N, S] and their mask."""
    chosen = masked.chosen[rows]
    arrays = masked.inputs[rows], np.flatnonzero(chosen), ids[rows][chosen].astype(np.int64)
    return tuple(torch.from_numpy(array).to(device) for array in arrays)


def _save(checkpoint: Checkpoint, training: Training, progress: Steps, accelerator: Accelerator) -> None:
    if accelerator.is_main_process:
        checkpoint.save(training, progress)
    accelerator.wait_for_everyone()


@lru_cache(maxsize=4)
def _order(rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(rows)
