"""Savings that change no prediction, made in memory before export: the CLS-only tail and a head without dead nodes."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from compressor.measurement.machine.providers import open_session, require_provider
from compressor.measurement.timing.latency import Subject, measure
from compressor.measurement.timing.ratios import claimed, ratio
from compressor.model.cls_row import ATTENDED, FORMS, cls_row, form_for
from compressor.model.families import Family, layer_list
from compressor.model.onnx_graph import module_graph
from compressor.progress import Track, silent

CELLS = (1, 32), (1, 128), (8, 128)
"""Batch and length at which the forms of the tail are compared."""
INPUTS = "hidden", "mask"


class ClsTail(nn.Module):
    """A layer that gives row 0 only, [B, 1, H]; takes the place of the last layer in a copy that is exported."""

    def __init__(self, layer: nn.Module, family: Family, form: str) -> None:
        super().__init__()
        self.layer, self.family, self.attend = layer, family, FORMS[form]
        self.mask: Tensor | None = None

    def forward(self, hidden: Tensor, *_: Any, **__: Any) -> tuple[Tensor]:  # noqa: ANN401
        """Return the row; the mask that layers are given has as many rows as tokens, `self.mask` [B, S] is the text's."""
        return (cls_row(self.layer, self.family, hidden, self.mask, self.attend),)


class AttendedTail(nn.Module):
    """The same of a layer whose attention reads distances: all rows attend, and the first alone is fed forward."""

    def __init__(self, layer: nn.Module, family: Family) -> None:
        super().__init__()
        self.layer, self.blocks = layer, None
        if family.final_norm:  # pre-norm: what a block adds to is no module's output, so the layer is written out
            names = (family.attention_norm, family.ffn_norm)
            owners = (name.rpartition(".")[0] for name in (family.attention_output, family.ffn_output))
            self.blocks = [*zip(names, owners, strict=True)]
        else:  # all behind the norm of attention takes what that gives
            layer.get_submodule(family.attention_norm).register_forward_hook(_first_row)

    def forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:  # noqa: ANN401
        """Return the row [B, 1, H] in front, as the stock layer returns its states."""
        if self.blocks is None:
            return self.layer(hidden, *args, **kwargs)
        (norm, attention), (ffn_norm, ffn) = ([self.layer.get_submodule(name) for name in pair] for pair in self.blocks)
        given = attention(norm(hidden), *args, **kwargs)[0]
        # a block that is gone gives one bias for all tokens
        attended = hidden[:, :1] + (given[:, :1] if given.dim() == hidden.dim() else given)
        return (attended + ffn(ffn_norm(attended)),)


def _first_row(_module: nn.Module, _args: tuple, made: Tensor) -> Tensor:
    return made[:, :1]


