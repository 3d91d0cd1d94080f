"""What the outputs of a classifier mean: what its answer is, when two answers differ, and how far two outputs are apart.

A kind of task is a row of `KINDS`: functions of outputs [N, C]. `Task` is such a row with what the data or the recipe adds to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.special import expit, logit

from compressor.data.answers.tokens import Tags, differing_texts, first_words

if TYPE_CHECKING:  # figures of finished runs are compared without waiting for torch
    from torch import Tensor

    from compressor.data.splits import Split

Labels = TypeVar("Labels", np.ndarray, "Tensor")
SINGLE_LABEL, SCORE, MANY_LABELS, TOKENS = "single_label", "score", "many_labels", "tokens"
BY_WORD = "token accuracy"
"""What models are compared by where the labels of words are no tags of entities."""
MOST_DIRECTIONS = 8
"""Directions that are followed back; outputs with more give up the ones that carry least."""
TENTHS = 10
"""Groups that scores are cut into where states are to be told apart by them."""
THRESHOLD = 0.5
"""Probability from which on a label is given, where nothing else is said."""
TOLERANCE = 0.01
"""Share of the range of the labels by which a score may move and still be the same answer."""


@dataclass(frozen=True)
class Kind:
    """One kind of task. Outputs are [N, C], labels what the data holds of it: see `Task`."""

    problem_type: str | None
    """What config.json calls it; None for one label a row, which models are taken to give."""
    metric: str
    """The figure that two models are compared by."""
    answers: Callable[[Task, np.ndarray], np.ndarray]
    differ: Callable[[Task, np.ndarray, np.ndarray], np.ndarray]
    divergences: Callable[[Tensor, Tensor], Tensor]
    directions: Callable[[Tensor, int], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    countable: bool
    """Whether an answer is right or wrong, so that two models are compared by counting."""
    counted: str = "predictions"
    """What is counted: the answers to rows, or to what rows are counted within (see `Task.within`)."""

    @property
    def whole(self) -> bool:
        """Whether answers are counted by what rows are within."""
        return self.counted != "predictions"


@dataclass(frozen=True)
class Task:
    """What outputs [N, C] mean.

    - `single_label`: one of C classes; labels are int64 [N], -1 where there is none.
    - `score`: one number, C = 1; labels are float64 [N]. It is another answer where it moves by more than `tolerance`. With
      `sigmoid` the score is the logistic function of the output, as cross-encoders have it.
    - `many_labels`: any of C labels, each where its probability is at least that of `thresholds`; labels are int64 [N, C] of 0
      and 1.
    - `tokens`: one of C classes, called `names`, for each word; N are the words, labels int64 [N], and `within` says of which
      text each is. What is counted is texts: another answer is one of which any entity differs or, where the names are no tags
      of entities, the label of any word.
    """

    kind: str = SINGLE_LABEL
    tolerance: float = 0.0
    thresholds: tuple[float, ...] = ()
    sigmoid: bool = False
    names: tuple[str, ...] = ()
    within: np.ndarray | None = field(default=None, compare=False, repr=False)

    def bound(self, *splits: Split) -> Task:
        """Return the task of the rows of these splits, one after the other: they say what rows are counted within."""
        if not self.row.whole:
            return self
        starts = np.cumsum([0, *(split.counted for split in splits)])
        within = [split.within + start for split, start in zip(splits, starts, strict=False)]
        return replace(self, within=np.concatenate(within))

    def count(self, rows: int) -> int:
        """Return how many answers so many rows have."""
        return int(self.within.max()) + 1 if self.row.whole else rows

    @cached_property
    def tags(self) -> Tags:
        """What the labels of words mean."""
        return Tags(self.names)

    @property
    def metric(self) -> str:
        """The figure that two models are compared by: that of the kind, for labels that are no entities the words' own."""
        return BY_WORD if self.kind == TOKENS and not self.tags.are_entities else self.row.metric

    @property
    def row(self) -> Kind:
        """What the task has from its kind."""
        return KINDS[self.kind]

    @property
    def scale(self) -> Kind:
        """By what outputs are near or far: a score that is a probability is one of many labels in that."""
        return KINDS[MANY_LABELS if self.sigmoid else self.kind]

    def answers(self, outputs: np.ndarray) -> np.ndarray:
        """Return the answers to outputs [N, C]: class ids int64 [N], scores float64 [N], or labels int64 [N, C] of 0 and 1."""
        return self.row.answers(self, outputs)

    def changed(self, full: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Return bool [N]: the rows whose answer to outputs [N, C] is another one."""
        return self.row.differ(self, self.answers(full), self.answers(other))

    def margins(self, outputs: np.ndarray) -> np.ndarray:
        """Return by how much outputs [N, C] must move for another answer, at least [N]; 0 for scores: any move may."""
        if self.kind == SCORE:
            return np.zeros(len(outputs))
        if self.kind == MANY_LABELS:
            return np.abs(outputs - logit(np.array(self.thresholds))).min(1)
        top = np.sort(outputs, axis=1)[:, -2:]
        apart = top[:, 1] - top[:, 0]
        return apart if self.kind != TOKENS else np.minimum.reduceat(apart, first_words(self.within))

    def right(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return bool [N]: the rows whose answer is that of the labels; raises ValueError for scores, which are never right."""
        if self.kind == SCORE:
            raise ValueError("a score is near or far, not right or wrong")
        return ~self.row.differ(self, self.answers(outputs), labels)

    def divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Return how far the outputs [N, C] of a student are from its teacher's, in nats [N]; 0 where they are equal.

        KL of the probabilities; of a score that of unit normals around it, half the square of the difference.
        """
        return self.scale.divergences(student, teacher)

    def divergence(self, teacher: np.ndarray, student: np.ndarray) -> float:
        """Return the mean over the rows of outputs [N, C] of `divergences`, computed in float64."""
        import torch

        ours, theirs = (torch.from_numpy(np.asarray(part, dtype=np.float64)) for part in (student, teacher))
        return float(self.divergences(ours, theirs).mean())

    def directions(self, outputs: Tensor, most: int = MOST_DIRECTIONS) -> Tensor:
        """Return A [N, C, K] such that a change dz of outputs [N, C] moves a row by `|A' dz|^2 / 2` nats to second order.

        Single labels: A A' = diag(p) - p p' for p = softmax, K = C - 1 (two classes: `sqrt(p_0 p_1) (1, -1)` up to its
        sign). Many labels: A = diag(sqrt(p (1 - p))). Score: A = 1. At most `most` of the largest are kept.
        """
        return self.scale.directions(outputs, most)

    def groups(self, answers: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return the group int64 [N] of each row for the separability of states, by its answer or its label.

        Classes are groups themselves; scores are grouped in tenths of the rows. Rows with the same set of labels are a group,
        and then the second value says which labels each group has, int64 [G, C].
        """
        if self.kind == SCORE:
            cuts = np.quantile(answers, np.linspace(0, 1, TENTHS + 1)[1:-1])
            return np.unique(np.searchsorted(cuts, answers, side="right"), return_inverse=True)[1], None
        if self.kind == MANY_LABELS:
            members, group = np.unique(answers, axis=0, return_inverse=True)
            return group.reshape(-1), members
        return answers, None

    def count_directions(self, outputs: int) -> int:
        """Return K, the directions of so many outputs."""
        return min(outputs - (self.kind in {SINGLE_LABEL, TOKENS}), MOST_DIRECTIONS)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss of outputs [N, C] with gold labels: cross-entropy, or half the squared error of scores.

        Rows without a label are left out. The sum is divided by all rows: a label then weighs the same whatever else is in
        its batch.
        """
        known = self.known(labels)
        outputs, given = outputs.float()[known], labels[known]
        if not len(given):
            return outputs.sum()
        given = given[:, None] if self.sigmoid else given
        return self.scale.loss(outputs, given) * (len(given) / len(labels))

    def no_labels(self, rows: int, outputs: int) -> np.ndarray:
        """Return the labels of rows that have none, as `Task` has them."""
        if self.kind == SCORE:
            return np.full(rows, np.nan)
        return np.full((rows, outputs) if self.kind == MANY_LABELS else rows, -1)

    def known(self, labels: Labels) -> Labels:
        """Return bool [N]: the rows that have a label."""
        there = labels == labels if self.kind == SCORE else labels >= 0  # NaN is not itself
        return there if there.ndim == 1 else there.all(1)

    def packed(self, answers: np.ndarray) -> bytes:
        """Return answers or labels as bytes, the same on every machine."""
        return answers.astype("<f8" if self.kind == SCORE else "<i8").tobytes()


SINGLE = Task()
"""One label a row."""


def _label_answers(_task: Task, outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[1] < 2:
        raise ValueError(f"one of several labels needs two outputs or more, not {outputs.shape[1]}")
    return outputs.argmax(1)


def _score_answers(task: Task, outputs: np.ndarray) -> np.ndarray:
    scores = outputs[:, 0].astype(np.float64)
    return expit(scores) if task.sigmoid else scores


def _many_answers(task: Task, outputs: np.ndarray) -> np.ndarray:
    return (expit(outputs.astype(np.float64)) >= np.array(task.thresholds)).astype(np.int64)


def _other_label(_task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return one != other


def _moved(task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ~(np.abs(one - other) <= task.tolerance)  # NaN is another answer


def _other_set(_task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (one != other).any(axis=1)


def _other_words(task: Task, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return differing_texts(task.tags, one, other, task.within)


def _softmax_divergences(student: Tensor, teacher: Tensor) -> Tensor:
    from torch import nn

    log_q, log_p = student.log_softmax(1), teacher.log_softmax(1)
    return nn.functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)


def _squared(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().sum(1) / 2


def _sigmoid_divergences(student: Tensor, teacher: Tensor) -> Tensor:
    from torch import nn

    logsigmoid, kl = nn.functional.logsigmoid, nn.functional.kl_div
    given = kl(logsigmoid(student), logsigmoid(teacher), reduction="none", log_target=True)
    not_given = kl(logsigmoid(-student), logsigmoid(-teacher), reduction="none", log_target=True)
    return (given + not_given).sum(1)


def _softmax_directions(outputs: Tensor, most: int) -> Tensor:
    import torch

    shares = outputs.double().softmax(-1)
    values, vectors = torch.linalg.eigh(torch.diag_embed(shares) - shares[:, :, None] * shares[:, None, :])
    count = min(outputs.shape[-1] - 1, most)
    return (vectors * values.clamp_min(0).sqrt()[:, None, :])[..., -count:].to(outputs.dtype)


def _sigmoid_directions(outputs: Tensor, most: int) -> Tensor:
    import torch

    shares = outputs.double().sigmoid()
    spread = (shares * (1 - shares)).sqrt()
    kept = spread.topk(min(outputs.shape[-1], most), dim=-1)
    made = torch.zeros(*outputs.shape, kept.indices.shape[-1], dtype=torch.float64, device=outputs.device)
    return made.scatter_(1, kept.indices[:, None, :], kept.values[:, None, :]).to(outputs.dtype)


def _one_direction(outputs: Tensor, _most: int) -> Tensor:
    import torch

    return torch.ones(*outputs.shape, 1, dtype=outputs.dtype, device=outputs.device)


def _cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    from torch import nn

    return nn.functional.cross_entropy(outputs, labels.long())


def _half_square(outputs: Tensor, labels: Tensor) -> Tensor:
    return (outputs[:, 0] - labels).square().mean() / 2


def _binary_cross_entropy(outputs: Tensor, labels: Tensor) -> Tensor:
    from torch import nn

    return nn.functional.binary_cross_entropy_with_logits(outputs, labels.to(outputs))


KINDS = {
    SINGLE_LABEL: Kind(
        None, "accuracy", _label_answers, _other_label, _softmax_divergences, _softmax_directions,
        _cross_entropy, countable=True,
    ),
    SCORE: Kind(
        "regression", "Spearman correlation", _score_answers, _moved, _squared, _one_direction, _half_square, countable=False
    ),
    MANY_LABELS: Kind(
        "multi_label_classification", "subset accuracy", _many_answers, _other_set, _sigmoid_divergences, _sigmoid_directions,
        _binary_cross_entropy, countable=True,
    ),
    TOKENS: Kind(
        None, "entity F1", _label_answers, _other_words, _softmax_divergences, _softmax_directions,
        _cross_entropy, countable=False, counted="texts",
    ),
}  # fmt: skip
"""Kind -> what it means; keys = DataSpec.kind."""
