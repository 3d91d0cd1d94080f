"""Moments of rows."""

import numpy as np

from compressor.analysis.ffn.energy import GroupMoments, row_groups


def moments_of(rows, labels, groups=10, classes=None, batches=3):
    """The moments of rows [N, H], merged from several batches."""
    classes = classes or int(labels.max()) + 1
    made = GroupMoments.empty(1, groups, classes, rows.shape[1])
    dealt = row_groups(labels, groups, seed=0)
    for part in np.array_split(np.arange(len(rows)), batches):
        made.add(rows[None, part], np.zeros((1, len(part))), np.ones(len(part)), dealt[part], labels[part])
    return made
