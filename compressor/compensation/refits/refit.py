"""Closed-form refit of the maps that end a layer's blocks, so that a kept layer lands where the full model would be.

No labels, no gradients, no new parameter: behind a gap of skipped layers the model should be where the full model was.
BERT's layers end in `LayerNorm(v)`, v = a + W_2 phi + b_2, with a the attention output and phi the activations inside the
feed-forward block. The refit changes W_2 and b_2 alone, by ridge regression over the tokens of unlabelled text. A layer
that has lost a part of itself has its own gap to close; one without any feed-forward block is refitted where it ends (`ends`).
Where both blocks are asked for, the output map of attention is refitted first, towards the state that the full model has
behind that layer's attention.

In a pre-norm family no norm stands behind the sum v = a + W_2 phi: it goes on as it is, and the regression is of G - v itself
(`add_regression`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.compensation.refits.ends import refit_end
from compressor.compensation.refits.equations import NormalEquations, Solution, add_to, entering, solve_held_out
from compressor.compensation.refits.norms import refit_norm_to
from compressor.model.capture import LayerCall, Place, apply_layer, attended_place, recorded, sum_place
from compressor.model.families import Family, layer_list
from compressor.model.states.reading import reads_first
from compressor.model.sublayers import attends, shape_of
from compressor.model.surgery import is_convolved
from compressor.progress import Track, silent
from compressor.recipe.training import RefitSpec

EPSILON = 1e-6
"""Added to the variance of a state that a token's weight is taken from, so that none is infinite."""


@dataclass(frozen=True)
class Refit:
    """What was done at one layer; errors are weighted mean squares of what the norm's input lacks, on held-out rows.

    `layer` is the kept layer in the numbers of the full model, `block` that whose output map was refitted; `target` the state
    that it should reach (of attention: the one inside the layer behind it). `strength` is None where no refit lowered the
    held-out error, and the layer stayed as it was. `width` counts its neurons; without any, its end was refitted, and errors
    are those behind the norm, summed over dimensions; so are those of attention that is gone, where only its norm is left.
    """

    layer: int
    target: int
    rows: int
    strength: float | None
    error_before: float
    error_after: float
    condition: float
    width: int
    block: Literal["attention", "ffn"] = "ffn"


@torch.no_grad()
def refit_gaps(
    teacher: nn.Module,
    student: nn.Module,
    family: Family,
    keep: Sequence[int],
    calls: Sequence[LayerCall],
    spec: RefitSpec,
    *,
    track: Track = silent,
) -> list[Refit]:
    """Refit `student` in place, from the first layer to the last: student states in, the teacher's states as targets.

    `keep` are the full model's layers (from 1) that the student has; `calls` those of `fit_calls` on unlabelled text.
    With `spec.layers: gaps` only layers in front of a gap, and those that have not the full model's shape, are refitted,
    with `later` every layer from the first of these on. Layers skipped before the first kept one have nothing in front of
    them to refit, and a layer with a convolution behind it stays as it is. The states of both models go from layer to layer
    with the loop, so every layer runs once (where its end is refitted, four times); beside `calls`, memory is twice the state
    of all tokens.
    """
    full, kept = list(layer_list(teacher, family)), list(layer_list(student, family))
    reach = reached_states(keep, len(full))
    shapes = shape_of(teacher, family), shape_of(student, family)
    whole, left = (list(zip(shape.ffn_widths, shape.heads, strict=True)) for shape in shapes)
    chosen = [i for i, layer in enumerate(keep) if reach[i] > layer or left[i] != whole[layer - 1]]
    if chosen and spec.layers == "later":
        chosen = list(range(chosen[0], len(keep)))
    # what leaves a convolution is no linear map of what its layer's output map reads
    chosen = [i for i in chosen if not is_convolved(kept[i])]
    both = spec.blocks == "both"
    cls_weight = spec.cls_weight if reads_first(student.config.to_dict()) else 1.0
    done: list[Refit] = []
    rows = sum(len(call.rows) for call in calls)
    wanted_states, states = ([call.hidden for call in calls] for _ in range(2))
    depth = 0
    for index in range(chosen[-1] + 1 if chosen else 0):
        layer, width = kept[index], kept[index].get_submodule(family.ffn_output).in_features
        attended: list[Tensor | None] = []
        for number, call in enumerate(track(calls, f"refit: layer {keep[index]}", total=len(calls))):
            with recorded(full[keep[index] - 1], attended=attended_place(family)) as seen:
                for other in full[depth : reach[index]]:
                    wanted_states[number] = apply_layer(other, [call], [wanted_states[number]])[0]
            attended.append(seen.get("attended"))
        depth = reach[index]
        if index in chosen and both and width:  # without neurons `refit_end` has the attention output, too
            made = refit_attention(layer, family, calls, states, attended, cls_weight)
            done.append(Refit(keep[index], keep[index], rows, *_numbers(made), width, "attention"))
        if index in chosen and width:
            sums = NormalEquations(), NormalEquations()
            for number, call in enumerate(calls):
                add_regression(sums, layer, family, call, states[number], wanted_states[number], cls_weight)
            done.append(Refit(keep[index], reach[index], rows, *_numbers(refit_output(layer, family, *sums)), width))
        elif index in chosen:
            end = refit_last_sum if family.final_norm else refit_end
            made = end(layer, family, calls, states, wanted_states, cls_weight)
            done.append(Refit(keep[index], reach[index], rows, *_numbers(made), width))
        for number, call in enumerate(calls):
            states[number] = apply_layer(layer, [call], [states[number]])[0]
    return done


