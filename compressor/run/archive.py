"""The archive of a run: what of it is looked at before work, and what the pass over it left for several stages."""

from collections.abc import Collection
from functools import partial
from pathlib import Path

import numpy as np

from compressor.compensation.refits.moments import Block, StoredMoments
from compressor.data.answers.kinds import TOKENS
from compressor.data.archive.stream import first_chunk
from compressor.data.batches import same_tokens
from compressor.data.tasks import TaskData
from compressor.errors import UserError
from compressor.model.states.sums import StateSums
from compressor.recipe.data import ArchiveSpec
from compressor.run.run import Run
from compressor.run.workers import check_engine

ARCHIVE = "archive"
"""Folder of the sums in the run directory, and the name of the stage that makes them."""
STATES = "states-"
"""What the names of the sums over states begin with; all other arrays of readers are added up."""
SAMPLE = 2000
"""States that are kept of the rows, as many as of any other text."""
KNOWN = "selection", "evaluation", "guard"
"""Parts of the data by which something is chosen or judged: their texts are left out of the archive."""


def check_archive(spec: ArchiveSpec | None, data: TaskData, kind: str) -> None:
    """Raise UserError where an archive cannot be read, has other columns, or what is to read it is not there."""
    if spec is None:
        return
    if kind == TOKENS:
        raise UserError(
            "data.archive: texts of an archive are no lists of words, and this model labels words; leave it out."
        )
    first_chunk(spec, columns_of(spec, data))
    check_engine(spec.engine)


def columns_of(spec: ArchiveSpec, data: TaskData) -> tuple[str, ...]:
    """Return the text columns of an archive; raises UserError where they are of another number than the model reads."""
    given = (spec.text,) if isinstance(spec.text, str) else tuple(spec.text or data.text_columns)
    if len(given) != len(data.text_columns):
        raise UserError(
            f"data.archive.text: {len(given)} column{'s' * (len(given) != 1)}, and the rest of the data has "
            f"{len(data.text_columns)}; name as many."
        )
    return given


def known_texts(run: Run) -> frozenset[tuple[str, ...]]:
    """Return the texts that the archive gives way to, as a tokenizer tells them apart."""
    same, parts = same_tokens(run.tokenizer), (getattr(run.data, name) for name in KNOWN)
    return frozenset(same(text) for part in parts if part is not None for text in part.texts)


def archive_states(run: Run, states: int, classes: int) -> StateSums:
    """Return what is kept of the states of the archive's rows."""
    load = partial(load_sums, run.path)
    sums = StateSums.empty(states, classes, run.teacher.config.hidden_size, SAMPLE, run.recipe.seed)
    sums.merge({name: load(f"{STATES}{name}") for name in sums.arrays()})
    return sums


def archive_moments(run: Run, blocks: Collection[Block]) -> StoredMoments:
    """Return the moments of `blocks` over the archive's rows."""
    return StoredMoments(run.teacher, run.family, blocks, partial(load_sums, run.path))


def load_sums(path: Path, name: str) -> np.ndarray:
    """Return an array that the pass over the archive left in a run directory."""
    return np.load(path / ARCHIVE / f"{name}.npy", allow_pickle=False)
