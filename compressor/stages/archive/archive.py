"""The stage that reads an archive once: the states of its texts are summed for the scores, the moments of blocks for the fits."""

import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.data.archive.stream import CHUNK, files_of, rows_of
from compressor.errors import UserError
from compressor.files import read_json, write_json
from compressor.model.capture import HELD_OUT
from compressor.model.families import layer_list
from compressor.model.states.sums import StateSums
from compressor.recipe.compression import Recipe
from compressor.run.archive import ARCHIVE, KNOWN, SAMPLE, STATES, columns_of, known_texts
from compressor.run.run import Run
from compressor.run.workers import share_of, spread
from compressor.stages.archive.shard import DONE, Counts, Shard, gather
from compressor.stages.selection import amounts
from compressor.stages.selection.scores import scores_parts
from compressor.stages.stage import Stage

POLL_S = 0.2
MOST = 1024
"""Readers at most, where the number of chunks is not known."""


def wanted(recipe: Recipe) -> bool:
    """Return whether there is an archive."""
    return recipe.data.archive is not None


def inputs(run: Run) -> dict[str, Any]:
    """Return what the sums depend on: not on who reads the archive, since the chunks are the same."""
    spec = run.recipe.data.archive
    parts = {name: getattr(run.data, name) for name in KNOWN}
    fits, parts_spec = amounts.wanted(run.recipe), amounts.spec_of_parts(run.recipe)
    return {
        "archive": spec and spec.model_dump(mode="json", exclude={"engine", "files"}),
        "files": spec and run.archive_files,
        "columns": spec and columns_of(spec, run.data),
        "known": {name: part.sha256 for name, part in parts.items() if part is not None},
        "max_length": run.recipe.data.max_length,
        "inner": scores_parts(run),
        "parts": fits and parts_spec.units,
        "protect": fits and parts_spec.protect,
        **run.task_inputs,
    }


def compute(run: Run, folder: Path) -> None:
    """Read the archive, by as many readers as the recipe says; add up what they summed."""
    spec, started = run.recipe.data.archive, time.monotonic()
    work = folder / ".readers"
    try:
        shards = shards_of(run, work)
        met = _gathered(run, shards)
        total = Counts(*(sum(getattr(one, each.name) for one in met) for each in fields(Counts)))
        if total.texts < HELD_OUT:
            raise UserError(
                f"data.archive: {total.texts} texts are left of it ({total.empty} rows are empty, {total.known} stand in parts "
                f"of the data that decide), and the fits take at least {HELD_OUT}; name more text."
            )
        merge([Path(shard.folder) for shard in shards], folder / ARCHIVE, run, shards[0])
    finally:
        shutil.rmtree(work, ignore_errors=True)
    seconds = time.monotonic() - started
    told = {**asdict(total), "readers": len(shards), "seconds": seconds, "texts_per_second": total.texts / seconds}
    write_json(folder / f"{ARCHIVE}.json", {"source": spec.hub or spec.paths, **told})


def shards_of(run: Run, work: Path) -> list[Shard]:
    """Return the shares of the archive's readers; their arrays go to folders below `work`."""
    spec, single = run.recipe.data.archive, run.kind == SINGLE_LABEL
    readers, threads = _readers(run)
    inner, layers = scores_parts(run), len(layer_list(run.teacher, run.family))
    one = Shard(
        spec=spec,
        columns=columns_of(spec, run.data),
        known=known_texts(run),
        model=str(run.teacher_source.path.resolve()),
        kind=run.kind,
        device=run.device,
        threads=threads,
        max_length=run.recipe.data.max_length,
        states=(layers * (2 if inner else 1) + 1) * single,
        classes=run.classes,
        inner=inner,
        sample=SAMPLE,
        seed=run.recipe.seed,
        blocks=tuple(amounts.blocks(run) if amounts.wanted(run.recipe) else ()),
        share=(0, 1),
        folder="",
    )
    return [
        replace(one, share=(reader, readers), folder=str(work.resolve() / str(reader))) for reader in range(readers)
    ]


def _readers(run: Run) -> tuple[int, int]:
    """Return how many readers there are, never more than chunks, and the threads of each."""
    engine, rows = run.recipe.data.archive.engine, rows_of(run.recipe.data.archive)
    most = MOST if rows is None else -(-rows // CHUNK)
    readers = min(share_of(engine, most).workers, most)
    alone = readers == 1 and engine.kind == "local" and engine.threads is None
    return readers, torch.get_num_threads() if alone else share_of(engine, readers).threads


def _gathered(run: Run, shards: Sequence[Shard]) -> list[Counts]:
    """Return what the readers met, and show how far they are."""
    engine, rows = run.recipe.data.archive.engine, rows_of(run.recipe.data.archive)
    total = None if rows is None else -(-rows // CHUNK)
    told = f"texts of the archive, in thousands, by {len(shards)} reader{'s' * (len(shards) > 1)}"
    if len(shards) == 1 and engine.kind == "local":
        return [gather(shards[0], lambda found: run.track(found, told, total=total))]
    pool = ThreadPoolExecutor(1)
    try:
        future = pool.submit(lambda: list(spread(gather, shards, engine)))
        for _ in run.track(_chunks_done(future, [Path(shard.folder) / DONE for shard in shards]), told, total=total):
            pass
        return future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _chunks_done(future: Future, files: Sequence[Path]) -> Iterator[int]:
    """Yield once for every chunk that some reader is through with, until all are."""
    seen = 0
    while not future.done():
        now = 0
        for file in files:
            with suppress(FileNotFoundError):
                now += file.stat().st_size
        yield from range(seen, now)
        seen = max(seen, now)
        time.sleep(POLL_S)


def merge(folders: Sequence[Path], into: Path, run: Run, shard: Shard) -> None:
    """Add up what readers left in their folders, one array at a time; write the arrays `into` a folder."""
    into.mkdir()
    if shard.states:
        width = run.teacher.config.hidden_size
        sums = StateSums.empty(shard.states, shard.classes, width, shard.sample, shard.seed)
        for folder in folders:
            sums.merge({name: np.load(folder / f"{STATES}{name}.npy") for name in sums.arrays()})
        for name, value in sums.arrays().items():
            np.save(into / f"{STATES}{name}.npy", value)
    for name in sorted(path.name for path in folders[0].glob("*.npy") if not path.name.startswith(STATES)):
        total = np.load(folders[0] / name)
        for folder in folders[1:]:
            total = total + np.load(folder / name, mmap_mode="r")
        np.save(into / name, total)


def cost(run: Run) -> str:
    """Return the expected work."""
    spec = run.recipe.data.archive
    rows = rows_of(spec)
    told = f"{rows:,} rows" if rows is not None else spec.hub or f"{len(files_of(spec))} files"
    return f"1 pass over the archive ({told})"


def result(run: Run) -> dict[str, Any]:
    """Return what was read, where there is an archive."""
    return {ARCHIVE: read_json(run.path / f"{ARCHIVE}.json") if wanted(run.recipe) else None}


STAGE = Stage(ARCHIVE, (f"{ARCHIVE}.json", ARCHIVE), ("teacher",), inputs, compute, cost, wanted, result)
