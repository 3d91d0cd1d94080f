"""A tiny model whose head was folded, and its account."""

import copy

import torch

from compressor.compensation.heads.head import Head, fold_head


def folded(model, family, nodes=4, classes=3, seed=0, labels=None):
    """A copy of the model with a random head of so many nodes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (nodes, 32), (nodes,), (classes, nodes), (classes,)
    w1, b1, w2, b2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    made = copy.deepcopy(model)
    ones = torch.ones(32, dtype=torch.float64)
    fold_head(made, family, Head(0 * ones, ones, w1 / 6, b1 / 3, w2, b2))
    return made
