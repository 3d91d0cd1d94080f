"""Ridge regression from streamed sums, its strength chosen on held-out rows."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from compressor.model.capture import LayerCall, Place, apply_layer, recorded

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried, in multiples of the mean squared activation; held-out rows choose among them."""


@dataclass
class NormalEquations:
    """Weighted sums for the ridge regression of R [N, H] on [phi, 1] [N, F + 1], kept in float64; one pass, any N.

    `gram` [F + 1, F + 1] and `cross` [F + 1, H] are plain zeros before the first rows come.
    """

    gram: Tensor | float = 0.0
    cross: Tensor | float = 0.0
    energy: float = 0.0
    weight: float = 0.0

    def add(self, phi: Tensor, wanted: Tensor, weight: Tensor, *, bias: bool = True) -> None:
        """Add rows: phi [N, F], wanted [N, H], weight [N]; products are taken in their precision, which no ridge notices.

        Of a map without `bias` the last column is 0 in place of 1, and so is all that is found of it.
        """
        root = weight.double().sqrt().to(phi.dtype)[:, None]
        last = phi.new_full((len(phi), 1), float(bias))
        phi, wanted = torch.cat([phi, last], dim=1) * root, wanted.to(phi.dtype) * root
        self.gram = _plus(self.gram, phi.T @ phi)
        self.cross = _plus(self.cross, phi.T @ wanted)
        self.energy += float(wanted.double().square().sum())
        self.weight += float(weight.double().sum())

    def error(self, change: Tensor) -> float:
        """Return the weighted mean square of R - [phi, 1] D for a change D [F + 1, H]."""
        squares = (change * (self.gram @ change)).sum() - 2 * (change * self.cross).sum()
        return (self.energy + float(squares)) / self.weight

    def solve(self, strength: float) -> Tensor:
        """Return the change D [F + 1, H] that ridge regression asks for, shrunk towards no change."""
        return torch.cholesky_solve(self.cross, torch.linalg.cholesky(penalised(self.gram, strength * self.size())))

    def condition(self, strength: float) -> float:
        """Return the condition number of the penalised system; 1 where there is nothing but the bias."""
        if len(self.gram) == 1:
            return 1.0
        values = torch.linalg.eigvalsh(self.gram[:-1, :-1])
        floor = strength * self.size()
        return float((values[-1] + floor) / (values[0].clamp_min(0) + floor))

    def size(self) -> float:
        """Return the mean squared activation (times the weight of all rows); 0 where there is none."""
        return float(self.gram.diagonal()[:-1].mean()) if len(self.gram) > 1 else 0.0


@dataclass(frozen=True)
class Solution:
    """The change D [F + 1, H] of a linear map that was found best on held-out rows.

    `strength` is None, and the change 0, where none lowers the error; `condition` is that of the best system tried.
    """

    change: Tensor
    strength: float | None
    error_before: float
    error_after: float
    condition: float


def _plus(total: Tensor | float, part: Tensor) -> Tensor:
    """Return float64 sums with `part` added, in their place behind the first; NumPy casts as it adds, PyTorch a copy before."""
    if isinstance(total, float):
        return part.double()
    if total.device.type == "cpu":
        np.add(total.numpy(), part.numpy(), out=total.numpy())
        return total
    return total.add_(part)


def penalised(gram: Tensor, penalty: float) -> Tensor:
    """Return the gram [F + 1, F + 1] with the penalty on its diagonal; the bias moves freely, or not at all if there is none."""
    ridge = torch.full((len(gram),), penalty, dtype=gram.dtype, device=gram.device)
    ridge[-1] = (gram[-1, -1] == 0).to(gram)
    return gram + torch.diag(ridge)


def solve_held_out(fit: NormalEquations, held: NormalEquations) -> Solution:
    """Return the change of the strength with the lowest held-out error; no change if that is not below the error of none."""
    none = torch.zeros_like(fit.cross)
    before = held.error(none)
    changes = {strength: fit.solve(strength) for strength in STRENGTHS}
    errors = {strength: held.error(change) for strength, change in changes.items()}
    best = min(errors, key=lambda strength: errors[strength])
    condition = fit.condition(best)
    if not errors[best] < before:
        return Solution(none, None, before, before, condition)
    return Solution(changes[best], best, before, errors[best], condition)


def add_to(output: nn.Linear, change: Tensor, scale: Tensor | None = None) -> None:
    """Add a change [F + 1, H], found in units of `scale` [H] (None: 1), to a linear map in place."""
    if scale is not None:
        scale = scale.double()
        # where the scale is next to nothing the norm hides the dimension, and dividing by it would ask for the impossible
        seen = scale.abs() > 1e-3 * scale.abs().mean()
        change = torch.where(seen, change / torch.where(seen, scale, 1.0), 0.0)
    output.weight += change[:-1].T.to(output.weight)
    if output.bias is not None:
        output.bias += change[-1].to(output.bias)


def token_weights(call: LayerCall, cls_weight: float) -> Tensor:
    """Return what each token of a batch counts, float64 [B, S]: [CLS] `cls_weight`, others 1, padding 0."""
    weight = call.mask.to(call.hidden.device).double()
    weight[:, 0] *= cls_weight
    return weight


def entering(layer: nn.Module, call: LayerCall, before: Tensor, **places: str | Place) -> dict[str, Tensor]:
    """Return by key what passes `places` inside a layer, or enters the module of that name, where it runs on states `before`."""
    found = {key: (place, True) if isinstance(place, str) else place for key, place in places.items()}
    with recorded(layer, **found) as seen:
        apply_layer(layer, [call], [before])
    return seen
