"""Put exits together: what they cost, which to take, and the path of thresholds to certify."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from compressor.cascade.exits import ExitFit, HeldOut
from compressor.cascade.runtime import margin
from compressor.cascade.thresholds import (
    Outcome,
    Thresholds,
    allowed_flips,
    choose_exits,
    exit_sets,
    lowest_cost,
    threshold_path,
)
from compressor.errors import UserError
from compressor.measurement.cost import cls_row_flops, shape_flops
from compressor.model.units import Shape
from compressor.recipe.training import CascadeSpec


@dataclass(frozen=True)
class EncoderWork:
    """What decides the work of a model's encoder: width, what each layer has, and whether it has a CLS-only tail.

    `speed` is the time of an operation of its layers as a share of one in float32 (below 1 in 8 bits); `exit_work` is that of
    a try at an exit where it was measured, as the FLOPs in float32 that take as long (None: the FLOPs of its one row, which
    says too little in 8 bits: one row reads all the weights of a layer). `full` is the work of the model where texts start
    again that the end of this one is unsure of.
    """

    hidden: int
    shape: Shape
    tail: bool = False
    speed: float = 1.0
    exit_work: float | None = None
    full: "EncoderWork | None" = None

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self.shape.ffn_widths)

    def costs(self, exits: Sequence[int], lengths: np.ndarray) -> np.ndarray:
        """Return the FLOPs [E + 1, N] of rows of `lengths` tokens that leave at each of `exits`, or at the end.

        A row pays for the layers it passed, each operation counted `speed` times, and for every exit it was tried at, the
        one where it leaves included. The last layer among `exits` is the end of the layers, behind
        which the `full` model is the last part.
        """
        early = [depth for depth in exits if depth < self.layers]
        tokens = lengths.astype(np.int64)
        layers, rows = np.zeros((2, self.layers, len(tokens)))
        for index, layer in enumerate(self.shape.each()):
            layers[index] = shape_flops(layer, self.hidden, tokens)
            rows[index] = cls_row_flops(layer, self.hidden, tokens)
        # an exit reads one row of the next layer
        spent_at = rows if self.exit_work is None else np.full_like(rows, self.exit_work)
        tried = np.cumsum([spent_at[depth] for depth in early], axis=0)
        left = [self.speed * layers[:depth].sum(0) + spent for depth, spent in zip(early, tried, strict=True)]
        whole = self.speed * (layers.sum(0) + (rows[-1] - layers[-1] if self.tail else 0))
        left.append(whole + tried[-1] if len(tried) else whole)
        if len(early) < len(exits):
            left.append(left[-1] + self.full.costs((), lengths)[-1])
        return np.stack(left)


@dataclass(frozen=True)
class CascadePlan:
    """The exits taken, the path of their thresholds, and what held-out rows say of every candidate.

    The last layer among the exits says that texts which the end is unsure of go on to the full model. `candidates`: exits,
    and the share of the encoder's work expected at `rate` flips on the held-out rows.
    """

    exits: tuple[int, ...]
    path: list[Thresholds]
    rate: float
    candidates: list[dict[str, Any]]


def layers_to_try(exits: Sequence[int] | str, layers: int) -> Sequence[int]:
    """Return the layers that `exits` of the recipe stands for; raises UserError for one at or behind the last layer."""
    if layers < 2:
        raise UserError("cascade: a model with one layer has no earlier one to leave behind; leave cascade out.")
    if exits == "auto":
        return range(1, layers)
    wrong = [layer for layer in exits if layer >= layers]
    if wrong:
        raise UserError(
            f"cascade.exits: {wrong[0]} is no early exit of a model with {layers} layers; name layers of 1..{layers - 1}."
        )
    return exits


def outcome_of(
    work: EncoderWork,
    exits: Sequence[int],
    logits: Mapping[int, np.ndarray],
    end: np.ndarray,
    wanted: np.ndarray,
    lengths: np.ndarray,
) -> Outcome:
    """Return the outcome of `exits` on rows: their logits [N, C] by layer, those at the end, and the full model's `wanted`."""
    labels = wanted.argmax(1)
    return Outcome(
        margins=np.stack([margin(logits[layer]) for layer in exits]),
        wrong=np.stack([logits[layer].argmax(1) != labels for layer in exits]),
        wrong_at_end=end.argmax(1) != labels,
        costs=work.costs(exits, lengths),
    )


def plan_cascade(
    fits: Sequence[ExitFit],
    held: HeldOut,
    lengths: np.ndarray,
    work: EncoderWork,
    spec: CascadeSpec,
    certified_rows: int,
) -> CascadePlan:
    """Choose exits and fix the path of thresholds on the held-out rows alone; `lengths` [M] are their tokens.

    The rate of flips aimed at is the largest that `certified_rows` rows can certify. With a full model behind (`work.full`)
    the end of the layers is one more exit: its threshold decides how many texts start again, 0 where that does not pay. So
    nothing is lost by having it, and the path begins where all texts are answered as the full model does; without it the
    held-out rows, which the model was trained on, promise too much (SST-2 in 8 bits: nothing certified at 1 %).
    """
    logits = {fit.head.layer: fit.logits for fit in fits} | {work.layers: held.own}
    sets = exit_sets(sorted(logits)[:-1]) if spec.exits == "auto" else [tuple(spec.exits)]
    if work.full is not None:
        sets = [(*exits, work.layers) for exits in ([(), *sets] if spec.exits == "auto" else sets)]
    outcomes = {
        exits: outcome_of(
            work, exits, logits, held.wanted if exits[-1] == work.layers else held.own, held.wanted, lengths
        )
        for exits in sets
    }
    rate = allowed_flips(certified_rows, spec.max_flips, spec.confidence) / certified_rows
    costs = {exits: lowest_cost(outcome, rate) for exits, outcome in outcomes.items()}
    chosen = choose_exits(costs)
    whole = work.costs((), lengths)[-1].mean()
    candidates = [
        {"exits": list(exits), "work": cost / whole if np.isfinite(cost) else None} for exits, cost in costs.items()
    ]
    return CascadePlan(chosen, threshold_path(outcomes[chosen]), rate, candidates)
