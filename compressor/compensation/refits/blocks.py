"""Stand-ins for layers that lose a part: what is left is refitted in closed form to what the whole layer gives.

A part is "ffn" (no feed-forward block), "attention" (no attention block) or "ffn:384" (384 of its neurons). No labels, no
gradients: the calibration text runs through the full model once, and each stand-in is fitted from the state in front of
its layer to the state behind it.

- What goes leaves its mean as a bias: the part of a block that is the same for all tokens costs nothing to keep.
- The norm behind gets the scale and shift that fit best. Of the other block the map out is solved anew: of the attention
  where the feed-forward block went, and of that where the attention went.
- A narrower block keeps the neurons that matter most and all whose weights stand out, and its output map is solved anew.
"""

import copy
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.compensation.refits.ends import refit_end
from compressor.compensation.refits.equations import NormalEquations, token_weights
from compressor.compensation.refits.norms import refit_norm_to
from compressor.compensation.refits.refit import refit_output, regression
from compressor.compensation.refits.widths import BlockSums, best_ridge, mean_change, ranked_neurons
from compressor.errors import UserError
from compressor.model.capture import LayerCall, apply_layer, recorded
from compressor.model.families import Family, layer_list
from compressor.model.neurons import specialists
from compressor.model.sublayers import attends, cut_attention, cut_ffn
from compressor.model.units import ATTENTION, FFN, neurons_left
from compressor.progress import Track, silent


@dataclass(frozen=True)
class Variant:
    """A stand-in for a layer, and how far it is from the whole layer's output on held-out text.

    Errors are weighted mean squares of the distance between the outputs of both, summed over dimensions: with the part cut
    out and nothing else, with its mean as bias, and refitted. `made` says which of the three `module` is, unless asked for
    otherwise the one with the lowest error; `strength` is the ridge strength of the linear map that was solved anew, None
    where none was.
    """

    module: nn.Module
    error_cut: float
    error_mean: float
    error_refit: float
    strength: float | None
    made: Literal["cut", "mean", "refit"]


@dataclass(frozen=True)
class _Seen:
    """One layer of the full model on all batches: states [B, S, H] in front, after the attention, and behind."""

    before: list[Tensor]
    attended: list[Tensor]
    after: list[Tensor]
    weights: list[Tensor]
    attention_mean: Tensor
    ffn_mean: Tensor
    sums: BlockSums | None


Steps = tuple[dict[str, nn.Module], float | None]
"""The stand-ins of one part by step (`cut`, `mean`, `refit`), and the ridge strength of the last."""


@torch.no_grad()
def build_variants(
    model: nn.Module,
    family: Family,
    calls: Sequence[LayerCall],
    wanted: Mapping[int, Collection[str]],
    *,
    cls_weight: float = 10.0,
    rank: str = "elimination",
    step: Literal["best", "cut", "mean", "refit"] = "best",
    track: Track = silent,
) -> dict[tuple[int, str], Variant]:
    """Return a stand-in for each layer (from 1) and part that is `wanted`, as (layer, part) -> Variant.

    `calls` are those of `fit_calls` on unlabelled text; what does not lower the error on the rows that are held out there
    is not done. A [CLS] row weighs `cls_weight` times as much as another token. `rank` names the order of
    the neurons (`RANKINGS`), `step` which module is given: the best, or the one asked for. Each layer of the model runs
    once over all batches; beside `calls`, memory is three times the state of all tokens and, for narrower blocks, two
    matrices of F^2 float64. The model stays as it is.
    Raises UserError for parts that a layer does not have.
    """
    layers = list(layer_list(model, family))
    for number, parts in wanted.items():
        for part in parts:
            _check(number, part, layers, family)
    last, made = max((number for number, parts in wanted.items() if parts), default=0), {}
    hidden = [call.hidden for call in calls]
    for number, layer in enumerate(layers[:last], start=1):
        parts = wanted.get(number, ())
        if not parts:
            hidden = apply_layer(layer, calls, hidden)
            continue
        narrow = any(part.startswith(f"{FFN}:") for part in parts)
        batches = track(calls, f"stand-ins: layer {number}", total=len(calls))
        seen = _observe(layer, family, batches, hidden, cls_weight, narrow)
        ranked = ranked_neurons(seen.sums, rank) if seen.sums else None
        for part in parts:
            if part == FFN:
                steps = _without_ffn(layer, family, calls, seen, cls_weight)
            elif part == ATTENTION:
                steps = _without_attention(layer, family, calls, seen, cls_weight)
            else:
                steps = _narrower(layer, family, seen, ranked[: neurons_left(part, len(ranked))])
            made[number, part] = _variant(calls, seen, *steps, step)
        hidden = seen.after
    return made


def _check(number: int, part: str, layers: Sequence[nn.Module], family: Family) -> None:
    if not 1 <= number <= len(layers):
        raise UserError(f"layer {number} does not exist; the model's layers are 1..{len(layers)}.")
    layer = layers[number - 1]
    width, attending = layer.get_submodule(family.ffn_output).in_features, attends(layer, family)
    digits = part.removeprefix(f"{FFN}:")
    narrower = digits != part and digits.isdecimal() and 0 < int(digits) < width
    if not (narrower or (part == FFN and width) or (part == ATTENTION and attending)):
        raise UserError(
            f"layer {number} cannot lose {part!r}: it has {width} feed-forward neurons and "
            f"{'an' if attending else 'no'} attention block; name {FFN}, {ATTENTION} or {FFN}:W with W below the width."
        )


