"""The charge-flow trainer: a head built forward, node by node, in closed form; no back-propagation, no chance.

The charge of a row is what its class probabilities still lack, `targets - softmax(logits)`. Every node takes a direction
in the state that carries much of the remaining charge, then the readout of all nodes is refitted by Newton's method. Each
logit stays a sum of node charges `w_ck a_k(z)` plus a bias, which `compressor explain` shows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressor.compensation.heads.head import Head, HeadFit, check_nodes, standardisation, weighted_targets
from compressor.compensation.readout import Activation
from compressor.progress import Track, silent
from compressor.recipe.training import HeadSpec

STRENGTHS = (1e-2, 1e-1, 1.0, 10.0)
"""Ridge strengths of a direction, in multiples of the mean variance of the states."""
SLOPED_SHAPES = ((0.5, 0.0), (-0.5, 0.0))
CURVED_SHAPES = ((0.5, 0.5), (0.5, -0.5), (-0.5, 0.5), (-0.5, -0.5))
"""(slope, shift) of nodes `act(slope s - shift)` for s, the state along a direction in standard deviations.

Along a slope the activation is used where it is nearly linear (tanh): a bend lowers the loss of that node more, but the
nodes behind it then spend themselves on straightening it. Curvature needs the bend.
"""
CURVED = 2
"""Directions tried along which the charge is curved, not sloped."""
CURVED_COMPONENTS = 32
"""Principal components in which curved directions are looked for; among more of them, chance looks like curvature."""
FALL = 1e-3
"""Share of the selection loss that a node must take off to count."""
PATIENCE = 1
"""Nodes without a lower selection loss before building stops."""
NEWTON_STEPS = 12
NEWTON_TOLERANCE = 1e-7
"""Newton's method ends where a step promises to lower the objective by less than this share of itself."""


