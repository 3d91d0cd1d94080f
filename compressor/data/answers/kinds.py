"""What the outputs of a classifier mean: what its answer is, when two answers differ, and how far two outputs are apart.

A kind of task is a row of `KINDS`: functions of outputs [N, C]. `Task` is such a row with what the data or the recipe adds to it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.special import logit

from compressor.data.answers.answers import (
    label_answers,
    many_answers,
    moved,
    other_label,
    other_set,
    other_top,
    other_words,
    score_answers,
    top_is_best,
)
from compressor.data.answers.outputs import (
    binary_cross_entropy,
    cross_entropy,
    half_square,
    one_direction,
    sigmoid_directions,
    sigmoid_divergences,
    softmax_directions,
    softmax_divergences,
    squared,
)
from compressor.data.answers.tokens import Tags, first_words
from compressor.data.answers.within import best_two, centred, need_within

if TYPE_CHECKING:  # figures of finished runs are compared without waiting for torch
    from torch import Tensor

    from compressor.data.splits import Split

Labels = TypeVar("Labels", np.ndarray, "Tensor")
SINGLE_LABEL, SCORE, MANY_LABELS, RANKING, TOKENS = "single_label", "score", "many_labels", "ranking", "tokens"
SCORES = frozenset({SCORE, RANKING})
"""Kinds whose one output is a number."""
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
    """Whether an answer is right or wrong, so that answers can be counted."""
    right: Callable[[Task, np.ndarray, np.ndarray], np.ndarray] | None = None
    """Whether answers are those of the labels; None where that is when they do not differ from them."""
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
    - `ranking`: the order of the rows of a query by a score as above; labels are float64 [N], how relevant each is, 0 for not
      at all. What is counted is queries, Q of them: another answer is another row on top.
    - `tokens`: one of C classes, called `names`, for each word; N are the words, labels int64 [N]. What is counted is texts:
      another answer is one of which any entity differs or, where the names are no tags of entities, the label of any word.

    `within` says what each row is counted within, int64 [N] from 0 on; see `bound`.
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
        return int(need_within(self.within).max()) + 1 if self.row.whole else rows

    def told(self) -> dict[str, Any]:
        """Return what decides an answer beside the outputs, as JSON has it."""
        told = {key: getattr(self, key) for key in ("kind", "tolerance", "thresholds", "sigmoid")}
        return told | ({"names": self.names} if self.names else {})

    @cached_property
    def tags(self) -> Tags:
        """What the labels of words mean."""
        return Tags(self.names)

    @property
    def metric(self) -> str:
        """The figure that two models are compared by: that of the kind, for labels that are no entities the words' own."""
        return BY_WORD if self.kind == TOKENS and not self.tags.are_entities else self.row.metric

    @property
    def is_score(self) -> bool:
        """Whether there is one output, which is a number."""
        return self.kind in SCORES

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
        """Return bool [N], of rankings [Q]: the rows (queries) whose answer to outputs [N, C] is another one."""
        return self.row.differ(self, self.answers(full), self.answers(other))

    def margins(self, outputs: np.ndarray) -> np.ndarray:
        """Return by how much outputs [N, C] must move for another answer, at least [N] ([Q]); 0 for scores: any move may."""
        if self.kind == SCORE:
            return np.zeros(len(outputs))
        if self.kind == RANKING:
            first, second = best_two(outputs[:, 0], need_within(self.within))
            return outputs[first, 0] - outputs[second, 0]
        if self.kind == MANY_LABELS:
            return np.abs(outputs - logit(np.array(self.thresholds))).min(1)
        top = np.sort(outputs, axis=1)[:, -2:]
        apart = top[:, 1] - top[:, 0]
        return apart if self.kind != TOKENS else np.minimum.reduceat(apart, first_words(need_within(self.within)))

    def right(self, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return bool [N], of rankings [Q]: the rows (queries) whose answer is that of the labels.

        A query is right where no row is more relevant than the one on top. Raises ValueError for scores, which are never right.
        """
        if not self.row.countable:
            raise ValueError("a score is near or far, not right or wrong")
        if self.row.right is not None:
            return self.row.right(self, self.answers(outputs), labels)
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

        Classes are groups themselves; scores are grouped in tenths of the rows, those of rankings after the mean of their query
        is taken away. Rows with the same set of labels are a group, and then the second value says which labels each group
        has, int64 [G, C].
        """
        if self.kind == RANKING:
            answers = centred(answers, need_within(self.within))
        if self.is_score:
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
        if self.is_score:
            return np.full(rows, np.nan)
        return np.full((rows, outputs) if self.kind == MANY_LABELS else rows, -1)

    def known(self, labels: Labels) -> Labels:
        """Return bool [N]: the rows that have a label."""
        there = labels == labels if self.is_score else labels >= 0  # NaN is not itself
        return there if there.ndim == 1 else there.all(1)

    def packed(self, answers: np.ndarray) -> bytes:
        """Return answers or labels as bytes, the same on every machine."""
        return answers.astype("<f8" if self.is_score else "<i8").tobytes()


SINGLE = Task()
"""One label a row."""


KINDS = {
    SINGLE_LABEL: Kind(
        None, "accuracy", label_answers, other_label, softmax_divergences, softmax_directions,
        cross_entropy, countable=True,
    ),
    SCORE: Kind(
        "regression", "Spearman correlation", score_answers, moved, squared, one_direction, half_square, countable=False
    ),
    MANY_LABELS: Kind(
        "multi_label_classification", "subset accuracy", many_answers, other_set, sigmoid_divergences, sigmoid_directions,
        binary_cross_entropy, countable=True,
    ),
    RANKING: Kind(
        "regression", "NDCG@10", score_answers, other_top, squared, one_direction, half_square, countable=True,
        right=top_is_best, counted="queries",
    ),
    TOKENS: Kind(
        None, "entity F1", label_answers, other_words, softmax_divergences, softmax_directions,
        cross_entropy, countable=True, counted="texts",
    ),
}  # fmt: skip
"""Kind -> what it means; keys = DataSpec.kind."""
