"""A tiny model of four layers (`tiny.py`) cut to fewer heads and neurons, and the whole one that computes the same."""

import copy

import torch

from compressor.model.families import layer_list
from compressor.model.sublayers import cut_ffn, cut_heads
from compressor.model.units import Shape

KEPT = ([2, 0], range(64)), ([1], range(9, 33)), ([], range(5, 45)), ([3, 1, 2], [])
"""Heads and neurons that stay of each layer, heads in any order."""
CUT = Shape((64, 24, 40, 0), (2, 1, 0, 3), 4)


def cut(model, family):
    """Return a copy of the model with what is in `KEPT` alone."""
    made = copy.deepcopy(model)
    for layer, (heads, neurons) in zip(layer_list(made, family), KEPT, strict=True):
        cut_heads(layer, family, heads)
        if len(neurons) < 64:
            cut_ffn(layer, family, neurons)
    return made


@torch.no_grad()
def zeroed(model, family):
    """Return the whole model with the output columns of all heads and neurons that go set to 0."""
    made = copy.deepcopy(model)
    for layer, kept in zip(layer_list(made, family), KEPT, strict=True):
        for name, stays, size in zip((family.attention_output, family.ffn_output), kept, (8, 1), strict=True):
            weight = layer.get_submodule(name).weight
            gone = torch.ones(weight.shape[1] // size, dtype=torch.bool)
            gone[list(stays)] = False
            weight[:, gone.repeat_interleave(size)] = 0
    return made