class TailGraph(nn.Module):
    """The same from states [B, S, H] and mask [B, S], as a graph of its own."""

    def __init__(self, tail: ClsTail) -> None:
        super().__init__()
        self.tail = tail

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Return the row [B, 1, H]."""
        self.tail.mask = mask
        return self.tail(hidden)[0]


@dataclass(frozen=True)
class TailChoice:
    """The form of the tail that a provider runs faster, and the figures that say so.

    `cells`: batch, length, median milliseconds of the last layer's row by form, the ratio reassociated / single_row with
    its 95 % interval, and whether a difference may be claimed above the noise (reassociated against itself). There are none
    where there is one form alone (`ATTENDED`), or no tail (None) since every token is read.
    """

    form: str | None
    provider: str
    cells: list[dict[str, Any]]


def with_tail(model: PreTrainedModel, family: Family, form: str) -> PreTrainedModel:
    """Return a copy of the classifier whose last layer computes the [CLS] row only; the logits stay the same.

    `form` is a name in `FORMS` (`model/cls_row.py` has the algebra), or `ATTENDED`. Attention mixes all rows in front of the
    last layer only, and the head reads row 0, so nothing else of that layer is needed. Batch and length stay free and padding
    stays hidden. The copy gives logits alone: the last layer's other states and its attentions no longer exist.
    """
    made = copy.deepcopy(model)
    layers = layer_list(made, family)
    if form == ATTENDED:
        layers[-1] = AttendedTail(layers[-1], family)
        return made
    tail = layers[-1] = ClsTail(layers[-1], family, form)

    def keep_mask(_module: nn.Module, _args: tuple, kwargs: dict[str, Any]) -> None:
        tail.mask = kwargs["attention_mask"]

    made.get_submodule(family.encoder).register_forward_pre_hook(keep_mask, with_kwargs=True)
    return made


def without_dead_nodes(model: PreTrainedModel, family: Family) -> PreTrainedModel:
    """Return a copy whose head lacks the nodes that no class listens to; the model itself where every node counts.

    A head of 4-16 nodes folds into the stock head of H nodes by leaving the weights behind all others 0 (`fold_head`);
    in a file that need not be a stock model they can go.
    """
    heard = model.get_submodule(family.output).weight.detach().ne(0).any(0)
    if heard.all() or family.head_norm:  # a norm behind the nodes takes their mean and deviation over all of them
        return model
    made = copy.deepcopy(model)
    dense, output = made.get_submodule(family.dense), made.get_submodule(family.output)
    dense.weight, dense.bias = nn.Parameter(dense.weight[heard]), nn.Parameter(dense.bias[heard])
    output.weight = nn.Parameter(output.weight[:, heard])
    dense.out_features = output.in_features = int(heard.sum())
    return made


def choose_form(
    model: PreTrainedModel,
    family: Family,
    provider: str = "CPUExecutionProvider",
    *,
    threads: int | None = None,
    seconds: float = 1.0,
    seed: int = 0,
    track: Track = silent,
    clock: Callable[[], int] | None = None,
) -> TailChoice:
    """Time the last layer's row in every form on `provider`, at most `seconds` a cell, and return the faster.

    Only the layer is timed: in a whole model the difference would drown in the rest. The form with fewer operations,
    `reassociated`, stays unless the other one is faster beyond the noise in more cells than slower. Raises UserError where
    ONNX Runtime would run elsewhere than on `provider`.
    """
    require_provider(provider, "CLS-only tail")
    form = form_for(model.config.to_dict(), "reassociated")
    if form not in FORMS:
        return TailChoice(form, provider, [])
    subjects = {form: _row_subject(model, family, form, provider, threads) for form in FORMS}
    width, generator = getattr(model.config, family.width_key), np.random.default_rng(seed)
    cells, votes = [], 0
    for batch, length in CELLS:
        states = generator.standard_normal((batch, length, width)).astype(np.float32)
        values = measure(
            {**subjects, "twin": subjects["reassociated"]},
            [dict(zip(INPUTS, (states, np.ones((batch, length), dtype=np.int64)), strict=True))],
            min_seconds=0, min_runs=200, max_seconds=seconds, seed=seed, track=track, description="forms of the tail",
            **({"clock": clock} if clock else {}),
        )  # fmt: skip
        gain = ratio(values["reassociated"], values["single_row"], seed)
        loss = ratio(values["single_row"], values["reassociated"], seed)
        noise = ratio(values["reassociated"], values["twin"], seed)
        faster, slower = claimed(gain, noise), claimed(loss, noise)
        votes += faster - slower
        cells.append({
            "batch": batch, "length": length, "p50_ms": {form: float(np.median(values[form])) for form in FORMS},
            "ratio": gain.value, "ci95": [gain.lo, gain.hi], "claimed": faster or slower,
        })  # fmt: skip
    return TailChoice("single_row" if votes > 0 else "reassociated", provider, cells)


def _row_subject(model: PreTrainedModel, family: Family, form: str, provider: str, threads: int | None) -> Subject:
    tail = ClsTail(copy.deepcopy(layer_list(model, family)[-1]), family, form)
    width = getattr(model.config, family.width_key)
    example = torch.zeros(2, 3, width), torch.ones(2, 3, dtype=torch.int64)
    graph = module_graph(TailGraph(tail).cpu().eval(), example, INPUTS, "row")
    opened = open_session(graph.SerializeToString(), provider, threads)
    opened.disable_fallback()
    return partial(opened.run, ["row"])
