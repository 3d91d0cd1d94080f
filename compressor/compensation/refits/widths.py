"""Which neurons of a feed-forward block stay, and the output map that makes up best for the others; all from one gram.

The block gives W phi + b for activations phi [F]. With the second moments G of [phi, 1], the squares that any other map
W' misses are `sum_d gamma_d^2 (w'_d - w_d)' G (w'_d - w_d)`: every width of a block is solved from sub-blocks of G.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.compensation.refits.equations import STRENGTHS, NormalEquations, penalised

RIDGE = 1e-3
"""Ridge strength at which the backward elimination judges, in multiples of the mean squared activation."""
ANCHORS = 0.25, 0.5, 0.75
"""Shares of a block's inputs at which all ridge strengths are tried."""
LAZY = 64
"""Eliminations after which the inverse is brought up to date as a whole."""


@dataclass(frozen=True)
class BlockSums:
    """What is kept of a block on the calibration text: moments of [phi, 1] of fitted and held-out tokens.

    `cls` [F] is the mean square of each activation at [CLS] (over the fitted texts); `output` [F, H] the output map,
    `gamma` [H] the scale of the norm behind it; `specialists` bool [F] the neurons that are protected.
    """

    fit: NormalEquations
    held: NormalEquations
    cls: Tensor
    output: Tensor
    gamma: Tensor
    specialists: Tensor


def rank_cls(sums: BlockSums) -> Tensor:
    """Return the importance on [CLS]: root mean square of the activation there times the norm of the output column."""
    return sums.cls.sqrt() * sums.output.norm(dim=1)


def rank_tokens(sums: BlockSums) -> Tensor:
    """Return the same over all tokens, weighted as in the fit."""
    return (sums.fit.gram.diagonal()[:-1] / sums.fit.weight).clamp_min(0).sqrt() * sums.output.norm(dim=1)


def rank_spread(sums: BlockSums) -> Tensor:
    """Return the same with the standard deviation over all tokens: what the bias cannot stand in for."""
    first, second = sums.fit.gram[-1, :-1] / sums.fit.weight, sums.fit.gram.diagonal()[:-1] / sums.fit.weight
    return (second - first.square()).clamp_min(0).sqrt() * sums.output.norm(dim=1)


def rank_elimination(sums: BlockSums) -> Tensor:
    """Return how long each neuron survives when the one whose loss costs least goes first, after refitting the others.

    Losing neuron p costs `|D_p|^2 / [G^-1]_pp` (Hassibi and Stork 1993), D_p its refitted output column in units of gamma;
    the inverse and D then follow by a rank-one step. Specialists go last.
    """
    count, output = len(sums.cls), sums.output.double() * sums.gamma.double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_ridged(sums, RIDGE)))
    columns = torch.cat([output, output.new_zeros(1, output.shape[1])])  # the bias is last and never goes
    guarded = torch.cat([sums.specialists, sums.specialists.new_zeros(1)])
    alive, order = torch.arange(count + 1, device=inverse.device), []
    while len(order) < count:
        steps = min(LAZY, count - len(order))
        # inverse and columns stay as they are for a few steps; what they lost is changes changes' and changes removed
        changes, removed = inverse.new_zeros(len(alive), steps), columns.new_zeros(steps, columns.shape[1])
        diagonal, squares = inverse.diagonal().clone(), columns.square().sum(1)
        gone = torch.zeros(len(alive), dtype=torch.bool, device=inverse.device)
        for step in range(steps):
            costs = squares.clamp_min(0) / diagonal.clamp_min(1e-300)
            costs[guarded] += 2 * costs.max() + 1
            costs[gone] = costs[-1] = float("inf")
            pick = int(costs.argmin())
            change = inverse[pick] - changes[:, :step] @ changes[pick, :step]
            change = change / change[pick].clamp_min(1e-300).sqrt()
            lost = (columns[pick] - changes[pick, :step] @ removed[:step]) / change[pick]
            along = columns @ lost - changes[:, :step] @ (removed[:step] @ lost)
            squares += change.square() * lost.square().sum() - 2 * change * along
            diagonal -= change.square()
            changes[:, step], removed[step], gone[pick] = change, lost, True
            order.append(int(alive[pick]))
        left = ~gone
        inverse = inverse[left][:, left] - changes[left] @ changes[left].T
        columns, guarded, alive = columns[left] - changes[left] @ removed, guarded[left], alive[left]
    survived = torch.zeros(count, dtype=torch.float64, device=inverse.device)
    survived[torch.tensor(order, device=inverse.device)] = torch.arange(count, device=inverse.device).double()
    return survived


RANKINGS: dict[str, Callable[[BlockSums], Tensor]] = {
    "cls": rank_cls,
    "tokens": rank_tokens,
    "spread": rank_spread,
    "elimination": rank_elimination,
}
"""Name -> importance [F] of every neuron from the sums of its block; what is more important stays longer."""


def ranked_neurons(sums: BlockSums, rank: str) -> Tensor:
    """Return the neurons [F] in the order in which they are kept: specialists first, then by importance."""
    importance = RANKINGS[rank](sums)
    order = importance.argsort(descending=True, stable=True)
    return torch.cat([order[sums.specialists[order]], order[~sums.specialists[order]]])


