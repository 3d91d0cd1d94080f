"""Closed-form refit of a feed-forward output, so that a kept layer lands where the layers behind it would have led.

No labels, no gradients, no new parameter: behind a gap of skipped layers the model should be where the full model was.
BERT's layers end in `LayerNorm(v)`, v = a + W_2 phi + b_2, with a the attention output and phi the activations inside the
feed-forward block. The refit changes W_2 and b_2 alone, by ridge regression over the tokens of unlabelled text. A layer
that has lost a part of itself has its own gap to close; without any feed-forward block it is b_2 and the norm's scale and
shift that are refitted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressor.compensation.norms import NormSums, refit_norm
from compressor.model.capture import LayerCall, apply_layer, recorded
from compressor.model.families import Family, layer_list
from compressor.model.sublayers import Shape, shape_of
from compressor.progress import Track, silent
from compressor.recipe_training import RefitSpec

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths tried, in multiples of the mean squared activation; held-out rows choose among them."""
HELD_OUT = 5
"""Every fifth batch is held out of the fit."""


@dataclass(frozen=True)
class Refit:
    """What was done at one layer; errors are weighted mean squares of what the norm's input lacks, on held-out rows.

    `layer` is the kept layer whose feed-forward output was refitted, in the numbers of the full model; `target` the state
    it should reach. `strength` is None where no refit lowered the held-out error, and the layer stayed as it was. `width`
    counts its neurons; without any, bias and norm were refitted, `strength` is 0, and errors are those behind the norm,
    summed over dimensions.
    """

    layer: int
    target: int
    rows: int
    strength: float | None
    error_before: float
    error_after: float
    condition: float
    width: int


@dataclass(frozen=True)
class OutputFit:
    """How a feed-forward output was refitted: ridge strength (None: not), held-out errors, condition of the system."""

    strength: float | None
    error_before: float
    error_after: float
    condition: float


