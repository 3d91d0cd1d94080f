"""Call single encoder layers of any family: record how the model calls layer 1, then call any layer that way."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Encodings, padded_batches
from compressor.errors import UserError
from compressor.model.families import Family, layer_list
from compressor.progress import Track, silent

HELD_OUT = 5
"""Every fifth row is held out of the fits in closed form, which are chosen and judged by it."""


@dataclass(frozen=True)
class LayerCall:
    """One batch in front of layer 1: its rows, which tokens are text (`mask` [B, S]), state 0 [B, S, H], other arguments.

    `held` says that its rows are held out of what is fitted to the others (see `fit_calls`).
    """

    rows: Tensor
    mask: Tensor
    hidden: Tensor
    args: tuple
    kwargs: dict
    held: bool = False


def capture_calls(
    model: nn.Module, family: Family, encodings: Encodings, *, batch_size: int = 32, track: Track = silent
) -> tuple[list[LayerCall], Tensor]:
    """Return the calls of layer 1 for all rows, batch by batch, and the model's logits [N, C] in row order.

    All supported families give each layer the same arguments besides the hidden state, so a call recorded at layer 1
    serves every layer.
    """
    calls: list[LayerCall] = []
    logits = torch.zeros(len(encodings), model.config.num_labels)
    for rows, inputs in padded_batches(encodings, batch_size, track, "full model"):
        call, batch_logits = capture_call(model, family, rows, inputs)
        calls.append(call)
        logits[rows] = batch_logits.float().cpu()
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
    """Return how the model calls layer 1 on one batch, and its logits [B, C]; `inputs` by name, each int64 [B, S]."""
    seen: list[tuple[tuple, dict]] = []
    hook = layer_list(model, family)[0].register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with hook, torch.inference_mode():
        tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
        logits = model(**tensors).logits
    args, kwargs = seen.pop()
    return LayerCall(torch.from_numpy(rows), tensors["attention_mask"], args[0], args[1:], kwargs), logits


def apply_layer(layer: nn.Module, calls: Sequence[LayerCall], hidden: Sequence[Tensor]) -> list[Tensor]:
    """Return the layer's output [B, S, H] for every batch, given the state in front of it."""
    with torch.inference_mode():
        outputs = [layer(state, *call.args, **call.kwargs) for call, state in zip(calls, hidden, strict=True)]
    return [output if isinstance(output, Tensor) else output[0] for output in outputs]


@contextmanager
def recorded(
    layer: nn.Module,
    inputs: Mapping[str, str] = MappingProxyType({}),
    outputs: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[dict[str, Tensor]]:
    """While it is open, what enters or leaves modules inside a layer is kept in a dict, as it was last.

    `inputs` and `outputs`: key of the dict -> name of the module.
    """
    seen: dict[str, Tensor] = {}

    def keep_input(key: str) -> Callable[[nn.Module, tuple], None]:
        return lambda _module, args: seen.update({key: args[0]})

    def keep_output(key: str) -> Callable[[nn.Module, tuple, Tensor], None]:
        return lambda _module, _args, made: seen.update({key: made})

    with ExitStack() as stack:
        for key, name in inputs.items():
            stack.callback(layer.get_submodule(name).register_forward_pre_hook(keep_input(key)).remove)
        for key, name in outputs.items():
            stack.callback(layer.get_submodule(name).register_forward_hook(keep_output(key)).remove)
        yield seen
