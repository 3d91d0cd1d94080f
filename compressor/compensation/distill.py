"""Distillation: train the whole compressed model towards the full model's logits and states, for when closed form is not enough.

No labels are needed. The loss of a batch is the sum of up to three parts, each with its weight in the recipe:

- logits: T^2 KL(softmax(t / T) || softmax(s / T)) of the full model's logits t and the compressed model's s, at
  temperature T; T^2 keeps the size of the gradients independent of it (Hinton et al. 2015, section 2.1);
- states: squared distance between the state behind each kept layer and the state that the layer should lead to, the one
  in front of the next kept layer in the full model; the idea of Romero et al. (2015) and Sun et al. (2019), with the
  layers matched by what was skipped, and all tokens;
- gold: cross-entropy with the labels, on the rows that have them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.compensation.refits.refit import reached_states
from compressor.data.batches import Encodings, padded_batches
from compressor.errors import UserError
from compressor.model.families import Family, layer_list
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.training.training import train
from compressor.progress import Track, silent
from compressor.recipe.training import DistillSpec

SCALE_ROWS = 512
"""Rows over which the variance of the full model's states is taken, evenly spaced."""


@dataclass(frozen=True)
class DistillFit:
    """What a distillation did: mean of every part of the loss by epoch, times its weight; rows; precision it ran in."""

    losses: list[dict[str, float]]
    rows: int
    labelled: int
    precision: str


def distill(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    family: Family,
    keep: Sequence[int],
    encodings: Encodings,
    spec: DistillSpec,
    *,
    labels: np.ndarray | None = None,
    seed: int = 0,
    track: Track = silent,
    checkpoint: Checkpoint | None = None,
) -> DistillFit:
    """Train `student` in place towards `teacher`; `keep` are the teacher's layers (from 1) that it has.

    labels: int64 [N], -1 where there is none. The teacher runs beside the student, batch by batch: its states would take
    13 x 128 x 768 floats a text. Dropout is off: the targets say what the model should compute on this very text, so
    noise in it only blurs them, and a model that lost layers has no room to spare (as in Hinton et al. 2015, the soft
    targets are the regulariser). Raises UserError when the loss diverges.
    """
    precision = training_precision(spec, student.device)
    wanted = reached_states(keep, len(layer_list(teacher, family)))
    labels = None if labels is None or not spec.gold_weight else torch.from_numpy(labels)
    scales = None
    if spec.states_weight:
        chosen = np.unique(np.linspace(0, len(encodings) - 1, min(SCALE_ROWS, len(encodings))).astype(int))
        scales = state_variances(teacher, wanted, encodings.take(chosen), track=track)

    def loss_of_batch(rows: np.ndarray, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # weights, their gradients and the moments stay fp32; only matrix products are bf16, so no loss scaling is needed
        with torch.autocast(student.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                target = teacher(**inputs, output_hidden_states=scales is not None)
            output = student(**inputs, output_hidden_states=scales is not None)
        parts = {}
        if spec.logits_weight:
            parts["logits"] = spec.logits_weight * logits_loss(output.logits, target.logits, spec.temperature)
        if scales is not None:
            states = [target.hidden_states[state] for state in wanted]
            distance = states_loss(output.hidden_states[1:], states, inputs["attention_mask"], scales)
            parts["states"] = spec.states_weight * distance
        if labels is not None:
            parts["gold"] = spec.gold_weight * gold_loss(output.logits, labels[rows].to(output.logits.device))
        return parts

    trained_before = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    if spec.freeze_embeddings:
        for name, module in student.get_submodule(family.encoder).named_children():
            if name.startswith("embeddings"):  # ELECTRA has a projection beside the tables
                module.requires_grad_(False)
    losses = train(
        student, encodings, spec, loss_of_batch, field="compensation.distill", dropout=False, seed=seed, track=track,
        description="distillation", checkpoint=checkpoint,
    )  # fmt: skip
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(trained_before[name])
        parameter.grad = None
    return DistillFit(losses, len(encodings), 0 if labels is None else int((labels >= 0).sum()), precision)


def logits_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T^2 KL(teacher || student) in nats at temperature T, mean over the rows of logits [B, C]."""
    ours, theirs = ((logits.float() / temperature).log_softmax(1) for logits in (student, teacher))
    return temperature**2 * nn.functional.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def states_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, scales: Tensor) -> Tensor:
    """Return the mean squared distance of states, each [B, S, H], over the tokens of `mask` [B, S], mean over the layers.

    `scales` [layers]: the variance of each of the teacher's states. 1 is what the states' mean would reach, so that a
    weight means the same at every layer and for every model.
    """
    weight = mask / mask.sum()
    distances = [
        ((ours.float() - theirs.float()).square().mean(-1) * weight).sum()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return (torch.stack(distances) / scales).mean()


def gold_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy (nats) of logits [B, C] with labels int64 [B], rows of label -1 left out.

    The sum is divided by all rows: a label then weighs the same whatever else is in its batch.
    """
    return nn.functional.cross_entropy(logits.float(), labels, ignore_index=-1, reduction="sum") / len(labels)


@torch.no_grad()
def state_variances(
    teacher: PreTrainedModel, wanted: Sequence[int], encodings: Encodings, *, track: Track = silent
) -> Tensor:
    """Return the variance of each `wanted` state over all tokens, around each dimension's mean, mean over dimensions."""
    sums, squares, tokens = [0.0] * len(wanted), [0.0] * len(wanted), 0
    batches = padded_batches(encodings, 32, track, "variance of the states")
    for _, inputs in batches:
        tensors = {name: torch.from_numpy(value).to(teacher.device) for name, value in inputs.items()}
        hidden = teacher(**tensors, output_hidden_states=True).hidden_states
        kept = tensors["attention_mask"].bool()
        tokens += int(kept.sum())
        for index, state in enumerate(wanted):
            values = hidden[state][kept].double()
            sums[index] += values.sum(0)
            squares[index] += values.square().sum(0)
    variances = [square / tokens - (total / tokens).square() for total, square in zip(sums, squares, strict=True)]
    return torch.stack([variance.mean() for variance in variances]).clamp_min(1e-12).float()


def check_labels(spec: DistillSpec, labelled: Collection[str]) -> None:
    """Raise UserError where gold labels have a weight, but no part of the text is `labelled` (names of parts)."""
    if spec.gold_weight and not set(spec.text) & set(labelled):
        raise UserError(
            f"compensation.distill.gold_weight: {spec.gold_weight:g}, but the text ({', '.join(spec.text)}) has no labels; "
            "set it to 0, or add a part with labels to compensation.distill.text."
        )


def training_precision(spec: DistillSpec, device: torch.device) -> str:
    """Return `bf16` or `fp32`: where the recipe leaves it open, bf16 on GPUs that have it, which CPUs seldom gain from."""
    if spec.precision != "auto":
        return spec.precision
    able = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able else "fp32"
