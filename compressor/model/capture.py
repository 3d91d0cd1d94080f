"""Call single encoder layers of any family: record how the model calls layer 1, then call any layer that way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressor.data.batches import Encodings, Read, padded_batches, read
from compressor.errors import UserError
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

Place = tuple[str, bool]
"""(module inside a layer, "" for the layer itself; whether what is meant enters it, else it leaves it)."""
HELD_OUT = 5
"""Every fifth row is held out of the fits in closed form, which are chosen and judged by it."""


@dataclass(frozen=True)
class LayerCall:
    """One batch in front of layer 1: its rows, which tokens are text (`mask` [B, S]), state 0 [B, S, H], other arguments.

    `held` says that its rows are held out of what is fitted to the others (see `fit_calls`). `answers` are the places of its
    answers among all, `at` where they are read (`Encodings.read_at`).
    """

    rows: Tensor
    mask: Tensor
    hidden: Tensor
    args: tuple
    kwargs: dict
    answers: Tensor
    held: bool = False
    at: Read | None = None


def capture_calls(
    model: nn.Module, family: Family, encodings: Encodings, *, batch_size: int = 32, track: Track = silent
) -> tuple[list[LayerCall], Tensor]:
    """Return the calls of layer 1 for all rows, batch by batch, and the model's logits [N, C] ([W, C]) in row order.

    All supported families give each layer the same arguments besides the hidden state, so a call recorded at layer 1
    serves every layer.
    """
    calls: list[LayerCall] = []
    logits = torch.zeros(encodings.answers, model.config.num_labels)
    for rows, inputs in padded_batches(encodings, batch_size, track, "full model"):
        call, batch_logits = capture_call(model, family, rows, inputs)
        answers, at = encodings.answers_of(rows), encodings.read_at(rows)
        calls.append(replace(call, answers=torch.from_numpy(answers), at=at))
        logits[answers] = read(batch_logits, at).float().cpu()
    return calls, logits


def fit_calls(
    model: nn.Module, family: Family, encodings: Encodings, *, batch_size: int = 32, track: Track = silent
) -> list[LayerCall]:
    """Return the calls of layer 1 on text that something is fitted to, every fifth row in batches of its own, `held` out.

    Rows, not batches: few rows make few batches, and none of those could be spared. Raises UserError where there are fewer
    than five rows.
    """
    check_fit_rows(len(encodings))
    rows, calls = np.arange(len(encodings)), []
    held = rows % HELD_OUT == HELD_OUT - 1
    for part in (False, True):
        chosen = rows[held == part]
        found, _ = capture_calls(model, family, encodings.take(chosen), batch_size=batch_size, track=track)
        calls += [replace(call, rows=torch.from_numpy(chosen)[call.rows], held=part) for call in found]
    return calls


def check_fit_rows(rows: int) -> None:
    """Raise UserError where calibration rows are too few to hold any out of a fit."""
    if rows < HELD_OUT:
        raise UserError(
            f"data.calibration: {rows} texts, and fits in closed form (compensation.refit, selection.budget) take at least "
            f"{HELD_OUT}, of which one is held out; raise data.calibration.size, or give more text."
        )


def capture_call(
    model: nn.Module, family: Family, rows: np.ndarray, inputs: Mapping[str, np.ndarray]
) -> tuple[LayerCall, Tensor]:
    """Return how the model calls layer 1 on one batch, and its logits as they come; `inputs` by name, each int64 [B, S]."""
    seen: list[tuple[tuple, dict]] = []
    hook = layer_list(model, family)[0].register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with hook, torch.inference_mode():
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
        logits = model(**tensors).logits
    args, kwargs = seen.pop()
    places = torch.from_numpy(rows)
    return LayerCall(places, tensors["attention_mask"], args[0], args[1:], kwargs, answers=places), logits


def apply_layer(layer: nn.Module, calls: Sequence[LayerCall], hidden: Sequence[Tensor]) -> list[Tensor]:
    """Return the layer's output [B, S, H] for every batch, given the state in front of it."""
    with torch.inference_mode():
        outputs = [layer(state, *call.args, **call.kwargs) for call, state in zip(calls, hidden, strict=True)]
    return [output if isinstance(output, Tensor) else output[0] for output in outputs]


def sum_place(family: Family, *, attention: bool) -> Place:
    """Return where inside a layer the sum of a block (of attention or feed-forward) and what it is added to can be seen.

    A norm takes it in: the block's own or, pre-norm, that of the block behind; behind the last block it leaves the layer.
    """
    if family.final_norm:
        return (family.ffn_norm, True) if attention else ("", False)
    return family.attention_norm if attention else family.ffn_norm, True


def attended_place(family: Family) -> Place:
    """Return where the state behind a layer's attention block can be seen: behind its norm or, pre-norm, the plain sum."""
    return sum_place(family, attention=True) if family.final_norm else (family.attention_norm, False)


def watch(layer: nn.Module, place: Place, keep: Callable[[Tensor], object]) -> RemovableHandle:
    """Call `keep` with what passes a place inside a layer, each time it does, until the handle is removed."""
    name, enters = place

    def entering(_module: nn.Module, args: tuple) -> None:
        keep(args[0])

    def leaving(_module: nn.Module, _args: tuple, made: Tensor | tuple) -> None:
        keep(made if isinstance(made, Tensor) else made[0])

    module = layer.get_submodule(name)
    return module.register_forward_pre_hook(entering) if enters else module.register_forward_hook(leaving)


@contextmanager
def recorded(
    layer: nn.Module, inputs: Mapping[str, str] = MappingProxyType({}), **places: Place
) -> Iterator[dict[str, Tensor]]:
    """While it is open, what enters modules inside a layer, or passes other places, is kept in a dict, as it was last.

    `inputs`: key of the dict -> name of the module; other keys -> place.
    """
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for key, place in ({name: (module, True) for name, module in inputs.items()} | places).items():
            stack.callback(watch(layer, place, partial(seen.__setitem__, key)).remove)
        yield seen
