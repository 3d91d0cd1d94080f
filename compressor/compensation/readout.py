"""Linear readouts of the teacher from [CLS] states: ridge to its logits, Newton to its probabilities; no labels needed."""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

STRENGTHS = (1.0, 1e-1, 3e-2, 1e-2, 3e-3, 1e-3)
"""Ridge strengths of the Newton readout, in multiples of the mean variance of the states; strong ones come first."""
STEPS, TOLERANCE = 100, 1e-5
"""Bounded Newton steps at most for each strength, and the share of the loss below which a step's gain ends them."""
Activation = Callable[[Tensor], Tensor]
LINEAR: dict[Activation, tuple[float, float]] = {torch.tanh: (0.1, 0.0)}
BENT = 1.0, 8.0
"""(slope, shift) at which `act(slope x + shift)` is a straight line for x within 8 deviations: ReLU and GELU are the
identity far to the right, tanh next to 0 (bent by less than 1 % up to 1.7 deviations)."""


def ridge_readout(states: Tensor, targets: Tensor, strength: float = 1e-2) -> tuple[Tensor, Tensor]:
    """Return (weight [H, C], bias [C]) minimising |X W + b - T|^2 + strength * N * mean variance * |W|^2, in float64.

    `states` X [N, H], `targets` T [N, C]; normal equations on centred data (Hoerl and Kennard 1970), solved where the
    states are. The penalty scales with the mean variance of the states, so `strength` means the same at every layer and
    width.
    """
    states, targets = states.double(), targets.double()
    mean, offset = states.mean(0), targets.mean(0)
    centred = states - mean
    gram = centred.T @ centred
    gram.diagonal().add_(strength * (gram.trace() / len(gram)).clamp_min(np.finfo(float).tiny))
    # without the check, which would wait for a GPU: the penalty keeps the matrix positive
    factor, _ = torch.linalg.cholesky_ex(gram)
    weight = torch.cholesky_solve(centred.T @ (targets - offset), factor)
    return weight, offset - mean @ weight


def crossfit_readout(states: Tensor, targets: Tensor, folds: int = 2, *, within: np.ndarray | None = None) -> Tensor:
    """Return the logits [N, C] that readouts fitted on the other folds give each row: no row judges its own fit.

    Folds are every `folds`-th row, or every `folds`-th of what rows are `within` [N], so they do not depend on chance. The
    rows must be different texts: a copy in another fold would bring a row's own target into the fit that judges it. Both on
    one device; float64.
    """
    logits = torch.zeros(targets.shape, dtype=torch.float64, device=states.device)
    fold_of = (np.arange(len(states)) if within is None else within) % folds
    for held_out in range(folds):
        # places, found here: a mask would make the program wait for a GPU to count it
        own, others = (
            torch.from_numpy(np.flatnonzero(rows)).to(states.device)
            for rows in (fold_of == held_out, fold_of != held_out)
        )
        weight, bias = ridge_readout(states[others], targets[others])
        logits[own] = states[own].double() @ weight + bias
    return logits


def newton_readouts(states: Tensor, targets: Tensor) -> Iterator[tuple[float, Tensor, Tensor]]:
    """Yield (strength, weight [H, C], bias [C]) of the penalised multinomial regression, for each of `STRENGTHS`.

    `states` [N, H] and `targets` [N, C] (probabilities, possibly weighted by class), float64. Each step solves with an
    upper bound of the Hessian, (Z'Z / N) / 2, which never overshoots and is factored once for all classes and steps
    (Boehning 1992, theorem 5.3); every strength starts where the one before ended.
    """
    rows, classes = targets.shape
    share = targets.sum(0) / targets.sum()
    weight, bias = states.new_zeros(states.shape[1], classes), (share.clamp_min(1e-6)).log()
    mean = states.mean(0)
    centred = states - mean
    variances, vectors = torch.linalg.eigh(centred.T @ centred / rows)
    scale = variances.mean().clamp_min(1e-12)
    mass = targets.sum(1, keepdim=True)
    for strength in STRENGTHS:
        before = np.inf
        for _ in range(STEPS):
            logits = centred @ weight + bias
            loss = float(-(targets * logits.log_softmax(1)).sum() / rows + strength * scale * weight.square().sum() / 2)
            if before - loss < TOLERANCE * abs(loss):
                break
            before = loss
            charge = (targets - mass * logits.softmax(1)) / rows
            step = vectors.T @ (centred.T @ charge - strength * scale * weight)
            bound = mass.max() * variances / 2 + strength * scale
            weight = weight + vectors @ (step / bound[:, None])
            bias = bias + 2 * charge.sum(0) / mass.max()
        yield strength, weight, bias - mean @ weight


def linear_nodes(
    states: Tensor,
    weight: Tensor,
    bias: Tensor,
    nodes: int,
    activation: Activation,
    steeper: float = 1.0,
    *,
    relative: bool = True,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (w1 [n, H], b1 [n], w2 [C, n], b2 [C]) of a head that computes `states @ weight + bias`.

    `relative` logits matter up to what all of a row share, and lose that; outputs that mean something by themselves do not. C
    relative classes take C - 1 nodes, fewer if `nodes` is less: then those along which the logits vary most. Each node works
    where its activation is a straight line, the less so the `steeper` its slope is made.
    """
    shared = weight.mean(1, keepdim=True) if relative else 0.0  # what all logits share decides nothing
    varied = weight - shared
    mean = states.mean(0)
    logits = (states - mean) @ varied
    _, spread, mix = torch.linalg.svd(logits / len(states) ** 0.5, full_matrices=False)
    kept = min(nodes, int((spread > 1e-9 * spread[0].clamp_min(1e-300)).sum()))
    mix, spread = mix[:kept], spread[:kept]
    slope, shift = LINEAR.get(activation, BENT)
    slope *= steeper
    directions = (varied @ mix.T / spread).T  # unit variance along each
    at = torch.tensor(shift, dtype=torch.float64, requires_grad=True)
    height = activation(at)
    rise = float(torch.autograd.grad(height, at)[0]) * slope
    w2 = (mix * spread[:, None]).T / rise
    b2 = bias - (bias.mean() if relative else 0.0) + mean @ varied - w2.sum(1) * float(height.detach())
    return slope * directions, shift - slope * directions @ mean, w2, b2
