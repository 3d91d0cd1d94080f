"""The compensation head: a few nodes on the final [CLS] state, folded exactly into the family's stock head."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressor.compensation.readout import Activation, linear_nodes, newton_readouts
from compressor.errors import UserError
from compressor.model.families import Family
from compressor.model.states.reading import head_logits, head_nodes
from compressor.progress import Track, silent
from compressor.recipe.training import HeadSpec

START_SLOPE = 5.0
"""Training starts from the linear readout, its nodes this much steeper than those of the readout alone."""
LBFGS_STEPS = 5
"""Quasi-Newton steps between two looks at the selection loss."""


@dataclass(frozen=True)
class Head:
    """`W2 act(W1 (z - mean) / deviation + b1) + b2` for z [N, H]: W1 [n, H], b1 [n], W2 [C, n], b2 [C], float64."""

    mean: Tensor
    deviation: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor

    def logits(self, states: Tensor, activation: Activation) -> Tensor:
        """Return the logits [N, C] of states [N, H]."""
        inputs = (states.double() - self.mean) / self.deviation
        return _forward(inputs, self.w1, self.b1, self.w2, self.b2, activation)


@dataclass(frozen=True)
class HeadFit:
    """A trained head and how it came about; losses are mean cross-entropies in nats on the selection split.

    For the gradient trainer the first epoch is the linear readout that training starts from.
    """

    head: Head
    epochs: int
    best_epoch: int
    selection_loss: tuple[float, ...]
    class_weights: tuple[float, ...] | None


def fit_head(
    states: Tensor,
    targets: Tensor,
    selection_states: Tensor,
    selection_targets: Tensor,
    spec: HeadSpec,
    activation: Activation,
    *,
    seed: int = 0,
    track: Track = silent,
) -> HeadFit:
    """Train a head of `spec.nodes` nodes; the epoch with the lowest selection loss wins.

    states [N, H], targets [N, C] (probabilities; one-hot for gold labels), the same for the selection split.
    """
    check_nodes(spec.nodes, states.shape[1])
    mean, deviation = standardisation(states)
    inputs, selection = [(part.double() - mean) / deviation for part in (states, selection_states)]
    wanted, held, class_weights = weighted_targets(targets, selection_targets, spec)
    generator = torch.Generator().manual_seed(seed)
    parameters = _start(inputs, wanted, selection, held, spec, activation, generator)

    def loss(rows: Tensor, row_targets: Tensor) -> Tensor:
        log_p = _forward(rows, *parameters, activation).log_softmax(1)
        return -(row_targets * log_p).sum() / row_targets.sum()

    def penalised(rows: Tensor | slice) -> Tensor:
        return loss(inputs[rows], wanted[rows]) + spec.weight_decay * sum(p.square().sum() for p in parameters[::2])

    step = OPTIMIZERS[spec.optimizer](parameters, penalised, len(inputs), spec, generator)
    history: list[float] = []
    best, best_epoch = [p.detach().clone() for p in parameters], 0
    for epoch in track(range(1, spec.epochs + 1), "head", total=spec.epochs):
        if epoch > 1:  # the first look is at the readout that training starts from
            step()
        with torch.no_grad():
            history.append(float(loss(selection, held)))
        if not math.isfinite(history[-1]):
            raise UserError(f"compensation.head: training diverged in epoch {epoch}; lower compensation.head.lr.")
        if history[-1] <= min(history):
            best, best_epoch = [p.detach().clone() for p in parameters], epoch
        if epoch - best_epoch >= spec.patience:
            break
    return HeadFit(Head(mean, deviation, *best), len(history), best_epoch, tuple(history), class_weights)


def _start(
    inputs: Tensor,
    targets: Tensor,
    selection: Tensor,
    selection_targets: Tensor,
    spec: HeadSpec,
    activation: Activation,
    generator: torch.Generator,
) -> list[Tensor]:
    """Return the parameters that training starts from: the linear readout in the first nodes, the others at random.

    The others have no say at first (their column of W2 is 0), so training begins near the readout, that of the ridge
    strength with the lowest selection loss; its nodes are steeper, so that they can bend.
    """
    _, weight, bias = min(
        newton_readouts(inputs, targets),
        key=lambda readout: cross_entropy(selection @ readout[1] + readout[2], selection_targets),
    )
    nodes = linear_nodes(inputs, weight, bias, spec.nodes, activation, steeper=START_SLOPE)
    used, hidden, classes = len(nodes[0]), inputs.shape[1], targets.shape[1]
    w1 = torch.randn(spec.nodes, hidden, generator=generator, dtype=torch.float64) * hidden**-0.5
    b1, w2, b2 = (torch.zeros(shape, dtype=torch.float64) for shape in (spec.nodes, (classes, spec.nodes), classes))
    w1[:used], b1[:used], w2[:, :used], b2[:] = nodes
    return [parameter.requires_grad_() for parameter in (w1, b1, w2, b2)]


def standardisation(states: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean [H], deviation [H]) of states [N, H], in float64; no deviation is below their root mean square.

    BERT's final [CLS] has dimensions that hardly vary. Divided by their own deviation they would get weights hundreds of
    times those of the stock head, and the folded head would magnify the rounding of int8 and fp16 files.
    """
    variance, mean = torch.var_mean(states.double(), 0, correction=0)
    return mean, variance.sqrt().clamp_min(float(variance.mean().sqrt().clamp_min(1e-6)))


def check_nodes(nodes: int, hidden: int) -> None:
    """Raise UserError where the head has more nodes than the stock head it folds into has rows."""
    if nodes > hidden:
        raise UserError(
            f"compensation.head.nodes: {nodes} nodes do not fit into a head of width {hidden}; use 4 to 16."
        )


