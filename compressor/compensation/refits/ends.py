"""Closed-form refit of a layer that has no feed-forward block: of the norm it ends in and of its attention output.

Such a layer is `LN_2(LN_1(h + W_o c + b_o) + b)` for its input h and the attention's context c. LN_2's scale and shift are
least squares. W_o is a ridge regression through both norms, each taken at its present mean and deviation: LN_2 asks for a
change of what enters it as in `refit.add_regression`, and LN_1 turns a change of its input, times gamma_1 / sigma_1, into that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.compensation.refits.equations import (
    NormalEquations,
    Solution,
    add_to,
    entering,
    solve_held_out,
    token_weights,
)
from compressor.compensation.refits.norms import refit_norm_to
from compressor.model.capture import LayerCall
from compressor.model.families import Family
from compressor.model.sublayers import attends


@torch.no_grad()
def refit_end(
    layer: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> Solution:
    """Refit a layer without a feed-forward block in place: norm, attention output, norm; each only if it helps.

    `before` and `wanted` are the states [B, S, H] in front of the layer and those that it should give, by batch. Errors are
    weighted mean squares behind the norm on held-out rows, summed over dimensions; `strength` is that of the attention
    output, 0 if the norm alone was refitted.
    """
    norm, output = layer.get_submodule(family.ffn_norm), layer.get_submodule(family.attention_output)

    def refit_last_norm() -> tuple[float, float]:
        return refit_norm_to(layer, family.ffn_norm, calls, before, wanted, cls_weight)

    usual, reached = refit_last_norm()
    strength = 0.0 if reached < usual else None
    if not attends(layer, family):
        return Solution(output.weight.new_zeros(0), strength, usual, reached, 1.0)
    sums = NormalEquations(), NormalEquations()
    for number, call in enumerate(calls):
        sums[call.held].add(*_regression(layer, family, call, before[number], wanted[number], cls_weight))
    found = solve_held_out(*sums)
    if found.strength is not None:
        parameters = output.weight, output.bias, norm.weight, norm.bias
        as_was = [parameter.clone() for parameter in parameters]
        add_to(output, found.change, layer.get_submodule(family.attention_norm).weight * norm.weight)
        _, after = refit_last_norm()
        if after < reached:
            return Solution(found.change, found.strength, usual, after, found.condition)
        for parameter, value in zip(parameters, as_was, strict=True):
            parameter.copy_(value)
    return Solution(found.change, strength, usual, reached, found.condition)


def _regression(
    layer: nn.Module, family: Family, call: LayerCall, before: Tensor, target: Tensor, cls_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return contexts [N, H], what the sum in front of LN_1 lacks in units of gamma_1 gamma_2, and the tokens' weights."""
    norm = layer.get_submodule(family.ffn_norm)
    places = {"context": family.attention_output, "sum": family.attention_norm, "v": family.ffn_norm}
    seen = entering(layer, call, before, **places)
    v = seen["v"].float()
    mean, deviation = v.mean(-1, keepdim=True), _deviation(v, norm.eps)
    first = _deviation(seen["sum"].float(), layer.get_submodule(family.attention_norm).eps)
    lacking = first * (deviation * (target.float() - norm.bias) + norm.weight * (mean - v))
    weight = token_weights(call, cls_weight) / (first * deviation)[..., 0].double().square()
    kept = weight > 0
    return seen["context"][kept], lacking[kept], weight[kept]


def _deviation(vectors: Tensor, eps: float) -> Tensor:
    return (vectors.var(-1, correction=0, keepdim=True) + eps).sqrt()