@dataclass(frozen=True)
class _Rows:
    """Standardised states [N, H], targets [N, C] that sum to 1, and weights [N] that sum to 1 over all rows."""

    states: Tensor
    targets: Tensor
    weight: Tensor

    def charge(self, logits: Tensor) -> Tensor:
        """Return what the probabilities lack, by row weight: [N, C]."""
        return (self.targets - logits.softmax(1)) * self.weight[:, None]

    def loss(self, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy in nats; logits [..., N, C] give one for every leading index."""
        return -(logits.log_softmax(-1) * self.targets).sum(-1) @ self.weight


def fit_charge_flow(
    states: Tensor,
    targets: Tensor,
    selection_states: Tensor,
    selection_targets: Tensor,
    spec: HeadSpec,
    activation: Activation,
    *,
    seed: int = 0,  # noqa: ARG001 (every trainer takes one; here nothing is drawn)
    track: Track = silent,
) -> HeadFit:
    """Build a head of at most `spec.nodes` nodes; the count with the lowest selection loss wins.

    states [N, H], targets [N, C] (probabilities; one-hot for gold labels), the same for the selection split. In the
    result `epochs` are the nodes built, `best_epoch` those kept, and the losses those after each node.
    """
    check_nodes(spec.nodes, states.shape[1])
    mean, deviation = standardisation(states)
    wanted, wanted_held, class_weights = weighted_targets(targets, selection_targets, spec)
    fit, held = (
        _rows((part.double() - mean) / deviation, weighted)
        for part, weighted in ((states, wanted), (selection_states, wanted_held))
    )
    components = principal_components(fit.states)  # once: a node then costs no system to solve
    columns, selection = (torch.ones(len(part.states), 1, dtype=torch.float64) for part in (fit, held))
    penalty = spec.weight_decay
    readout = refit_readout(columns, fit, torch.zeros(1, targets.shape[1], dtype=torch.float64), penalty)
    w1, b1 = fit.states.new_zeros(0, states.shape[1]), fit.states.new_zeros(0)
    history: list[float] = []
    best, lowest = None, float("inf")
    for node in track(range(1, spec.nodes + 1), "head", total=spec.nodes):
        logits, held_logits = columns @ readout, selection @ readout
        tried = (
            _best_node(find(fit, logits, *components), shapes, fit, logits, held, held_logits, activation, penalty)
            for find, shapes in ((sloped_directions, SLOPED_SHAPES), (curved_directions, CURVED_SHAPES))
        )
        found = min(tried, key=lambda node: node.loss)
        w1, b1 = torch.cat([w1, found.weight[None]]), torch.cat([b1, found.bias[None]])
        columns, selection = (
            torch.cat([activation(part.states @ found.weight + found.bias)[:, None], seen], dim=1)
            for part, seen in ((fit, columns), (held, selection))
        )
        readout = refit_readout(columns, fit, torch.cat([found.readout[None], readout]), penalty)
        history.append(float(held.loss(selection @ readout)))
        if history[-1] < (1 - FALL) * lowest:
            lowest = history[-1]
            # columns stand in the reverse order of their nodes, the bias last
            best = Head(mean, deviation, w1, b1, readout[:-1].flip(0).T.contiguous(), readout[-1])
        if node - len(best.b1) >= PATIENCE:
            break
    return HeadFit(best, len(history), len(best.b1), tuple(history), class_weights)


def principal_components(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return (variances [H], unit vectors [H, H]) of the principal components of states [N, H], the largest last.

    Half of the whole time would go into float64 here; a direction need not be exact, what is made of it is float64.
    """
    states = states.float()
    variances, vectors = torch.linalg.eigh(states.T @ states / len(states))
    return variances.double().clamp_min(0), vectors.double()


def sloped_directions(rows: _Rows, logits: Tensor, variances: Tensor, vectors: Tensor) -> Tensor:
    """Return a direction [J, H] for each of the ridge strengths: the one that carries most of the charge linearly.

    Ridge regression of the charge E on the states, all classes at once: X = Z'E, B = (Z'Z / N + strength)^-1 X. Of what
    B explains, X'B, the leading eigenvector u mixes the classes; the direction is B u.
    """
    along = vectors.T @ (rows.states.T @ rows.charge(logits))
    found = []
    for strength in STRENGTHS:
        solution = along / (variances + strength * variances.mean() + 1e-12)[:, None]
        found.append(vectors @ (solution @ torch.linalg.eigh(along.T @ solution).eigenvectors[:, -1]))
    return torch.stack(found)


def curved_directions(rows: _Rows, logits: Tensor, variances: Tensor, vectors: Tensor) -> Tensor:
    """Return `CURVED` directions [J, H] along which the charge is most curved; a linear map is blind to those.

    Principal Hessian directions (Li 1992): eigenvectors of `sum_i charge_ic y_i y_i'` for whitened components y of each
    class, those of the largest absolute eigenvalues.
    """
    known = variances[-CURVED_COMPONENTS:] >= 1e-6 * variances[-1]
    components = (vectors[:, -CURVED_COMPONENTS:] / variances[-CURVED_COMPONENTS:].clamp_min(1e-300).sqrt())[:, known]
    whitened, charge = rows.states @ components, rows.charge(logits)
    hessians = torch.einsum("nc,nr,ns->crs", charge, whitened, whitened)
    # the charges of a row sum to 0, so the last class adds nothing to the others
    values, eigenvectors = torch.linalg.eigh(hessians[:-1])
    order = values.abs().flatten().argsort(descending=True, stable=True)[:CURVED]
    return eigenvectors.transpose(1, 2).flatten(0, 1)[order] @ components.T


def refit_readout(columns: Tensor, rows: _Rows, start: Tensor, penalty: float) -> Tensor:
    """Return the readout [K, C] of columns [N, K] (the last is 1, its weights the bias) of lowest penalised loss.

    Newton's method from `start`, its steps halved where they would go up: the loss is convex, the system small.
    """
    readout, classes = start, start.shape[1]
    penalties = torch.full((len(start), 1), 2 * penalty, dtype=torch.float64)
    penalties[-1] = 1e-9  # the bias is free; all biases together change nothing, and the system must be regular

    def objective(weights: Tensor) -> float:
        return float(rows.loss(columns @ weights) + (penalties * weights.square()).sum() / 2)

    value = objective(readout)
    for _ in range(NEWTON_STEPS):
        p = (columns @ readout).softmax(1)
        gradient = penalties * readout - columns.T @ rows.charge(columns @ readout)
        # the Hessian, classes outermost: A' diag(w p_c) A on the diagonal less the outer products of p_c A
        spread = (p[:, :, None] * columns[:, None, :]).flatten(1)
        hessian = -spread.T @ (spread * rows.weight[:, None])
        for index in range(classes):
            block = slice(index * len(start), (index + 1) * len(start))
            hessian[block, block] += spread[:, block].T @ (columns * rows.weight[:, None])
        hessian.diagonal().add_(penalties.expand(-1, classes).T.flatten())
        step = torch.linalg.solve(hessian, gradient.T.flatten()).view(classes, -1).T
        promised = float((step * gradient).sum()) / 2
        if promised <= NEWTON_TOLERANCE * value:
            break
        for halving in range(20):
            tried = readout - step * 0.5**halving
            reached = objective(tried)
            if reached < value:
                break
        else:
            break
        readout, value = tried, reached
    return readout


@dataclass(frozen=True)
class _Node:
    """`act(weight z + bias)` for weight [H], its first readout [C], and the selection loss with it."""

    weight: Tensor
    bias: Tensor
    readout: Tensor
    loss: float


def _best_node(
    directions: Tensor,
    shapes: tuple[tuple[float, float], ...],
    rows: _Rows,
    logits: Tensor,
    held: _Rows,
    held_logits: Tensor,
    activation: Activation,
    penalty: float,
) -> _Node:
    """Return the node along one of the directions [J, H] that, added to the logits as it is, has the lowest loss."""
    charge = rows.charge(logits)
    # how much the loss of each row bends where its logits move: weight (1 - |p|^2)
    curvature = rows.weight * (1 - logits.softmax(1).square().sum(1)).clamp_min(1e-9)
    slopes, shifts = torch.tensor(shapes, dtype=torch.float64).T
    best = None
    for direction, along, held_along in zip(
        directions, directions @ rows.states.T, directions @ held.states.T, strict=True
    ):
        variance, centre = torch.var_mean(along, correction=0)
        unit = variance.sqrt().clamp_min(1e-12)
        biases = -slopes * centre / unit - shifts
        made = activation(slopes[:, None] / unit * along + biases[:, None])
        middle = (made @ curvature / curvature.sum())[:, None]
        made -= middle
        readouts = (made @ charge) / (made.square() @ curvature + 2 * penalty)[:, None]
        held_made = activation(slopes[:, None] / unit * held_along + biases[:, None]) - middle
        losses = held.loss(held_logits + held_made[:, :, None] * readouts[:, None, :])
        index = int(losses.argmin())
        if best is None or losses[index] < best.loss:
            best = _Node(slopes[index] / unit * direction, biases[index], readouts[index], float(losses[index]))
    return best


def _rows(states: Tensor, weighted: Tensor) -> _Rows:
    weight = weighted.sum(1)
    return _Rows(states, weighted / weight[:, None], weight / weight.sum())
