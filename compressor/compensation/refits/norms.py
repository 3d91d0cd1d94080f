"""Closed-form refit of a norm: the scale gamma and shift beta with which it lands nearest to wanted states."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.compensation.refits.equations import entering, token_weights
from compressor.model.capture import LayerCall


@dataclass
class NormSums:
    """Weighted sums for the least squares of y on [n, 1], dimension by dimension, in float64; one pass, any rows.

    `sums` [5, H]: of n, n^2, y, n y and y^2, for the normalised vector n and the wanted state y; plain 0 before the first.
    """

    sums: Tensor | float = 0.0
    weight: float = 0.0

    def add(self, inside: Tensor, wanted: Tensor, weight: Tensor, eps: float) -> None:
        """Add rows: what enters the norm [N, H], wanted states [N, H], weight [N]."""
        n, y = nn.functional.layer_norm(inside.double(), inside.shape[-1:], eps=eps), wanted.double()
        self.sums += torch.einsum("n,knh->kh", weight.double(), torch.stack([n, n * n, y, n * y, y * y]))
        self.weight += float(weight.double().sum())

    def solve(self) -> tuple[Tensor, Tensor]:
        """Return gamma = cov(n, y) / var(n) and beta = mean(y) - gamma mean(n), each [H]; gamma 0 where n is constant."""
        n, nn_, y, ny, _ = self.sums / self.weight
        variance = nn_ - n * n
        varies = variance > 1e-12 * nn_.clamp_min(1e-300)
        gamma = torch.where(varies, (ny - n * y) / torch.where(varies, variance, 1.0), 0.0)
        return gamma, y - gamma * n

    def error(self, gamma: Tensor, beta: Tensor) -> float:
        """Return the weighted mean square of y - (gamma n + beta), a sum over dimensions."""
        n, nn_, y, ny, yy = self.sums / self.weight
        gamma, beta = gamma.double(), beta.double()
        squares = yy - 2 * gamma * ny - 2 * beta * y + gamma.square() * nn_ + 2 * gamma * beta * n + beta.square()
        return float(squares.sum())


@torch.no_grad()
def refit_norm(norm: nn.LayerNorm, fit: NormSums, held: NormSums) -> tuple[float, float]:
    """Write the scale and shift that `fit` asks for into `norm` if that lowers the error on `held`.

    Returns the errors before and after, on held-out rows.
    """
    gamma, beta = fit.solve()
    before, after = held.error(norm.weight, norm.bias), held.error(gamma, beta)
    if not after < before:
        return before, before
    norm.weight.copy_(gamma)
    norm.bias.copy_(beta)
    return before, after


def refit_norm_to(
    layer: nn.Module,
    name: str,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> tuple[float, float]:
    """Do the same for the norm `name` inside a layer, towards the states `wanted` behind it.

    `before` are the states in front of the layer; both [B, S, H], by batch.
    """
    norm, sums = layer.get_submodule(name), (NormSums(), NormSums())
    for call, states, target in zip(calls, before, wanted, strict=True):
        weight = token_weights(call, cls_weight)
        kept = weight > 0
        sums[call.held].add(entering(layer, call, states, v=name)["v"][kept], target[kept], weight[kept], norm.eps)
    return refit_norm(norm, *sums)
