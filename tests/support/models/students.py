"""A tiny teacher, a student without some of its layers, and what is needed to compare two of them."""

import copy

import torch

from compressor.model.surgery import drop_layers

QUICK = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "holdout": 0.0}
WATCHED = {"epochs": 3, "batch_size": 4, "lr": 3e-3, "holdout": 0.25, "evaluate_every": 0.2, "patience": 100}
"""18 of 24 texts, five batches an epoch, a look at the other six after each."""


def pair(tiny, family_name="bert", skip=(2,)):
    """A copy of the tiny teacher, a student without the layers `skip`, and what else `distill` needs."""
    model, family, encodings, _ = tiny(family_name)
    keep = [layer for layer in range(1, 5) if layer not in skip]
    return copy.deepcopy(model), drop_layers(model, family, skip), family, keep, encodings


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def stop_after(count):
    """A track that dies in front of batch `count` + 1 of the training itself."""

    def track(iterable, description="", total=None):
        for index, item in enumerate(iterable):
            if description.startswith("distillation") and index == count:
                raise KeyboardInterrupt
            yield item

    return track
