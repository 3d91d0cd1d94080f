"""Distillation: train the whole compressed model towards the full model's states, for when closed form is not enough.

No labels are needed. The loss of a batch is the sum of up to three parts, each with its weight in the recipe:

- states: squared distance between the state behind each kept layer and the state that the layer should lead to, the one
  in front of the next kept layer in the full model; the idea of Romero et al. (2015) and Sun et al. (2019), with the
  layers matched by what was skipped, and all tokens. Alone it is the default: every token of every layer teaches;
- logits: T^2 KL(softmax(t / T) || softmax(s / T)) of the full model's logits t and the compressed model's s, at
  temperature T; T^2 keeps the size of the gradients independent of it (Hinton et al. 2015, section 2.1). A few thousand
  texts, of which the full model knows the answers, are soon learned by heart;
- gold: cross-entropy with the labels, on the rows that have them.

A share of the text is held out and never trained on. The KL to the full model on it is taken every few steps; the weights
with the lowest are kept, those that training began with included, so that little text cannot do harm.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student_t
from torch import Tensor
from transformers import PreTrainedModel

from compressor.compensation.refits.refit import reached_states
from compressor.data.answers.config import model_task
from compressor.data.answers.kinds import SINGLE, Task
from compressor.data.batches import Encodings, padded_batches, read
from compressor.errors import UserError
from compressor.model.capture import attended_place, recorded
from compressor.model.families import Family, layer_list
from compressor.model.states.states import final_states
from compressor.model.training.checkpoint import Checkpoint
from compressor.model.training.training import Watch, best_of, train
from compressor.progress import Track, silent
from compressor.recipe.training import DistillSpec

HELD_TEXTS = 1000
"""Texts that are held out at most: more would only take time."""
HELD_BATCH = 128
"""Held-out texts in one forward pass."""
SCALE_ROWS = 512
"""Rows over which the variance of the full model's states is taken, evenly spaced."""


@dataclass(frozen=True)
class DistillFit:
    """What a distillation did: mean of every part of the loss by epoch, times its weight; rows; precision it ran in.

    `rows` were trained on and `held` texts held out; `curve` is the KL on these as [step, nats], from step 0 on, empty where
    none were. The model has the weights of step `kept_step`, that of the lowest KL, or 0 where its fall may be chance; the
    last step was `steps`.
    """

    losses: list[dict[str, float]]
    rows: int
    labelled: int
    precision: str
    held: int
    curve: list[list[float]]
    kept_step: int
    steps: int