def _numbers(made: Solution) -> tuple[float | None, float, float, float]:
    return made.strength, made.error_before, made.error_after, made.condition


def reached_states(keep: Sequence[int], layers: int) -> list[int]:
    """Return the full model's state that each kept layer should lead to: that in front of the next one, or the last."""
    return [*(layer - 1 for layer in keep[1:]), layers]


def refit_output(layer: nn.Module, family: Family, fit: NormalEquations, held: NormalEquations) -> Solution:
    """Refit the feed-forward output of a layer in place, if that lowers the held-out error of `add_regression`."""
    found = solve_held_out(fit, held)
    if found.strength is not None:
        gamma = None if family.final_norm else layer.get_submodule(family.ffn_norm).weight
        add_to(layer.get_submodule(family.ffn_output), found.change, gamma)
    return found


def refit_attention(
    layer: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> Solution:
    """Refit the attention output of a layer in place towards the states `wanted` [B, S, H] behind its attention norm.

    `before` are the states in front of the layer, by batch. Of attention that is gone the norm is refitted. In a pre-norm
    family there is none, and `wanted` are the sums themselves.
    """
    place = sum_place(family, attention=True)
    if family.final_norm:
        return _refit_sum(layer, family, calls, before, wanted, cls_weight, place)
    norm = layer.get_submodule(family.attention_norm)
    if not attends(layer, family):
        usual, reached = refit_norm_to(layer, family.attention_norm, calls, before, wanted, cls_weight)
        return Solution(norm.weight.new_zeros(0), 0.0 if reached < usual else None, usual, reached, 1.0)
    return _refit_sum(layer, family, calls, before, wanted, cls_weight, place, norm.weight)


def refit_last_sum(
    layer: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> Solution:
    """Refit the attention output of a pre-norm layer without a feed-forward block in place, towards `wanted` behind the layer."""
    return _refit_sum(layer, family, calls, before, wanted, cls_weight, sum_place(family, attention=False))


def _refit_sum(
    layer: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    before: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
    place: Place,
    gamma: Tensor | None = None,
) -> Solution:
    """Refit the attention output of a layer in place, so that the sum at `place` comes nearest to what leads to `wanted`.

    `gamma` is that of the norm over the sum; None where there is none behind it (pre-norm).
    """
    sums = NormalEquations(), NormalEquations()
    for call, states, target in zip(calls, before, wanted, strict=True):
        add_regression(sums, layer, family, call, states, target, cls_weight, (family.attention_output, place))
    found = solve_held_out(*sums)
    if found.strength is not None:
        add_to(layer.get_submodule(family.attention_output), found.change, gamma)
    return found


def add_regression(
    sums: tuple[NormalEquations, NormalEquations],
    layer: nn.Module,
    family: Family,
    call: LayerCall,
    before: Tensor,
    target: Tensor,
    cls_weight: float,
    places: tuple[str, Place] | None = None,
) -> None:
    """Add phi [N, F], what v [N, H] lacks in units of gamma, and the weight [N] of every token that is not padding.

    `sums` are those of rows that are fitted and held out; `places` the output map that phi enters and where v is seen; None
    for those of the feed-forward block.

    The layer's norm gives gamma (v - mu) / sigma + beta, so that it yields the target G where v is
    `u* = sigma (G - beta) / gamma + mu`, with v's own mu and sigma. What is wanted is gamma (u* - v), and a token weighs
    1 / sigma^2: squares are then those of the state behind the norm, and a dimension that gamma hides counts for little.

    Without a norm behind it (pre-norm) v is to be G. Every norm that reads the stream later on divides a token by the
    deviation of its state, so a token weighs 1 / sigma^2 of G. Each of these norms, the final one that the head reads
    included, has a gamma of its own; none of them is put on the dimensions, which are solved for one by one anyway.
    """
    output, place = places or (family.ffn_output, sum_place(family, attention=False))
    seen = entering(layer, call, before, phi=output, v=place)
    v, target = seen["v"].float(), target.float()
    if family.final_norm:
        wanted, variance = target - v, target.var(-1, correction=0, keepdim=True) + EPSILON
    else:
        norm = layer.get_submodule(place[0])
        mu, variance = v.mean(-1, keepdim=True), v.var(-1, correction=0, keepdim=True) + norm.eps
        wanted = variance.sqrt() * (target - norm.bias) + norm.weight * (mu - v)
    weight = 1 / variance[..., 0]
    weight[:, 0] *= cls_weight
    kept = call.mask.to(v.device).bool()
    bias = layer.get_submodule(output).bias is not None
    sums[call.held].add(seen["phi"][kept], wanted[kept], weight[kept], bias=bias)