def ranked_heads(sums: BlockSums, per_head: int) -> Tensor:
    """Return the heads in the order in which they are kept, by the same elimination with a head of `per_head` inputs at a time.

    Losing the inputs S of head h costs `tr(D_S' [G^-1]_SS^-1 D_S)`, D_S its refitted rows in units of gamma, and what stays
    makes up for it (the structured form: Kurtic et al. 2023, equations 2 and 3).
    """
    output = sums.output.double() * sums.gamma.double()
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(_ridged(sums, RIDGE)))
    rows = torch.cat([output, output.new_zeros(1, output.shape[1])])
    places = torch.arange(len(output), device=output.device).split(per_head)
    left, order = dict(enumerate(places)), []
    while left:
        costs = {head: (rows[own] * _within(inverse, own, rows[own])).sum() for head, own in left.items()}
        pick = min(costs, key=lambda head: float(costs[head]))
        own = left.pop(pick)
        order.append(pick)
        rows = rows - inverse[:, own] @ _within(inverse, own, rows[own])
        inverse = inverse - inverse[:, own] @ _within(inverse, own, inverse[own])
    return torch.tensor(order[::-1], device=output.device)


def _within(inverse: Tensor, own: Tensor, values: Tensor) -> Tensor:
    """Return [G^-1]_SS^-1 times `values`."""
    return torch.linalg.solve(inverse[own][:, own], values)


def cut_change(sums: BlockSums, kept: Tensor) -> Tensor:
    """Return how [W, b] changes, [F + 1, H], where the neurons that are not `kept` go and nothing else."""
    change = torch.cat([-sums.output.double(), sums.output.new_zeros(1, sums.output.shape[1]).double()])
    change[kept] = 0.0
    return change


def mean_change(sums: BlockSums, kept: Tensor) -> Tensor:
    """Return the same where the bias takes over the mean of what went."""
    change = cut_change(sums, kept)
    change[-1] = -(sums.fit.gram[-1, :-1] / sums.fit.weight) @ change[:-1]
    return change


class NestedFit:
    """The fits of a block of which the first inputs of `order` stay, all from one ordered system and one factor a strength.

    The kept columns and the bias make up for what went, by ridge regression towards no change: every system is the leading
    block of one ordered matrix.
    """

    def __init__(self, sums: BlockSums, order: Tensor) -> None:
        self._sums, self._order = sums, order
        self._places = torch.cat([order.new_full((1,), len(order)), order])  # the bias always stays
        self._system = self._ordered(0.0)
        self._factors: dict[float, Tensor] = {}

    def change(self, count: int, strength: float | None) -> Tensor:
        """Return how [W, b] changes, [F + 1, H], where `count` inputs stay; without a strength the bias takes over the mean."""
        if strength is None:
            return mean_change(self._sums, self._order[:count])
        if strength not in self._factors:
            self._factors[strength] = torch.linalg.cholesky(self._ordered(strength))
        change, stay, gone = cut_change(self._sums, self._order[:count]), *self._places.tensor_split([count + 1])
        missing = -(self._system[: count + 1, count + 1 :] @ change[gone])
        change[stay] = torch.cholesky_solve(missing, self._factors[strength][: count + 1, : count + 1])
        return change

    def _ordered(self, strength: float) -> Tensor:
        return _ridged(self._sums, strength)[self._places][:, self._places]


def nested_changes(
    sums: BlockSums, order: Tensor, counts: Collection[int]
) -> Iterator[tuple[int, float | None, Tensor, float, float]]:
    """Yield (count, ridge strength, change, held-out errors of it and of the mean) where the first `count` of `order` stay.

    All strengths are tried where `ANCHORS` of the inputs stay; counts take that of the nearest, so that none depends on what
    else is asked for. Where the mean of what went, as bias, does as well, that is yielded: None.
    """
    full, fit, best = len(order), NestedFit(sums, order), {}
    inner = sorted(count for count in set(counts) if 0 < count < full)
    anchors = {max(1, round(share * full)) for share in ANCHORS} if inner else set()
    for count in anchors:
        best[count] = min(STRENGTHS, key=lambda strength: change_error(sums, fit.change(count, strength)))
    for count in sorted(set(counts)):
        mean = fit.change(count, None)
        mean_error = change_error(sums, mean)
        made = None, mean, mean_error
        if count in inner:
            strength = best[min(anchors, key=lambda anchor: abs(anchor - count))]
            change = fit.change(count, strength)
            error = change_error(sums, change)
            made = (strength, change, error) if error < mean_error else made
        yield count, *made, mean_error


def change_error(sums: BlockSums, change: Tensor) -> float:
    """Return the weighted mean square that a change [F + 1, H] of the output map makes behind the norm, held out."""
    changed = change.any(1)
    scaled = change[changed] * sums.gamma.double()
    return float((scaled * (sums.held.gram[changed][:, changed] @ scaled)).sum()) / sums.held.weight


def _ridged(sums: BlockSums, strength: float) -> Tensor:
    return penalised(sums.fit.gram, strength * (sums.fit.size() or 1.0))