def _observe(
    layer: nn.Module, family: Family, calls: Iterable[LayerCall], hidden: list[Tensor], cls_weight: float, narrow: bool
) -> _Seen:
    """Run the layer over all batches and keep what the stand-ins are fitted to."""
    output, norm = layer.get_submodule(family.ffn_output), layer.get_submodule(family.ffn_norm)
    width, device = output.in_features, output.bias.device
    moments = NormalEquations(), NormalEquations()
    cls, texts = torch.zeros(width, dtype=torch.float64, device=device), 0
    means = torch.zeros(2, output.out_features, dtype=torch.float64, device=device)
    totals, attended, after, weights = [0.0, 0.0], [], [], []
    places = {"attention": family.attention_output, "attended": family.attention_norm, "ffn": family.ffn_output}
    for number, call in enumerate(calls):
        with recorded(layer, {"phi": family.ffn_output}, places) as caught:
            after.append(apply_layer(layer, [call], [hidden[number]])[0])
        attended.append(caught["attended"])
        weight = token_weights(call, cls_weight)
        weights.append(weight)
        kept = weight > 0
        # by the variance that the norm behind divides by: else the few tokens with huge activations make up the mean
        entering = hidden[number] + caught["attention"], caught["attended"] + caught["ffn"]
        counts = [weight / (sums.float().var(-1, correction=0) + norm.eps) for sums in entering]
        if not call.held:
            for row, name in enumerate(("attention", "ffn")):
                means[row] += counts[row][kept] @ caught[name].expand_as(after[-1])[kept].double()
                totals[row] += float(counts[row].sum())
        if narrow:
            phi = caught["phi"][kept]
            moments[call.held].add(phi, phi.new_zeros(len(phi), 0), counts[1][kept])
            if not call.held:
                cls += caught["phi"][:, 0].double().square().sum(0)
                texts += len(call.rows)
    sums = None
    if narrow:
        protected = torch.from_numpy(specialists(layer, family)).to(device)
        sums = BlockSums(*moments, cls / texts, output.weight.detach().T, norm.weight.detach(), protected)
    return _Seen(hidden, attended, after, weights, means[0] / totals[0], means[1] / totals[1], sums)


def _without_ffn(layer: nn.Module, family: Family, calls: Sequence[LayerCall], seen: _Seen, cls_weight: float) -> Steps:
    cut = copy.deepcopy(layer)
    cut_ffn(cut, family, [])
    mean = _with_bias(cut, family.ffn_output, seen.ffn_mean)
    refit = copy.deepcopy(mean)
    strength = refit_end(refit, family, calls, seen.before, seen.after, cls_weight).strength
    return {"cut": cut, "mean": mean, "refit": refit}, strength


def _without_attention(
    layer: nn.Module, family: Family, calls: Sequence[LayerCall], seen: _Seen, cls_weight: float
) -> Steps:
    cut = copy.deepcopy(layer)
    cut_attention(cut, family)
    mean = _with_bias(cut, family.attention_output, seen.attention_mean)
    refit = copy.deepcopy(mean)
    bias = refit.get_submodule(family.attention_output).bias
    inside = (before + bias for before in seen.before)
    refit_norm_to(refit.get_submodule(family.attention_norm), calls, inside, seen.attended, seen.weights)
    sums = NormalEquations(), NormalEquations()
    for number, call in enumerate(calls):
        rows = regression(refit, family, call, seen.before[number], seen.after[number], cls_weight)
        sums[call.held].add(*rows)
    strength = refit_output(refit, family, *sums).strength
    return {"cut": cut, "mean": mean, "refit": refit}, strength


def _narrower(layer: nn.Module, family: Family, seen: _Seen, kept: Tensor) -> Steps:
    kept = kept.sort().values
    cut = copy.deepcopy(layer)
    cut_ffn(cut, family, kept.tolist())
    strength, change = best_ridge(seen.sums, kept)
    mean, refit = copy.deepcopy(cut), copy.deepcopy(cut)
    mean.get_submodule(family.ffn_output).bias += mean_change(seen.sums, kept)[-1].to(seen.sums.output)
    output = refit.get_submodule(family.ffn_output)
    output.weight += change[kept].T.to(output.weight)
    output.bias += change[-1].to(output.bias)
    return {"cut": cut, "mean": mean, "refit": refit}, strength


def _with_bias(layer: nn.Module, name: str, bias: Tensor) -> nn.Module:
    """Return a copy of a layer whose linear map `name` has this bias [H]."""
    made = copy.deepcopy(layer)
    parameter = made.get_submodule(name).bias
    parameter.copy_(bias.to(parameter))
    return made


def _variant(
    calls: Sequence[LayerCall], seen: _Seen, modules: dict[str, nn.Module], strength: float | None, step: str
) -> Variant:
    errors = {name: _error(module, calls, seen) for name, module in modules.items()}
    chosen = min(errors, key=lambda name: errors[name]) if step == "best" else step
    strength = strength if chosen == "refit" else None
    return Variant(modules[chosen], errors["cut"], errors["mean"], errors["refit"], strength, chosen)


def _error(module: nn.Module, calls: Sequence[LayerCall], seen: _Seen) -> float:
    """Return the weighted mean square of what the module's output lacks, on held-out rows."""
    squares = total = 0.0
    for number, call in enumerate(calls):
        if not call.held:
            continue
        found = apply_layer(module, [call], [seen.before[number]])[0]
        apart = (found.double() - seen.after[number].double()).square().sum(-1)
        squares += float((apart * seen.weights[number]).sum())
        total += float(seen.weights[number].sum())
    return squares / total
