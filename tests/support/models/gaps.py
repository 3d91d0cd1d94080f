"""Planted blocks, and the gap between what a model has and what it should give."""

import copy

import numpy as np
import torch

from compressor.compensation.refits.amounts import NarrowLayers
from compressor.compensation.refits.equations import NormalEquations
from compressor.compensation.refits.widths import BlockSums
from compressor.model.capture import apply_layer, fit_calls
from compressor.model.families import layer_list


def tiled(encodings, times=4):
    return encodings.take(np.tile(np.arange(len(encodings)), times))


def planted(tiny, change, layer=1):
    """Return (model, family, encodings) of a copy whose layer (from 0) `change(first map, last map)` was applied to."""
    model, family, encodings, _ = tiny("bert")
    model = copy.deepcopy(model)
    found = layer_list(model, family)[layer]
    with torch.no_grad():
        change(found.get_submodule(family.ffn_input), found.get_submodule(family.ffn_output))
    return model, family, tiled(encodings)


def gap(model, family, encodings, amounts, number, part):
    """Return the largest difference between the outputs of a layer (from 1) and of its stand-in, over real tokens."""
    calls, module = fit_calls(model, family, encodings), NarrowLayers(model, family, amounts)[number, part]
    hidden = [call.hidden for call in calls]
    for layer in layer_list(model, family)[: number - 1]:
        hidden = apply_layer(layer, calls, hidden)
    both = [apply_layer(each, calls, hidden) for each in (layer_list(model, family)[number - 1], module)]
    return max(float((a - b)[call.mask.bool()].abs().max()) for a, b, call in zip(*both, calls, strict=True))


def sums_of(phi, output, *, gamma=None, cls=None, specialists=()):
    """Return the sums of a block from activations [N, F], which are those of the held-out rows as well."""
    fit = NormalEquations()
    fit.add(phi, phi.new_zeros(len(phi), 0), torch.ones(len(phi)))
    protected = torch.zeros(phi.shape[1], dtype=torch.bool)
    protected[list(specialists)] = True
    cls = phi.double().square().mean(0) if cls is None else cls
    gamma = torch.ones(output.shape[1]) if gamma is None else gamma
    return BlockSums(fit, fit, cls, output, gamma, protected)
