"""What one reader of an archive does with its share of the chunks; it may be a process of this or of another machine."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.compensation.refits.moments import Block, BlockMoments, groups_of, held_out
from compressor.data.archive.stream import Chunk, chunks
from compressor.data.batches import encode, padded_batches, same_tokens
from compressor.measurement.machine.environment import torch_threads
from compressor.model.families import Family, family_of
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.states.reading import read_state
from compressor.model.states.states import run_with_states, whole
from compressor.model.states.sums import StateSums
from compressor.progress import silent
from compressor.recipe.data import ArchiveSpec
from compressor.run.archive import STATES

BATCH = 32
"""Texts that the model reads at a time; the sums of a chunk are of the same batches, whoever reads it."""
DONE = "done"
"""File that grows by a byte with every chunk: how far a reader is."""


@dataclass(frozen=True)
class Shard:
    """All that a reader must know; nothing of it lies in the memory of the process that hands it out."""

    spec: ArchiveSpec
    columns: tuple[str, ...]
    known: frozenset[tuple[str, ...]]
    model: str
    """Directory of the full model."""
    kind: str
    device: str
    threads: int
    max_length: int
    states: int
    """States of a text that are summed, 0 for none."""
    classes: int
    inner: bool
    sample: int
    seed: int
    blocks: tuple[Block, ...]
    """Blocks whose moments are summed."""
    share: tuple[int, int]
    """(k, n): this is reader k of n."""
    folder: str
    """Where its arrays go."""


@dataclass
class Counts:
    """What a reader met."""

    texts: int = 0
    tokens: int = 0
    empty: int = 0
    known: int = 0
    seconds: float = 0.0


def gather(shard: Shard, track: Callable[[Iterable[Chunk]], Iterable[Chunk]] = iter) -> Counts:
    """Read a share of the archive, as often as its moments need to fit into memory; write the sums, return what was met."""
    folder = Path(shard.folder)
    folder.mkdir(parents=True, exist_ok=True)
    source = find_model(shard.model)
    model, tokenizer = load_classifier(source, device=shard.device), load_tokenizer(source, shard.kind)
    family, same = family_of(source.config["model_type"], shard.kind), same_tokens(tokenizer)
    width, met, started = model.config.hidden_size, Counts(), time.monotonic()
    sums = StateSums.empty(shard.states, shard.classes, width, shard.sample, shard.seed) if shard.states else None
    with torch_threads(shard.threads), (folder / DONE).open("wb", buffering=0) as done:
        for number, group in enumerate(groups_of(model, family, shard.blocks) or [[]]):
            first, moments = number == 0, BlockMoments(model, family, group)
            found = chunks(shard.spec, shard.columns, known=shard.known, same=same, share=shard.share)
            with moments.watching():
                for chunk in track(found) if first else found:
                    tokens = _add(chunk, shard, model, family, tokenizer, sums if first else None, moments)
                    if first:
                        met.texts += len(chunk.texts)
                        met.tokens += tokens
                        met.empty += chunk.empty
                        met.known += chunk.known
                        done.write(b".")
            _save(folder, moments.arrays())
    if sums is not None:
        _save(folder, {f"{STATES}{name}": value for name, value in sums.arrays().items()})
    met.seconds = time.monotonic() - started
    return met


def _add(
    chunk: Chunk,
    shard: Shard,
    model: PreTrainedModel,
    family: Family,
    tokenizer: PreTrainedTokenizerBase,
    sums: StateSums | None,
    moments: BlockMoments,
) -> int:
    """Take in a chunk; return its tokens."""
    if not chunk.texts:
        return 0
    encodings = encode(chunk.texts, tokenizer, shard.max_length)

    def keep(rows: np.ndarray, mask: Tensor, logits: Tensor, states: list[Tensor]) -> None:
        places = chunk.rows[rows]
        if sums is not None:
            heads = [read_state(model, family, state, mask) for state in states]
            sums.add(places, logits.float().argmax(1).cpu().numpy(), mask, states, heads)
        moments.add(mask, held_out(places))

    if sums is not None:
        run_with_states(
            model,
            family,
            encodings,
            keep,
            batch_size=BATCH,
            track=silent,
            description="",
            inner=shard.inner,
            pick=whole,
        )
    else:
        for rows, inputs in padded_batches(encodings, BATCH):
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            with torch.inference_mode():
                model(**tensors)
                moments.add(tensors["attention_mask"], held_out(chunk.rows[rows]))
    return int(encodings.lengths.sum())


def _save(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        np.save(folder / f"{name}.npy", value)
