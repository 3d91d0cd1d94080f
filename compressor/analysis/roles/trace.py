"""What a layer does to states, and how a short fine-tuning would move it: two features that weights alone do not hold."""

import copy
import math
from dataclasses import dataclass
from itertools import chain, count, islice

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.data.batches import Encodings, pad, padded_batches, shuffled_rows
from compressor.errors import UserError
from compressor.model.capture import apply_layer, capture_call
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

PROBE_ROWS = 256
"""Most texts that the activation probe reads."""


@dataclass(frozen=True)
class RoleTrace:
    """A trace of L layers: `momentum` [K, L] by step, `write` and `alignment` [N, L] by text.

    `momentum` is the cosine of Adam's first moment with the weights, over all matrices of the layer; `write` the mean over
    a text's tokens of |layer(x) - x| / |x|, `alignment` that of cos(x, layer(x)).
    """

    momentum: np.ndarray
    write: np.ndarray
    alignment: np.ndarray
    lr: float
    batch_size: int

    def of_layer(self, index: int) -> dict[str, np.ndarray]:
        """Return feature -> values by step or text [K] of the layer at `index`, from 0."""
        parts = {"momentum_cosine": self.momentum, "write_on_text": self.write, "alignment": self.alignment}
        return {name: values[:, index] for name, values in parts.items()}


def trace_roles(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray,
    *,
    steps: int = 32,
    lr: float = 2e-5,
    batch_size: int = 16,
    seed: int = 0,
    track: Track = silent,
) -> RoleTrace:
    """Probe the states of at most 256 texts, then fine-tune a copy of `model` for `steps` steps; `model` stays as it is.

    `labels` int64 [N]. Raises UserError where there is no text, or the loss is not finite.
    """
    if not len(encodings):
        raise UserError("the trace has no text to read; give a recipe with training text.")
    sample = encodings.take(np.arange(min(PROBE_ROWS, len(encodings))))
    write, alignment = probe_states(model, family, sample, batch_size=batch_size, track=track)
    tuned = copy.deepcopy(model)
    momentum = momentum_trace(
        tuned, family, encodings, labels, steps=steps, lr=lr, batch_size=batch_size, seed=seed, track=track
    )
    return RoleTrace(momentum, write, alignment, lr, batch_size)


def probe_states(
    model: PreTrainedModel, family: Family, encodings: Encodings, *, batch_size: int = 16, track: Track = silent
) -> tuple[np.ndarray, np.ndarray]:
    """Return (|layer(x) - x| / |x|, cos(x, layer(x))) of every text and layer, each [N, L]: means over a text's tokens."""
    layers = layer_list(model, family)
    write, alignment = (np.zeros((len(encodings), len(layers))) for _ in range(2))
    for rows, inputs in padded_batches(encodings, batch_size, track, "activation probe"):
        call, _ = capture_call(model, family, rows, inputs)
        state, mask = call.hidden, call.mask.bool()
        for index, layer in enumerate(layers):
            after = apply_layer(layer, [call], [state])[0]
            write[rows, index] = _text_means((after - state).norm(dim=-1) / state.norm(dim=-1), mask)
            alignment[rows, index] = _text_means(nn.functional.cosine_similarity(state, after, dim=-1), mask)
            state = after
    return write, alignment


def momentum_trace(
    model: PreTrainedModel,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray,
    *,
    steps: int,
    lr: float,
    batch_size: int = 16,
    seed: int = 0,
    track: Track = silent,
) -> np.ndarray:
    """Fine-tune `model` in place for `steps` steps; return cos(Adam's first moment, weights) by step and layer [K, L].

    Constant learning rate, dropout, gradients clipped to norm 1, AdamW without decay. A loop of its own, because the
    moments after every step are what is wanted. Above 0, the step that follows shrinks the weights; below, it grows them.
    NaN for a layer that has no matrix left.
    """
    # the map out of a block that is gone has no weight, so that no gradient reaches it
    matrices = [
        [part for part in layer.parameters() if part.ndim == 2 and part.numel()] for layer in layer_list(model, family)
    ]
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    targets, cosines = torch.from_numpy(labels), []
    generator = np.random.default_rng(seed)
    epochs = (shuffled_rows(encodings.lengths, batch_size, generator) for _ in count())
    batches = islice(chain.from_iterable(epochs), steps)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.train()
        for rows in track(batches, "fine-tuning trace", total=steps):
            inputs = {name: torch.from_numpy(value).to(model.device) for name, value in pad(encodings, rows).items()}
            loss = nn.functional.cross_entropy(model(**inputs).logits, targets[rows].to(model.device))
            if not math.isfinite(loss.item()):
                raise UserError(f"the trace diverged in step {len(cosines) + 1}; lower its learning rate ({lr:g}).")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            cosines.append([_cosine([optimizer.state[part]["exp_avg"] for part in layer], layer) for layer in matrices])
    return np.array(cosines)


def _cosine(moments: list[Tensor], weights: list[Tensor]) -> float:
    """Return the cosine of two lists of matrices, each list taken as one vector; 0 where one is 0, NaN without a matrix."""
    if not weights:
        return math.nan
    with torch.no_grad():
        product = sum((moment * weight).sum() for moment, weight in zip(moments, weights, strict=True))
        norms = [torch.stack([part.norm() for part in parts]).norm() for parts in (moments, weights)]
        return float(product / (norms[0] * norms[1]).clamp_min(torch.finfo(torch.float32).tiny))


def _text_means(values: Tensor, mask: Tensor) -> np.ndarray:
    """Return the mean of token values [B, S] over the tokens of each text, [B]."""
    return ((values * mask).sum(1) / mask.sum(1)).double().cpu().numpy()