@dataclass
class NormalEquations:
    """Weighted sums for the ridge regression of R [N, H] on [phi, 1] [N, F + 1], in float64; one pass, any N."""

    gram: Tensor
    cross: Tensor
    energy: float = 0.0
    weight: float = 0.0

    @classmethod
    def empty(cls, inputs: int, outputs: int, device: torch.device) -> "NormalEquations":
        """Return the sums of no rows."""
        zeros = [
            torch.zeros(inputs + 1, columns, dtype=torch.float64, device=device) for columns in (inputs + 1, outputs)
        ]
        return cls(*zeros)

    def add(self, phi: Tensor, wanted: Tensor, weight: Tensor) -> None:
        """Add rows: phi [N, F], wanted [N, H], weight [N]."""
        phi = torch.cat([phi.double(), torch.ones(len(phi), 1, dtype=torch.float64, device=phi.device)], dim=1)
        weighted, wanted = phi * weight.double()[:, None], wanted.double()
        self.gram += weighted.T @ phi
        self.cross += weighted.T @ wanted
        self.energy += float((weight.double()[:, None] * wanted.square()).sum())
        self.weight += float(weight.double().sum())

    def error(self, change: Tensor) -> float:
        """Return the weighted mean square of R - [phi, 1] D for a change D [F + 1, H]."""
        squares = (change * (self.gram @ change)).sum() - 2 * (change * self.cross).sum()
        return (self.energy + float(squares)) / self.weight

    def solve(self, strength: float) -> Tensor:
        """Return the change D [F + 1, H] that ridge regression asks for, shrunk towards no change."""
        penalty = torch.full((len(self.gram),), strength * self._size(), dtype=torch.float64)
        penalty[-1] = 0.0  # the bias moves freely
        return torch.linalg.solve(self.gram + torch.diag(penalty.to(self.gram.device)), self.cross)

    def condition(self, strength: float) -> float:
        """Return the condition number of the penalised system; 1 where there is nothing but the bias."""
        if len(self.gram) == 1:
            return 1.0
        values = torch.linalg.eigvalsh(self.gram[:-1, :-1])
        floor = strength * self._size()
        return float((values[-1] + floor) / (values[0].clamp_min(0) + floor))

    def _size(self) -> float:
        """Return the mean squared activation (times the weight of all rows); 0 where there is none."""
        return float(self.gram.diagonal()[:-1].mean()) if len(self.gram) > 1 else 0.0


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

    `keep` are the full model's layers (from 1) that the student has; `calls` those of `capture_calls` on unlabelled text.
    With `spec.layers: gaps` only layers in front of a gap, and those that have not the full model's shape, are refitted,
    with `later` every layer from the first of these on. Layers skipped before the first kept one have nothing in front of
    them to refit. The states of both models go from layer to layer with the loop, so every layer runs once (twice, where
    its norm is refitted); beside `calls`, memory is twice the state of all tokens.
    """
    full, kept = list(layer_list(teacher, family)), list(layer_list(student, family))
    reach = reached_states(keep, len(full))
    shapes = shape_of(teacher, family), shape_of(student, family)
    chosen = [i for i, layer in enumerate(keep) if reach[i] > layer or _changed(*shapes, layer - 1, i)]
    if chosen and spec.layers == "later":
        chosen = list(range(chosen[0], len(keep)))
    done: list[Refit] = []
    wanted_states, states = ([call.hidden for call in calls] for _ in range(2))
    depth = 0
    for index in range(chosen[-1] + 1 if chosen else 0):
        batches = track(range(len(calls)), f"refit: layer {keep[index]}", total=len(calls))
        fit, held = (NormalEquations.empty(*_sizes(kept[index], family), states[0].device) for _ in range(2))
        for number in batches:
            wanted_states[number] = _run(full[depth : reach[index]], calls[number], wanted_states[number])
            if index in chosen:
                part = held if is_held_out(number) else fit
                part.add(
                    *regression(
                        kept[index], family, calls[number], states[number], wanted_states[number], spec.cls_weight
                    )
                )
        depth = reach[index]
        if index in chosen:
            rows = sum(len(call.rows) for call in calls)
            width = len(fit.gram) - 1
            if width:
                made = refit_output(kept[index], family, fit, held)
            else:
                made = _refit_end(kept[index], family, fit, held, calls, states, wanted_states, spec.cls_weight)
            numbers = made.strength, made.error_before, made.error_after, made.condition
            done.append(Refit(keep[index], reach[index], rows, *numbers, width))
        for number, call in enumerate(calls):
            states[number] = _run(kept[index : index + 1], call, states[number])
    return done


def reached_states(keep: Sequence[int], layers: int) -> list[int]:
    """Return the full model's state that each kept layer should lead to: that in front of the next one, or the last."""
    return [*(layer - 1 for layer in keep[1:]), layers]


def is_held_out(batch: int) -> bool:
    """Return whether a batch (from 0) is held out of the fit: every fifth one."""
    return batch % HELD_OUT == HELD_OUT - 1


def refit_output(layer: nn.Module, family: Family, fit: NormalEquations, held: NormalEquations) -> OutputFit:
    """Take the strength with the lowest held-out error, write the change into the layer; none if it does not help."""
    judge = held if held.weight else fit  # a single batch: nothing can be held out
    before = judge.error(torch.zeros_like(fit.cross))
    changes = {strength: fit.solve(strength) for strength in STRENGTHS}
    errors = {strength: judge.error(change) for strength, change in changes.items()}
    best = min(errors, key=lambda strength: errors[strength])
    condition = fit.condition(best)
    if not errors[best] < before:
        return OutputFit(None, before, before, condition)
    gamma = layer.get_submodule(family.ffn_norm).weight.double()
    # where gamma is next to nothing the norm hides the dimension, and dividing by it would ask for the impossible
    seen = gamma.abs() > 1e-3 * gamma.abs().mean()
    change = torch.where(seen, changes[best] / torch.where(seen, gamma, 1.0), 0.0)
    output = layer.get_submodule(family.ffn_output)
    output.weight += change[:-1].T.to(output.weight)
    output.bias += change[-1].to(output.bias)
    return OutputFit(best, before, errors[best], condition)


