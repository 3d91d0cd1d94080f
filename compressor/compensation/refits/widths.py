"""Which neurons of a feed-forward block stay, and the output map that makes up best for the others; all from one gram.

The block gives W phi + b for activations phi [F]. With the second moments G of [phi, 1], the squares that any other map
W' misses are `sum_d gamma_d^2 (w'_d - w_d)' G (w'_d - w_d)`: every width of a block is solved from sub-blocks of G.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.compensation.refits.equations import STRENGTHS, NormalEquations, penalised

RIDGE = 1e-3
"""Ridge strength at which the backward elimination judges, in multiples of the mean squared activation."""
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


def ridge_change(sums: BlockSums, kept: Tensor, strength: float) -> Tensor:
    """Return the same where the kept columns and the bias make up for what went, by ridge regression towards no change."""
    change = cut_change(sums, kept)
    stay = torch.cat([kept.sort().values, kept.new_full((1,), len(change) - 1)])
    system = _ridged(sums, strength)[stay][:, stay]
    missing = -(sums.fit.gram[stay] @ change)
    change[stay] = torch.cholesky_solve(missing, torch.linalg.cholesky(system))
    return change


def best_ridge(sums: BlockSums, kept: Tensor) -> tuple[float, Tensor]:
    """Return the strength with the lowest error on held-out tokens, and its change."""
    changes = {strength: ridge_change(sums, kept, strength) for strength in STRENGTHS}
    best = min(changes, key=lambda strength: change_error(sums, changes[strength]))
    return best, changes[best]


def change_error(sums: BlockSums, change: Tensor) -> float:
    """Return the weighted mean square that a change [F + 1, H] of the output map makes behind the norm, held out."""
    scaled = change * sums.gamma.double()
    return float((scaled * (sums.held.gram @ scaled)).sum()) / sums.held.weight


def _ridged(sums: BlockSums, strength: float) -> Tensor:
    return penalised(sums.fit.gram, strength * (sums.fit.size() or 1.0))
