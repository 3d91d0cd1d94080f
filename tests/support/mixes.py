"""Trials and mixes whose damage is known."""

import numpy as np

from compressor.model.units import join_pieces, ordered, pieces, unit_of
from compressor.selection.budget.mixes import Damages
from compressor.selection.trials import Trial
from compressor.selection.trie import count_applications


class Known:
    """Trials whose damage is that of `damages`, as for a search on real rows."""

    kinds = None

    def __init__(self, layers, damages):
        self.layers, self.damages, self.seen = [None] * layers, damages, []
        self.rows = self.counted = 100

    def __call__(self, sets, _description):
        self.seen += sets
        return [self.trial(mix) for mix in sets]

    def trial(self, mix):
        kl = self.damages.together(mix)
        return Trial(mix, 1 - kl / 100, kl, 0.0, 0.0, None, None, None, None)

    def applications(self, sets):
        return count_applications(len(self.layers), sets)

    def seconds(self, sets):
        return float(len(sets))

    def unknown(self, sets):
        return list(sets)


def additive(damage):
    """Return damages that add up, from (layer, part) -> what it does."""
    return Damages(tuple(damage), np.diag(list(damage.values())))


def meeting(savings, generator, rows=12):
    """Return damages whose parts meet: random shifts, larger for what saves more, and alike within a block."""
    common = {}
    shifts = {}
    for (layer, part), saved in savings.items():
        base = common.setdefault((layer, pieces(part)[0][:4] if part else "layer"), generator.normal(size=(rows, 1)))
        shifts[layer, part] = float(np.mean(saved)) * (base + 0.3 * generator.normal(size=(rows, 1)))
    return Damages.of(shifts)


def every_mix(savings, layers):
    """Return all mixes with one piece of each block at most, or the whole layer, that leave a layer."""
    mixes = [{}]
    for layer in range(1, layers + 1):
        own = [part for number, part in savings if number == layer]
        attention, ffn = ([""] + [part for part in own if part and pieces(part)[block]] for block in (0, 1))
        joined = [join_pieces(one, other) for one in attention for other in ffn]
        options = [{}, *({layer: part} for part in joined if part), *([{layer: ""}] if "" in own else [])]
        mixes = [{**mix, **new} for mix in mixes for new in options]
    return [
        ordered(unit_of(*item) for item in mix.items())
        for mix in mixes
        if sum(part == "" for part in mix.values()) < layers
    ]
