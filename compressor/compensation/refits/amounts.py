"""Layers with fewer heads and neurons, in closed form: which stay at every amount, and the map behind them that makes up best.

An attention block ends in `W_o c + b` for the contexts c of its heads, a feed-forward block in `W_2 phi + b` for the activations
phi of its neurons. From the second moments of [c, 1] and [phi, 1] over unlabelled text, weighted as the norm behind divides,
one elimination a block says in which order its heads or neurons go, and every amount of them is refitted from the same
moments (`widths`). No labels and no gradients; one pass over the text, however much there is, for as many blocks as fit into
memory. In a pre-norm family what a block adds passes on to the final norm, which the head reads: that one stands for all
norms that read it on the way.
"""

from collections.abc import Collection, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.compensation.refits.moments import MOMENTS_BUDGET, Block, groups_of, output_map, text_moments
from compressor.compensation.refits.widths import (
    BlockSums,
    NestedFit,
    change_error,
    cut_change,
    nested_changes,
    ranked_heads,
    ranked_neurons,
)
from compressor.data.batches import Encodings
from compressor.errors import UserError
from compressor.model.capture import check_fit_rows
from compressor.model.families import Family, layer_list
from compressor.model.sublayers import cut_ffn, cut_heads, heads_of, inputs_of, shape_of
from compressor.model.units import ATTENTION, FFN, HEADS, has_part, heads_left, neurons_left, pieces
from compressor.progress import Track, silent

Piece = tuple[int, str]
"""(layer from 1, what goes of one of its blocks: `attention`, `heads:K`, `ffn` or `ffn:W`)."""
NOTHING_KNOWN: Mapping = MappingProxyType({})


@dataclass(frozen=True)
class Amount:
    """One amount of one block: the heads or neurons `kept` (from 0), and the output map behind them.

    They are the first of `order`, in which all of the block stay, whatever is asked for.
    `weight` [H, inputs kept] and `bias` [H] replace the output map. Errors are weighted mean squares behind the norm on
    held-out text, summed over dimensions: with the rest cut out and nothing else, with its mean as bias, and as it is here,
    refitted with ridge `strength`, or where that is None with the mean as bias. A map without bias (None) gets none, so that
    nothing stands for the mean.
    """

    kept: tuple[int, ...]
    order: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None
    strength: float | None
    error_cut: float
    error_mean: float
    error_refit: float


@dataclass(frozen=True)
class Known:
    """What is kept of the fits of a block, enough to make its amounts again at the price of a solution each.

    The `order` in which its heads or neurons stay, and how many stay -> the `figures` of that amount: strength and errors.
    """

    order: tuple[int, ...]
    figures: Mapping[int, Mapping[str, float | None]]


class NarrowLayers(Mapping[tuple[int, str], nn.Module]):
    """(layer, part) -> the layer without that part, its amounts as they were fitted; each is made when it is asked for."""

    def __init__(self, model: PreTrainedModel, family: Family, amounts: Mapping[Piece, Amount]) -> None:
        self._layers, self._family, self._amounts = layer_list(model, family), family, amounts

    def __getitem__(self, key: tuple[int, str]) -> nn.Module:
        number, part = key
        found = [self._amounts[number, piece] if piece else None for piece in pieces(part)]
        return narrowed(self._layers[number - 1], self._family, *found)

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._amounts)

    def __len__(self) -> int:
        return len(self._amounts)


@torch.no_grad()
def narrowed(layer: nn.Module, family: Family, attention: Amount | None, ffn: Amount | None) -> nn.Module:
    """Return a copy of the layer with these amounts of its attention and its feed-forward block; None leaves a block whole."""
    made = deepcopy(layer)
    for cut, place, amount in ((cut_heads, family.attention_output, attention), (cut_ffn, family.ffn_output, ffn)):
        if amount is not None:
            cut(made, family, amount.kept)
            output = made.get_submodule(place)
            if amount.bias is not None:
                output.bias = nn.Parameter(amount.bias.clone(), requires_grad=output.bias.requires_grad)
            if amount.kept:
                output.weight.copy_(amount.weight)
    return made


@torch.no_grad()
def fit_amounts(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    wanted: Mapping[int, Collection[str]],
    *,
    rank: str = "elimination",
    batch_size: int = 32,
    budget: int = MOMENTS_BUDGET,
    known: Mapping[Block, Known] = NOTHING_KNOWN,
    track: Track = silent,
) -> dict[Piece, Amount]:
    """Return the amount of each piece of the parts that are `wanted`: layer (from 1) -> parts (`model/units.py`).

    Every fifth row of `encodings` is held out of the fits, chooses the ridge strengths and gives the errors. `rank` names
    the order of the neurons (`RANKINGS`); of blocks that are `known`, nothing is looked for again. The model stays as it
    is; it runs over the text once, or more often where the moments of its blocks need more than `budget` bytes. Raises
    UserError for fewer than five rows and for parts that a layer does not have.
    """
    check_fit_rows(len(encodings))
    made: dict[Piece, Amount] = {}
    for group in groups_of(model, family, blocks_of(model, family, wanted), budget):
        moments = text_moments(model, family, encodings, group, batch_size=batch_size, track=track)
        made |= solve_amounts(model, family, moments, wanted, rank=rank, known=known, track=track)
    return made


