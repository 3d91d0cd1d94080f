"""The states around every feed-forward block, in one pass with hooks; memory does not grow with the number of rows.

In post-norm families `before` x is the output of the attention's LayerNorm, which enters the block; `raw` f is what the
block's second linear map gives; `after` y = LayerNorm(x + f), by the norm that ends the layer. The change is
Delta = y - x = f + (y - (x + f)): the raw output, and what the norm does to the sum. In pre-norm families x is the stream
behind attention, which the block reads through its norm, and y = x + f, so that nothing is the norm's.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from compressor.analysis.ffn.energy import GroupMoments
from compressor.data.batches import Encodings, padded_batches
from compressor.model.capture import attended_place, watch
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

PARTS = ("change", "raw", "norm")
"""The series kept of each layer: Delta, f and y - (x + f)."""
FIELDS = (
    *("change", "raw", "norm", "raw_change", "norm_change", "radial", "radial_squared"),
    *("before", "before_squared", "sum", "sum_squared", "after", "after_squared"),
)
"""What is averaged beside: energies of the parts, their products with Delta, Delta along x, and lengths of the states."""


class BlockStates(NamedTuple):
    """The states around one feed-forward block, each [B, S, H]."""

    before: Tensor
    raw: Tensor
    after: Tensor


@dataclass(frozen=True)
class Position:
    """The sums of one kind of token: moments of the series (layer by layer, `PARTS` of each) and means of `FIELDS`.

    `fields` [L, len(FIELDS)] float64; `count` tokens.
    """

    moments: GroupMoments
    fields: np.ndarray
    count: int


@dataclass(frozen=True)
class FfnPass:
    """What the pass keeps: sums for [CLS] and for all tokens, and the [CLS] states of some rows, [L, M, H] float32."""

    cls: Position
    tokens: Position
    before: np.ndarray
    after: np.ndarray

    def raw_means(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the mean raw output [L, H] of row 0, of the other tokens, and of all tokens."""
        merged = [position.moments.merged() for position in (self.cls, self.tokens)]
        first, everything = (
            np.einsum("c,kch->kh", count / count.sum(), mean)[PARTS.index("raw") :: len(PARTS)]
            for count, mean, _ in merged
        )
        rest = self.tokens.count - self.cls.count
        others = (everything * self.tokens.count - first * self.cls.count) / rest if rest else everything
        return first, others, everything


@contextmanager
def recorded_blocks(model: nn.Module, family: Family) -> Iterator[Callable[[], list[BlockStates]]]:
    """While it is open, the model's forward passes are recorded; the function it gives returns and forgets the last one."""
    layers = layer_list(model, family)
    end = "" if family.final_norm else family.ffn_norm
    places = attended_place(family), (family.ffn_output, False), (end, False)
    seen: list[tuple[list[Tensor], ...]] = [([], [], []) for _ in layers]

    def joined(parts: tuple[list[Tensor], ...]) -> BlockStates:
        # a model may run its feed-forward blocks in chunks of the sequence; a block that is gone gives one vector for all
        before, raw, after = parts
        every = [piece.expand_as(whole) for piece, whole in zip(raw, after, strict=True)]
        return BlockStates(*(torch.cat(part, dim=1) for part in (before, every, after)))

    def taken() -> list[BlockStates]:
        made = [joined(parts) for parts in seen]
        for parts in seen:
            for part in parts:
                part.clear()
        return made

    with ExitStack() as stack:
        for layer, parts in zip(layers, seen, strict=True):
            for place, part in zip(places, parts, strict=True):
                stack.callback(watch(layer, place, part.append).remove)
        yield taken


def ffn_pass(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray,
    groups: np.ndarray,
    classes: int,
    sample: np.ndarray,
    *,
    batch_size: int = 32,
    track: Track = silent,
) -> FfnPass:
    """Run the model once over all rows. `labels` and `groups` int64 [N]; `sample` [M] are the rows whose states are kept."""
    layers, width = len(layer_list(model, family)), model.config.hidden_size
    shape = len(PARTS) * layers, int(groups.max()) + 1, classes, width
    moments = [GroupMoments.empty(*shape) for _ in range(2)]
    sums, counts = np.zeros((2, layers, len(FIELDS))), [0, 0]
    before, after = (np.zeros((layers, len(sample), width), dtype=np.float32) for _ in range(2))
    place = np.full(len(encodings), -1)
    place[sample] = np.arange(len(sample))
    with recorded_blocks(model, family) as taken, torch.inference_mode():
        for rows, inputs in padded_batches(encodings, batch_size, track, "feed-forward blocks"):
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            model(**tensors)
            mask, chosen = tensors["attention_mask"].bool(), place[rows] >= 0
            first = torch.zeros_like(mask)
            first[:, 0] = True
            blocks = taken()
            for kind, kept in enumerate((first, mask)):
                rows_of = [_row_moments(block, kept) for block in blocks]
                mean, squares = (np.concatenate(parts) for parts in zip(*rows_of, strict=True))
                count = kept.sum(1).cpu().numpy().astype(np.float64)
                moments[kind].add(mean, squares, count, groups[rows], labels[rows])
                sums[kind] += np.stack([_fields(*(state[kept] for state in block)) for block in blocks])
                counts[kind] += int(count.sum())
            for layer, block in enumerate(blocks):
                before[layer, place[rows][chosen]] = block.before[:, 0].float().cpu().numpy()[chosen]
                after[layer, place[rows][chosen]] = block.after[:, 0].float().cpu().numpy()[chosen]
    positions = [Position(moments[kind], sums[kind] / counts[kind], counts[kind]) for kind in range(2)]
    return FfnPass(*positions, before, after)


def _row_moments(block: BlockStates, kept: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return each row's mean [3, B, H] and centred squares [3, B] of `PARTS` over its kept tokens (mask [B, S])."""
    if not kept[:, 1:].any():
        block, kept = BlockStates(*(state[:, :1] for state in block)), kept[:, :1]
    before, raw, after = (state.float() for state in block)
    parts = torch.stack([after - before, raw, after - (before + raw)])
    weight = kept[None, :, :, None]
    mean = (parts * weight).sum(2, dtype=torch.float64) / kept.sum(1)[None, :, None]
    apart = (parts - mean[:, :, None].float()) * weight
    return mean.cpu().numpy(), apart.square_().sum((2, 3), dtype=torch.float64).cpu().numpy()


def _fields(before: Tensor, raw: Tensor, after: Tensor) -> np.ndarray:
    """Return the sums of `FIELDS` over tokens [n, H]."""
    before, raw, after = before.float(), raw.float(), after.float()
    change, norm = after - before, after - (before + raw)

    def product(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).sum(-1, dtype=torch.float64)

    lengths = [product(state, state).sqrt() for state in (before, before + raw, after)]
    radial = product(before, change) / lengths[0].clamp_min(torch.finfo(torch.float64).tiny)
    pairs = (change, change), (raw, raw), (norm, norm), (raw, change), (norm, change)
    values = [product(one, other) for one, other in pairs]
    values += [value for length in (radial, *lengths) for value in (length, length.square())]
    return torch.stack([value.sum() for value in values]).cpu().numpy()
