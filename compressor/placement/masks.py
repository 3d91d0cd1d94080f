"""Whole words masked at random: which tokens a masked-language model has to predict, and what it sees in their place."""

from dataclasses import dataclass

import numpy as np

MASKED, REPLACED = 0.8, 0.1
"""Shares of the chosen tokens that the mask token and that a random token stand for; the others stay (Devlin et al. 2019)."""


@dataclass(frozen=True)
class Masked:
    """A batch to predict: what the model sees, int64 [B, S]; the chosen positions, bool [B, S]."""

    inputs: np.ndarray
    chosen: np.ndarray


def mask_words(
    ids: np.ndarray, starts: np.ndarray, share: float, mask_id: int, vocab_size: int, specials: np.ndarray, *seed: int
) -> Masked:
    """Choose each word of ids [B, S] with probability `share`, all its tokens together, and hide them.

    `starts` bool [B, S] says where words begin; `specials` are the ids that are never chosen nor put in another's
    place. Of the chosen tokens 80 % become the mask, 10 % a random token, 10 % stay. The same seed gives the same mask.
    """
    generator = np.random.default_rng(seed)
    positions = np.arange(ids.shape[1])
    # the place where each token's word begins; its draw is the word's
    word = np.maximum.accumulate(np.where(starts, positions, 0), axis=1)
    drawn = np.take_along_axis(generator.random(ids.shape), word, axis=1)
    chosen = (drawn < share) & ~np.isin(ids, specials)
    kind = generator.random(ids.shape)
    ordinary = np.setdiff1d(np.arange(vocab_size), specials)
    inputs = np.where(chosen & (kind < MASKED), mask_id, ids)
    other = chosen & (kind >= MASKED) & (kind < MASKED + REPLACED)
    inputs = np.where(other, ordinary[generator.integers(len(ordinary), size=ids.shape)], inputs)
    return Masked(inputs.astype(np.int64), chosen)
