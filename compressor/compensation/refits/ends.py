"""Closed-form refit of a layer that has no feed-forward block: of the norm it ends in and of its attention output.

Such a layer is `LN_2(LN_1(h + W_o c + b_o) + b)` for its input h and the attention's context c. LN_2's scale and shift are
least squares. W_o is a ridge regression through both norms, each taken at its present mean and deviation: LN_2 asks for a
change of what enters it as in `refit.regression`, and LN_1 turns a change of its input, times gamma_1 / sigma_1, into that.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressor.compensation.refits.equations import (
    NormalEquations,
    Solution,
    add_to,
    is_held_out,
    solve_held_out,
    token_weights,
)
from compressor.compensation.refits.norms import NormSums, refit_norm
from compressor.model.capture import LayerCall, apply_layer, recorded
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
    weighted mean squares behind the norm on held-out batches, summed over dimensions; `strength` is that of the attention
    output, 0 if the norm alone was refitted.
    """
    norm, output = layer.get_submodule(family.ffn_norm), layer.get_submodule(family.attention_output)
    usual, reached = _refit_last_norm(layer, family, calls, before, wanted, cls_weight)
    strength = 0.0 if reached < usual else None
    if not attends(layer, family):
        return Solution(output.weight.new_zeros(0), strength, usual, reached, 1.0)
    sums = [NormalEquations.empty(output.in_features, output.out_features, output.bias.device) for _ in range(2)]
    for number, call in enumerate(calls):
        sums[is_held_out(number)].add(*_regression(layer, family, call, before[number], wanted[number], cls_weight))
    found = solve_held_out(*sums)
    if found.strength is not None:
        parameters = output.weight, output.bias, norm.weight, norm.bias
        as_was = [parameter.clone() for parameter in parameters]
        add_to(output, found.change, layer.get_submodule(family.attention_norm).weight * norm.weight)
        _, after = _refit_last_norm(layer, family, calls, before, wanted, cls_weight)
        if after < reached:
            return Solution(found.change, found.strength, usual, after, found.condition)
        for parameter, value in zip(parameters, as_was, strict=True):
            parameter.copy_(value)
    return Solution(found.change, strength, usual, reached, found.condition)


def _refit_last_norm(
    layer: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> tuple[float, float]:
    norm = layer.get_submodule(family.ffn_norm)
    sums = [NormSums.empty(len(norm.weight), norm.weight.device) for _ in range(2)]
    for number, call in enumerate(calls):
        with recorded(layer, inputs={"v": family.ffn_norm}) as seen:
            apply_layer(layer, [call], [before[number]])
        weight = token_weights(call, cls_weight)
        kept = weight > 0
        sums[is_held_out(number)].add(seen["v"][kept], wanted[number][kept], weight[kept], norm.eps)
    return refit_norm(norm, *sums)


def _regression(
    layer: nn.Module, family: Family, call: LayerCall, before: Tensor, target: Tensor, cls_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return contexts [N, H], what the sum in front of LN_1 lacks in units of gamma_1 gamma_2, and the tokens' weights."""
    norm = layer.get_submodule(family.ffn_norm)
    with recorded(
        layer, inputs={"context": family.attention_output, "sum": family.attention_norm, "v": family.ffn_norm}
    ) as seen:
        apply_layer(layer, [call], [before])
    v = seen["v"].float()
    mean, deviation = v.mean(-1, keepdim=True), _deviation(v, norm.eps)
    first = _deviation(seen["sum"].float(), layer.get_submodule(family.attention_norm).eps)
    lacking = first * (deviation * (target.float() - norm.bias) + norm.weight * (mean - v))
    weight = token_weights(call, cls_weight) / (first * deviation)[..., 0].double().square()
    kept = weight > 0
    return seen["context"][kept], lacking[kept], weight[kept]


def _deviation(vectors: Tensor, eps: float) -> Tensor:
    return (vectors.var(-1, correction=0, keepdim=True) + eps).sqrt()
