"""What the output map of a block reads, as sums over text: gathered batch by batch, added up over parts of it, kept in files.

Of each block two grams in float64, of fitted and of held-out rows, and the squares at [CLS]: as large for ten million texts
as for ten. What two processes gathered on two parts of the text adds up to what one gathers on all of it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.compensation.refits.equations import NormalEquations
from compressor.compensation.refits.neurons import specialists
from compressor.compensation.refits.widths import BlockSums
from compressor.data.batches import Encodings, Read, padded_batches
from compressor.model.capture import HELD_OUT, recorded, sum_place
from compressor.model.families import Family, layer_list
from compressor.model.states.reading import reads_first
from compressor.progress import Track, silent

MOMENTS_BUDGET = 2 * 2**30
"""Bytes of moments that one pass over the text may hold; blocks that do not fit take another pass."""
CLS_WEIGHT = 10.0
"""How many times as much as another token a [CLS] row weighs in the fits."""

Block = tuple[int, bool]
"""(layer from 1, whether it is the attention block)."""


class BlockMoments(Mapping[Block, BlockSums]):
    """The moments of what enters the output map of each of `blocks`; of layers that are one, those of block 1 are of all.

    While `watching()` is open, `add` takes in what the model has just computed of a batch.
    """

    def __init__(self, model: PreTrainedModel, family: Family, blocks: Sequence[Block]) -> None:
        self._model, self._family, self._layers = model, family, list(layer_list(model, family))
        self._norms = {block: _norm(model, self._layers[block[0] - 1], family, block[1]) for block in blocks}
        self._cls_weight = CLS_WEIGHT if reads_first(model.config.to_dict()) else 1.0
        self._sums = {block: (NormalEquations(), NormalEquations()) for block in blocks}
        self._cls: dict[Block, Tensor | float] = dict.fromkeys(blocks, 0.0)
        self._texts = 0
        self._caught: list[tuple[Block, dict[str, Tensor]]] = []

    @contextmanager
    def watching(self) -> Iterator["BlockMoments"]:
        """Keep of every forward pass, while this is open, what `add` reads."""
        with ExitStack() as stack:
            for number, attention in self._sums:
                place = sum_place(self._family, attention=attention)
                for layer in self._layers if self._family.groups_key else self._layers[number - 1 : number]:
                    seen = recorded(layer, {"inside": output_map(self._family, attention)}, sum=place)
                    self._caught.append(((number, attention), stack.enter_context(seen)))
            yield self
        self._caught = []

    def add(self, mask: Tensor, out: np.ndarray, at: Read | None = None, share: float = 1.0) -> None:
        """Take in the batch of the last forward pass: its mask [B, S], which rows are held `out` of the fits, bool [B].

        Where words have answers, `at` says where they are, and each counts by its `share` of a row.
        """
        mask, held = mask.bool(), torch.from_numpy(out).to(mask.device)
        for block, seen in self._caught:
            weight = 1 / (seen["sum"].float().var(-1, correction=0) + self._norms[block].eps)
            weight[:, 0] *= self._cls_weight
            bias = self._layers[block[0] - 1].get_submodule(output_map(self._family, block[1])).bias is not None
            for part in (False, True):
                kept = mask & (held == part)[:, None]
                phi = seen["inside"][kept]
                if len(phi):
                    self._sums[block][part].add(phi, phi.new_zeros(len(phi), 0), weight[kept], bias=bias)
            if at is None:
                self._cls[block] += seen["inside"][~held, 0].double().square().sum(0)
            else:
                inside = seen["inside"][at].double().square()
                self._cls[block] += (inside * (~held)[at[0], None]).sum(0) * share
        self._texts += int((~held).sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays by name; those of two parts of the text add up to those of both (`StoredMoments`)."""
        found = {"texts": np.array(self._texts)}
        for block, parts in self._sums.items():
            name = name_of(block)
            found[f"{name}-cls"] = _array(self._cls[block])
            for part, sums in zip(PARTS, parts, strict=True):
                found[f"{name}-{part}-gram"] = _array(sums.gram)
                found[f"{name}-{part}-weight"] = np.array(sums.weight)
        return found

    def __getitem__(self, block: Block) -> BlockSums:
        return _block_sums(self._model, self._family, block, self._sums[block], self._cls[block], self._texts)

    def __iter__(self) -> Iterator[Block]:
        return iter(self._sums)

    def __len__(self) -> int:
        return len(self._sums)