def distill(
    teacher: PreTrainedModel,
    student: PreTrainedModel,
    family: Family,
    keep: Sequence[int],
    encodings: Encodings,
    spec: DistillSpec,
    *,
    labels: np.ndarray | None = None,
    known: np.ndarray | None = None,
    seed: int = 0,
    track: Track = silent,
    checkpoint: Checkpoint | None = None,
) -> DistillFit:
    """Train `student` in place towards `teacher`; `keep` are the teacher's layers (from 1) that it has.

    labels: as `Task` has them, with its value for none. known: bool [N], the rows that something in `student` was fitted to
    before, which are not held out where there are others. The teacher runs beside the student, batch by batch: its states
    would take 13 x 128 x 768 floats a text. Dropout is off: the targets say what the model should compute on this very text,
    so noise in it only blurs them, and a model that lost layers has no room to spare (as in Hinton et al. 2015, the soft
    targets are the regulariser). Raises UserError when the loss diverges.
    """
    precision, task = training_precision(spec, student.device), model_task(teacher)
    rows, held = held_out(encodings, spec.holdout, seed, known)
    labels = None if labels is None or not spec.gold_weight else torch.from_numpy(labels[encodings.answers_of(rows)])
    unseen, encodings = encodings.take(held), encodings.take(rows)
    ours, theirs = targets(keep, len(layer_list(teacher, family)), spec)
    scales = state_variances(teacher, family, theirs, encodings, track=track) if spec.states_weight else None

    def loss_of_batch(rows: np.ndarray, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        # weights, their gradients and the moments stay fp32; only matrix products are bf16, so no loss scaling is needed
        with torch.autocast(student.device.type, dtype=torch.bfloat16, enabled=precision == "bf16"):
            with torch.no_grad():
                target, wanted = forward(teacher, family, inputs, theirs)
            logits, states = forward(student, family, inputs, ours)
            at = encodings.read_at(rows)
            target, logits = read(target, at), read(logits, at)
        parts = {}
        if spec.logits_weight:
            parts["logits"] = spec.logits_weight * logits_loss(logits, target, spec.temperature, task)
        if scales is not None:
            distance = states_loss(states, wanted, inputs["attention_mask"], scales)
            parts["states"] = spec.states_weight * distance
        if labels is not None:
            parts["gold"] = spec.gold_weight * task.loss(logits, labels[encodings.answers_of(rows)].to(logits.device))
        return parts

    trained_before = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    if spec.freeze_embeddings:
        for name, module in student.get_submodule(family.encoder).named_modules():
            # ELECTRA has a projection beside the tables, ALBERT in front of the layers
            if name.rpartition(".")[2].startswith("embedding"):
                module.requires_grad_(False)
    judge = HeldOut.of(teacher, student, family, unseen) if len(held) else None
    progress = train(
        student, encodings, spec, loss_of_batch, field="compensation.distill", dropout=False, seed=seed, track=track,
        description="distillation", checkpoint=checkpoint, watch=judge.watch(spec, len(rows)) if judge else None,
    )  # fmt: skip
    kept_step = judge.settled(best_of(progress.curve)) if judge else progress.done
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(trained_before[name])
        parameter.grad = None
    return DistillFit(
        losses=progress.losses,
        rows=len(rows),
        labelled=0 if labels is None else int(task.known(labels.numpy()).sum()),
        precision=precision,
        held=len(held),
        curve=progress.curve,
        kept_step=kept_step,
        steps=progress.done,
    )


@dataclass(frozen=True)
class HeldOut:
    """Texts that nothing is trained on: how far `student` is from the teacher on each of them now, in nats [N], and was `before`.

    `begun` are the trained weights from before.
    """

    student: PreTrainedModel
    distances: Callable[[], np.ndarray]
    before: np.ndarray
    begun: Mapping[str, Tensor]

    @classmethod
    def of(cls, teacher: PreTrainedModel, student: PreTrainedModel, family: Family, encodings: Encodings) -> "HeldOut":
        """Return the judge of a training that is about to begin."""
        target, task = _logits(teacher, family, encodings), model_task(teacher)

        def distances() -> np.ndarray:
            return encodings.by_row(task.divergences(_logits(student, family, encodings), target).numpy())

        weights = ((name, own) for name, own in student.named_parameters() if own.requires_grad)
        return cls(student, distances, distances(), {name: own.detach().clone() for name, own in weights})

    def watch(self, spec: DistillSpec, rows: int) -> Watch:
        """Return the early stopping of a training on so many rows."""
        steps = max(1, round(spec.evaluate_every * -(-rows // spec.batch_size)))
        return Watch(lambda: float(self.distances().mean()), steps, spec.patience)

    @torch.no_grad()
    def settled(self, best: int) -> int:
        """Return the step whose weights stay: the `best`, which the student has, or 0 where its fall may be chance."""
        if best and surely_lower(self.distances(), self.before):
            return best
        for name, weight in self.begun.items():
            self.student.get_parameter(name).copy_(weight)
        return 0


def surely_lower(now: np.ndarray, before: np.ndarray) -> bool:
    """Return whether the mean of values [N] fell beyond chance: by the one-sided 95 % bound of the paired t-test."""
    fallen = before - now
    spread = fallen.std(ddof=1) / len(fallen) ** 0.5 if len(fallen) > 1 else np.inf
    return bool(fallen.mean() > student_t.ppf(0.95, max(1, len(fallen) - 1)) * spread)


def _logits(model: PreTrainedModel, family: Family, encodings: Encodings) -> Tensor:
    """Return the logits [N, C] float64."""
    return torch.from_numpy(final_states(model, family, encodings, batch_size=HELD_BATCH)[1]).double()


def held_out(
    encodings: Encodings, share: float, seed: int, known: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows to train on and those that are held out, each int64 in order: `share` of the texts, 1,000 at most.

    Rows with the same tokens are one text: it is held out once, and none of its copies is trained on. Texts of which a row
    is `known` (bool [N]) are held out only where there are no others.
    """
    texts: dict[tuple, list[int]] = {}
    for row, ids in enumerate(encodings.input_ids):
        types = () if encodings.token_types is None else tuple(encodings.token_types[row])
        texts.setdefault((tuple(ids), types), []).append(row)
    copies = list(texts.values())
    new = [rows for rows in copies if known is None or not known[rows].any()]
    free, wanted = new or copies, min(HELD_TEXTS, int(share * len(copies)))
    chosen = np.random.default_rng(seed).permutation(len(free))[: min(wanted, len(copies) - 1)]
    held = np.array(sorted(free[index][0] for index in chosen), dtype=np.int64)
    unseen = {row for index in chosen for row in free[index]}
    return np.array([row for row in range(len(encodings)) if row not in unseen], dtype=np.int64), held


def logits_loss(student: Tensor, teacher: Tensor, temperature: float, task: Task = SINGLE) -> Tensor:
    """Return T^2 times the divergence (a KL in nats) from the teacher's outputs [B, C] at temperature T, mean over the rows."""
    return temperature**2 * task.divergences(student.float() / temperature, teacher.float() / temperature).mean()


def states_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor, scales: Tensor) -> Tensor:
    """Return the mean squared distance of states, each [B, S, H], over the tokens of `mask` [B, S], mean over the states.

    `scales` [states]: the variance of each of the teacher's states. 1 is what the states' mean would reach, so that a
    weight means the same at every layer and for every model.
    """
    weight = mask / mask.sum()
    distances = [
        ((ours.float() - theirs.float()).square().mean(-1) * weight).sum()
        for ours, theirs in zip(student, teacher, strict=True)
    ]
    return (torch.stack(distances) / scales).mean()


@dataclass(frozen=True)
class Places:
    """Where states are read: behind these layers (0: what enters layer 1), and behind the attention block in these."""

    behind: Sequence[int] = ()
    attended: Sequence[int] = ()


def targets(keep: Sequence[int], layers: int, spec: DistillSpec) -> tuple[Places, Places]:
    """Return where the states of a model with the layers `keep` of `layers` are read, and where those that they should be."""
    if not spec.states_weight:
        return Places(), Places()
    own, attended = range(1, len(keep) + 1), spec.attended
    return Places(own, own if attended else ()), Places(reached_states(keep, layers), keep if attended else ())


def forward(
    model: PreTrainedModel, family: Family, inputs: dict[str, Tensor], places: Places
) -> tuple[Tensor, list[Tensor]]:
    """Return the logits [B, C] ([B, S, C] of tokens), and the state [B, S, H] at each of `places`."""
    with ExitStack() as stack:
        layers = [layer_list(model, family)[number - 1] for number in places.attended]
        seen = [stack.enter_context(recorded(layer, at=attended_place(family))) for layer in layers]
        output = model(**inputs, output_hidden_states=bool(places.behind))
    states = [output.hidden_states[number] for number in places.behind]
    return output.logits, [*states, *(caught["at"] for caught in seen)]


@torch.no_grad()
def state_variances(
    model: PreTrainedModel, family: Family, places: Places, encodings: Encodings, *, track: Track = silent
) -> Tensor:
    """Return the variance of each state over all tokens of `SCALE_ROWS` rows, around each dimension's mean, mean over these."""
    sums, squares, tokens = 0.0, 0.0, 0
    chosen = np.unique(np.linspace(0, len(encodings) - 1, min(SCALE_ROWS, len(encodings))).astype(int))
    for _, inputs in padded_batches(encodings.take(chosen), 32, track, "variance of the states"):
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
        kept = tensors["attention_mask"].bool()
        values = torch.stack([state[kept] for state in forward(model, family, tensors, places)[1]]).double()
        tokens += values.shape[1]
        sums, squares = sums + values.sum(1), squares + values.square().sum(1)
    return (squares / tokens - (sums / tokens).square()).mean(1).clamp_min(1e-12).float()


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