@torch.no_grad()
def solve_amounts(
    model: PreTrainedModel,
    family: Family,
    moments: Mapping[Block, BlockSums],
    wanted: Mapping[int, Collection[str]],
    *,
    rank: str = "elimination",
    known: Mapping[Block, Known] = NOTHING_KNOWN,
    track: Track = silent,
) -> dict[Piece, Amount]:
    """Return the same of the blocks whose `moments` are given; each is asked for once. Raises UserError as `fit_amounts`."""
    blocks, layers, made = _pieces(model, family, wanted), list(layer_list(model, family)), {}
    group = [block for block in blocks if block in moments]
    for block in track(group, "heads and neurons of every block", total=len(group)):
        found, (number, attention) = moments[block], block
        layer, counted = layers[number - 1], heads_left if attention else neurons_left
        each = len(found.output) // heads_of(layer, family) if attention else 1
        fit = known.get(block)
        if fit is not None:
            order = torch.tensor(fit.order, device=found.output.device)
        else:
            order = ranked_heads(found, each) if attention else ranked_neurons(found, rank)
        counts = {piece: counted(piece, len(order)) for piece in blocks[block]}
        bias = layer.get_submodule(output_map(family, attention)).bias
        amounts = _amounts(found, order, each, counts.values(), bias, fit.figures if fit else {})
        owners = range(1, len(layers) + 1) if family.groups_key else [number]
        made |= {(owner, piece): amounts[count] for owner in owners for piece, count in counts.items()}
    return made


def blocks_of(model: PreTrainedModel, family: Family, wanted: Mapping[int, Collection[str]]) -> list[Block]:
    """Return the blocks that the `wanted` parts are fitted from. Raises UserError for parts that a layer does not have."""
    return sorted(_pieces(model, family, wanted))


def _pieces(model: PreTrainedModel, family: Family, wanted: Mapping[int, Collection[str]]) -> dict[Block, set[str]]:
    """Return block -> the pieces of it that are wanted."""
    layers, blocks = shape_of(model, family).each(), {}
    for number, parts in wanted.items():
        if not 1 <= number <= len(layers):
            raise UserError(f"layer {number} does not exist; the model's layers are 1..{len(layers)}.")
        (width,), (heads,) = layers[number - 1].ffn_widths, layers[number - 1].heads
        for part in parts:
            if not part or not has_part(part, width, heads):
                raise UserError(
                    f"layer {number} cannot lose {part!r}: it has {heads} heads and {width} feed-forward neurons; name "
                    f"{ATTENTION} or {HEADS}:K with K below its heads, {FFN} or {FFN}:W with W below its width."
                )
            for attention, piece in zip((True, False), pieces(part), strict=True):
                if piece:
                    # layers that are one lose the same: what enters any of them is fitted together
                    blocks.setdefault((1 if family.groups_key else number, attention), set()).add(piece)
    return blocks


def _amounts(
    sums: BlockSums,
    order: Tensor,
    each: int,
    counts: Collection[int],
    bias: Tensor | None,
    known: Mapping[int, Mapping[str, float | None]],
) -> dict[int, Amount]:
    """Return count -> amount where the first `count` heads (of `each` inputs) or neurons of `order` stay."""
    inputs, made, stay = inputs_of(order, each), {}, tuple(order.tolist())

    def amount(count: int, change: Tensor, figures: Mapping[str, float | None]) -> Amount:
        units = order[:count].sort().values
        weight = (sums.output.double() + change[:-1])[inputs_of(units, each)].T.to(sums.output).contiguous()
        new_bias = None if bias is None else (bias.double() + change[-1]).to(bias)
        return Amount(tuple(units.tolist()), stay, weight, new_bias, **figures)

    if set(counts) <= set(known):
        fit = NestedFit(sums, inputs)
        return {
            count: amount(count, fit.change(count * each, known[count]["strength"]), known[count])
            for count in sorted(set(counts))
        }
    for count, strength, change, error, mean in nested_changes(sums, inputs, [count * each for count in counts]):
        cut = change_error(sums, cut_change(sums, inputs[:count]))
        figures = {"strength": strength, "error_cut": cut, "error_mean": mean, "error_refit": error}
        made[count // each] = amount(count // each, change, figures)
    return made