class StoredMoments(Mapping[Block, BlockSums]):
    """Moments as they lie in files, one array each: of `blocks`, read where they are asked for."""

    def __init__(
        self, model: PreTrainedModel, family: Family, blocks: Sequence[Block], load: Callable[[str], np.ndarray]
    ) -> None:
        self._model, self._family, self._blocks, self._load = model, family, list(blocks), load

    def __getitem__(self, block: Block) -> BlockSums:
        if block not in self._blocks:
            raise KeyError(block)
        device, name = self._model.device, name_of(block)
        sums = []
        for part in PARTS:
            gram = torch.from_numpy(self._load(f"{name}-{part}-gram")).to(device)
            weight = float(self._load(f"{name}-{part}-weight"))
            sums.append(NormalEquations(gram, gram.new_zeros(len(gram), 0), 0.0, weight))
        cls = torch.from_numpy(self._load(f"{name}-cls")).to(device)
        return _block_sums(self._model, self._family, block, sums, cls, int(self._load("texts")))

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks)

    def __len__(self) -> int:
        return len(self._blocks)


PARTS = "fit", "held"
"""What the two sums of a block are called in files."""


def name_of(block: Block) -> str:
    """Return what a block is called in files: 3-attention."""
    return f"{block[0]}-{'attention' if block[1] else 'ffn'}"


def _block_sums(
    model: PreTrainedModel, family: Family, block: Block, sums: Sequence[NormalEquations], cls: Tensor, texts: int
) -> BlockSums:
    """Return what the widths of a block are solved from; `cls` are the squares at [CLS], summed over the fitted `texts`."""
    layers = list(layer_list(model, family))
    layer = layers[block[0] - 1]
    output = layer.get_submodule(output_map(family, block[1])).weight.detach().T
    guarded = torch.zeros(len(output), dtype=torch.bool, device=output.device)
    if not block[1]:
        guarded |= torch.from_numpy(specialists(layer, family)).to(output.device)
    texts *= len(layers) if family.groups_key else 1
    gamma = _norm(model, layer, family, block[1]).weight.detach()
    return BlockSums(*sums, cls / texts, output, gamma, guarded)


def text_moments(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    blocks: Sequence[Block],
    *,
    batch_size: int = 32,
    track: Track = silent,
) -> BlockMoments:
    """Return the moments of `blocks` from one pass over the text, every fifth row held out."""
    moments = BlockMoments(model, family, blocks)
    with moments.watching(), torch.no_grad():
        for rows, inputs in padded_batches(encodings, batch_size, track, "moments of every block"):
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            model(**tensors)
            share = len(encodings) / encodings.answers
            moments.add(tensors["attention_mask"], held_out(rows), encodings.read_at(rows), share)
    return moments


def held_out(rows: np.ndarray) -> np.ndarray:
    """Return which of these rows, counted over all text, are held out of the fits: bool [B]."""
    return rows % HELD_OUT == HELD_OUT - 1


def groups_of(
    model: PreTrainedModel, family: Family, blocks: Sequence[Block], budget: int = MOMENTS_BUDGET
) -> list[list[Block]]:
    """Return the blocks in groups whose moments, of fitted and of held-out rows, fit into `budget` bytes."""
    layers, groups, used = list(layer_list(model, family)), [], budget
    for number, attention in sorted(blocks):
        size = 16 * (layers[number - 1].get_submodule(output_map(family, attention)).in_features + 1) ** 2
        if used + size > budget:
            groups.append([])
            used = 0
        groups[-1].append((number, attention))
        used += size
    return groups


def output_map(family: Family, attention: bool) -> str:
    """Return the name of the map behind the heads, or behind the neurons, inside a layer."""
    return family.attention_output if attention else family.ffn_output


def _norm(model: PreTrainedModel, layer: nn.Module, family: Family, attention: bool) -> nn.LayerNorm:
    """Return the norm that what a block adds to is judged behind."""
    if family.final_norm:
        return model.get_submodule(family.final_norm)
    return layer.get_submodule(family.attention_norm if attention else family.ffn_norm)


def _array(values: Tensor | float) -> np.ndarray:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.array(values)