def _refit_end(
    layer: nn.Module,
    family: Family,
    fit: NormalEquations,
    held: NormalEquations,
    calls: Sequence[LayerCall],
    states: Sequence[Tensor],
    wanted: Sequence[Tensor],
    cls_weight: float,
) -> OutputFit:
    """Refit what a layer without a feed-forward block ends in, its bias and then its norm; each only if it helps."""
    output, norm = layer.get_submodule(family.ffn_output), layer.get_submodule(family.ffn_norm)
    ended = [parameter.clone() for parameter in (output.bias, norm.weight, norm.bias)]
    refit_output(layer, family, fit, held)
    moved = output.bias - ended[0]
    as_was, refitted = ([NormSums.empty(len(norm.weight), norm.weight.device) for _ in range(2)] for _ in range(2))
    for number, call in enumerate(calls):
        inside, weight = _entering(layer, family, call, states[number])[1], token_weights(call, cls_weight)
        kept = weight > 0
        for shift, parts in ((moved, as_was), (0.0, refitted)):
            parts[is_held_out(number)].add(inside[kept] - shift, wanted[number][kept], weight[kept], norm.eps)
    judge = as_was[1] if as_was[1].weight else as_was[0]
    error, reached = judge.error(norm.weight, norm.bias), refit_norm(norm, *refitted)[1]
    if reached < error:
        return OutputFit(0.0, error, reached, 1.0)
    for parameter, value in zip((output.bias, norm.weight, norm.bias), ended, strict=True):
        parameter.copy_(value)
    return OutputFit(None, error, error, 1.0)


def regression(
    layer: nn.Module, family: Family, call: LayerCall, before: Tensor, target: Tensor, cls_weight: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return phi [N, F], what v [N, H] lacks in units of gamma, and the weight [N] of every token that is not padding.

    The layer's norm gives gamma (v - mu) / sigma + beta, so that it yields the target G where v is
    `u* = sigma (G - beta) / gamma + mu`, with v's own mu and sigma. What is wanted is gamma (u* - v), and a token weighs
    1 / sigma^2: squares are then those of the state behind the norm, and a dimension that gamma hides counts for little.
    """
    norm = layer.get_submodule(family.ffn_norm)
    phi, v = _entering(layer, family, call, before)
    mu, variance = v.mean(-1, keepdim=True), v.var(-1, correction=0, keepdim=True) + norm.eps
    wanted = variance.sqrt() * (target.float() - norm.bias) + norm.weight * (mu - v)
    weight = 1 / variance[..., 0]
    weight[:, 0] *= cls_weight
    kept = call.mask.to(v.device).bool()
    return phi[kept], wanted[kept], weight[kept]


def _entering(layer: nn.Module, family: Family, call: LayerCall, before: Tensor) -> tuple[Tensor, Tensor]:
    """Return the activations [B, S, F] in front of the feed-forward output, and what enters the last norm [B, S, H]."""
    with recorded(layer, inputs={"phi": family.ffn_output, "v": family.ffn_norm}) as seen:
        apply_layer(layer, [call], [before])
    return seen["phi"], seen["v"].float()


def token_weights(call: LayerCall, cls_weight: float) -> Tensor:
    """Return what each token of a batch counts, float64 [B, S]: [CLS] `cls_weight`, others 1, padding 0."""
    weight = call.mask.to(call.hidden.device).double()
    weight[:, 0] *= cls_weight
    return weight


def _changed(teacher: Shape, student: Shape, layer: int, index: int) -> bool:
    """Return whether the student's layer at `index` has another shape than the teacher's at `layer` (both from 0)."""
    return (student.ffn_widths[index], student.attention[index]) != (
        teacher.ffn_widths[layer],
        teacher.attention[layer],
    )


def _run(layers: Sequence[nn.Module], call: LayerCall, hidden: Tensor) -> Tensor:
    """Return the state behind `layers` for one batch, given that in front of them, [B, S, H]."""
    for layer in layers:
        hidden = apply_layer(layer, [call], [hidden])[0]
    return hidden


def _sizes(layer: nn.Module, family: Family) -> tuple[int, int]:
    output = layer.get_submodule(family.ffn_output)
    return output.in_features, output.out_features