def head_states(model: nn.Module, family: Family, states: Tensor) -> tuple[Tensor, Activation]:
    """Return what a head is fitted to, of what the stock head reads [N, H], and the activation of its nodes.

    Where a norm spans all nodes of the stock head, a few nodes of another would not stay what they are behind it. There the
    stock head keeps its nodes, and a head without an activation takes the place of its second map; so it does where the stock
    head is one map alone.
    """
    if not family.dense:
        return states, nn.Identity()
    if not family.head_norm:
        return states, family.activation
    with torch.inference_mode():
        return head_nodes(model, family, states.to(model.device).float()).cpu(), nn.Identity()


def fold_head(model: nn.Module, family: Family, head: Head) -> None:
    """Write `head` into the model's stock head, in place.

    Rows 0..n-1 of the dense map become W1 / deviation with bias b1 - W1 (mean / deviation); its other rows become 0 and
    columns 0..n-1 of the output map W2, so whatever the activation makes of the other rows meets a weight of 0. Where a
    norm spans the nodes or there is no dense map (`head_states`), the output map becomes W2 W1 / deviation.
    """
    dense, output = model.get_submodule(family.dense), model.get_submodule(family.output)
    nodes = len(head.b1)
    with torch.no_grad():
        if family.head_norm or not family.dense:
            weight = head.w2 @ head.w1 / head.deviation
            output.weight.copy_(weight.to(output.weight))
            output.bias.copy_((head.b2 + head.w2 @ head.b1 - weight @ head.mean).to(output.bias))
            return
        for parameter in (dense.weight, dense.bias, output.weight):
            parameter.zero_()
        scaled = head.w1 / head.deviation
        dense.weight[:nodes] = scaled.to(dense.weight)
        dense.bias[:nodes] = (head.b1 - scaled @ head.mean).to(dense.bias)
        output.weight[:, :nodes] = head.w2.to(output.weight)
        output.bias.copy_(head.b2.to(output.bias))


def fold_error(model: nn.Module, family: Family, head: Head, states: Tensor) -> float:
    """Return the largest logit difference between the folded stock head (float32) and `head` (float64) on states [N, H]."""
    with torch.inference_mode():
        folded = head_logits(model, family, states.to(model.device).float()).double().cpu()
    return float((folded - head.logits(*head_states(model, family, states.cpu()))).abs().max())


def weighted_targets(
    targets: Tensor, selection_targets: Tensor, spec: HeadSpec
) -> tuple[Tensor, Tensor, tuple[float, ...] | None]:
    """Return both targets [N, C] in float64, times the class weights that `spec` asks for, and these weights, if any."""
    weights = balanced_weights(targets.double(), spec)
    if weights is None:
        return targets.double(), selection_targets.double(), None
    return targets.double() * weights, selection_targets.double() * weights, tuple(weights.tolist())


def balanced_weights(targets: Tensor, spec: HeadSpec) -> Tensor | None:
    """Return class weights [C] inverse to the class shares, or None where `spec` or balance asks for none.

    Weights on teacher targets would move the boundary away from the teacher's, so `auto` never weighs those. The classes
    that are there share the weight among themselves; one without half a row keeps the weight 1: nothing is known of it.
    """
    share = targets.mean(0)
    there = share > 1 / (2 * len(targets))
    unbalanced = float(share[there].min()) < 0.5 / int(there.sum())
    if spec.class_weights == "balanced" or (spec.class_weights == "auto" and spec.targets == "gold" and unbalanced):
        return torch.where(there, 1 / (there.sum() * share), 1.0)
    return None


def cross_entropy(logits: Tensor, targets: Tensor, class_weights: Sequence[float] | None = None) -> float:
    """Return the (weighted) mean cross-entropy in nats of logits [N, C] against target probabilities [N, C]."""
    weighted = targets if class_weights is None else targets * torch.tensor(class_weights, dtype=targets.dtype)
    return float(-(weighted * logits.double().log_softmax(1)).sum() / weighted.sum())


def soft_targets(logits: np.ndarray) -> Tensor:
    """Return the softmax of teacher logits [N, C]."""
    return torch.from_numpy(logits).double().softmax(1)


def hard_targets(labels: np.ndarray, classes: int) -> Tensor:
    """Return one-hot targets [N, C] of gold labels [N]."""
    return nn.functional.one_hot(torch.from_numpy(labels), classes).double()


def _forward(inputs: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, activation: Activation) -> Tensor:
    return activation(inputs @ w1.T + b1) @ w2.T + b2


Penalised = Callable[[Tensor | slice], Tensor]
"""Rows of the fit -> their penalised loss."""


def _adamw(
    parameters: list[Tensor], penalised: Penalised, count: int, spec: HeadSpec, generator: torch.Generator
) -> Callable[[], None]:
    # the penalty is in the loss, as for lbfgs, so that both trainers minimise the same function
    optimizer = torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=0.0)

    def epoch() -> None:
        for rows in torch.randperm(count, generator=generator).split(64):
            optimizer.zero_grad()
            penalised(rows).backward()
            optimizer.step()

    return epoch


def _lbfgs(
    parameters: list[Tensor], penalised: Penalised, _count: int, _spec: HeadSpec, _generator: torch.Generator
) -> Callable[[], None]:
    optimizer = torch.optim.LBFGS(parameters, max_iter=LBFGS_STEPS, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = penalised(slice(None))
        value.backward()
        return value

    return lambda: optimizer.step(closure) and None


OPTIMIZERS: dict[str, Callable[..., Callable[[], None]]] = {"adamw": _adamw, "lbfgs": _lbfgs}
"""Optimizer name -> function that returns one epoch of training; keys = HeadSpec.optimizer."""
