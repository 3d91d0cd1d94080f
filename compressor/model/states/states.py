"""[CLS] states of every layer: one pass over the texts, forward hooks, memory independent of the number of rows."""

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Encodings, Read, padded_batches, read
from compressor.model.capture import attended_place, watch
from compressor.model.families import Family, layer_list
from compressor.model.states.reading import read_state
from compressor.model.states.sums import ClassStates, StateSums
from compressor.progress import Track, silent


def class_states(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray | None,
    classes: int,
    *,
    inner: bool = False,
    sample_rows: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
    track: Track = silent,
) -> ClassStates:
    """Return the class-wise moments of states 0..L and how alike the states are, in one pass over the texts.

    `labels` int64 [N] are the classes; None takes the model's own predictions (no gold labels needed). With `inner` the
    states behind each layer's attention block stand between them: 0, inside layer 1, 1, inside layer 2, 2, ...
    """
    count = len(layer_list(model, family)) * (2 if inner else 1)
    sums = StateSums.empty(count + 1, classes, model.config.hidden_size, min(sample_rows, encodings.answers), seed)
    logits = np.zeros((encodings.answers, model.config.num_labels), dtype=np.float32)

    def keep(rows: np.ndarray, mask: Tensor, batch_logits: Tensor, states: list[Tensor]) -> None:
        answers, at = encodings.answers_of(rows), encodings.read_at(rows)
        logits[answers] = batch_logits.float().cpu().numpy()
        heads = [read_state(model, family, state, mask, at) for state in states]
        sums.add(answers, logits[answers].argmax(1) if labels is None else labels[answers], mask, states, heads, at)

    run_with_states(
        model,
        family,
        encodings,
        keep,
        batch_size=batch_size,
        track=track,
        description="states",
        inner=inner,
        pick=whole,
    )
    return sums.states(logits)


def whole(state: Tensor, _mask: Tensor) -> Tensor:
    """Pick a state as it is, of all tokens."""
    return state


def final_states(
    model: nn.Module, family: Family, encodings: Encodings, *, batch_size: int = 32, track: Track = silent
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the head reads (`read_state`) [N, H] and the logits [N, C] of every answer, float32, in row order."""
    states = np.zeros((encodings.answers, model.config.hidden_size), dtype=np.float32)
    logits = np.zeros((encodings.answers, model.config.num_labels), dtype=np.float32)

    def keep(rows: np.ndarray, _mask: Tensor, batch_logits: Tensor, batch_states: list[Tensor]) -> None:
        answers = encodings.answers_of(rows)
        states[answers] = batch_states[-1].float().cpu().numpy()
        logits[answers] = batch_logits.float().cpu().numpy()

    run_with_states(model, family, encodings, keep, batch_size=batch_size, track=track, description="final states")
    return states, logits


def run_with_states(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    keep: Callable[[np.ndarray, Tensor, Tensor, list[Tensor]], None],
    *,
    batch_size: int,
    track: Track = silent,
    description: str,
    inner: bool = False,
    pick: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Run the model over all rows; call `keep(row indices, mask [B, S], logits [B, C], picked states 0..L)` per batch.

    `pick(state [B, S, H], mask)` says what of each state is held until the batch ends; by default what the head reads of it
    [B, H]. With `inner` the state behind the attention block of each layer comes before that behind the layer.
    """
    states: list[Tensor] = []
    mask: Tensor = torch.zeros(0)
    at: Read | None = None

    def hold(state: Tensor) -> None:
        # a view would keep the whole state alive
        states.append(read_state(model, family, state, mask, at).clone() if pick is None else pick(state, mask))

    first = layer_list(model, family)[0]

    def first_input(_module: nn.Module, inputs: tuple, kwargs: dict) -> None:
        # state 0 is what enters layer 1; ELECTRA projects its embeddings on the way there
        hold(inputs[0] if inputs else next(iter(kwargs.values())))

    with ExitStack() as stack, torch.inference_mode():
        stack.callback(first.register_forward_pre_hook(first_input, with_kwargs=True).remove)
        for layer in layer_list(model, family):
            if inner:
                stack.callback(watch(layer, attended_place(family), hold).remove)
            stack.callback(watch(layer, ("", False), hold).remove)
        for rows, inputs in padded_batches(encodings, batch_size, track, description):
            states.clear()
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            mask, at = tensors["attention_mask"], encodings.read_at(rows)
            logits = read(model(**tensors).logits, at)
            keep(rows, mask, logits, states)
