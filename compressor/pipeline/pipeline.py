"""One run from recipe to report, stage by stage: the only place that knows the order."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compressor.files import check_target, read_json, stage_key, write_json, write_text
from compressor.measurement.machine.doctor import resolve_device
from compressor.measurement.machine.environment import environment, granted_threads, usable_cores, versions
from compressor.measurement.machine.providers import PROVIDERS, require_provider
from compressor.model.card import with_line, with_results
from compressor.pipeline.deployed import note_threads
from compressor.pipeline.finished import RESULT, RunResult
from compressor.pipeline.result import build_result
from compressor.progress import Track, silent
from compressor.recipe.compression import Recipe
from compressor.recipe.file import Overrides, dump_recipe, load_recipe
from compressor.release.manifest import write_manifest
from compressor.report.build import build_report
from compressor.report.wording.answer import answer_line
from compressor.report.wording.card import eval_results, results_section
from compressor.run.checks import prepare
from compressor.run.run import TEACHER, Run
from compressor.run.rundir import RunDir, StageRecord, open_run_dir
from compressor.run.store.store import open_store
from compressor.stages import latency, predictions, shipping, teacher
from compressor.stages.analyses import errors, ffn, roles
from compressor.stages.archive import archive
from compressor.stages.cascade import cascade, evaluation
from compressor.stages.model import model
from compressor.stages.onnx import full_onnx, onnx, tail
from compressor.stages.selection import amounts, audit, plan, scores, timing
from compressor.stages.ship import ship
from compressor.stages.stage import Stage

Say = Callable[[str], None]
CARD = "model/README.md"

STAGES: tuple[Stage, ...] = tuple(
    room.STAGE
    for room in (
        teacher,
        archive,
        scores,
        tail,
        timing,
        amounts,
        plan,
        audit,
        model,
        full_onnx,
        onnx,
        cascade,
        ship,
        predictions,
        latency,
        shipping,
        evaluation,
        errors,
        ffn,
        roles,
    )
)
"""Every stage, in the order in which they run."""


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages that a recipe needs."""
    return [stage for stage in STAGES if stage.wanted(recipe)]


def no_words(_line: str) -> None:
    """Say nothing."""


@granted_threads()
def run_recipe(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    out: str | Path | None = None,
    *,
    overrides: Overrides = (),
    device: str = "auto",
    fresh: bool = False,
    store: str | Path | None = None,
    track: Track = silent,
    say: Say = no_words,
) -> RunResult:
    """Carry a recipe through to its report in `out` (default runs/NAME); finished stages are loaded, not run again.

    The recipe is a YAML file, a dict or a Recipe; `overrides` replace values of it, as in `load_recipe`. `store` is a folder, or
    a URL that fsspec knows, in which several runs keep the stages that they have in common; `fresh` computes all of them here.

    Raises UserError where the user's input is wrong, before anything expensive and before a file is made.
    """
    recipe = load_recipe(recipe, overrides)
    path, device = default_out(recipe, out), resolve_device(device)
    if recipe.export.variants or recipe.cascade is not None:
        require_provider(PROVIDERS[device], f"--device {device}")
    run = prepare(recipe, path, device, track)
    if (usable := len(usable_cores())) < (cores := os.cpu_count() or usable):
        say(
            f"{usable} of {cores} cores may be used here: the process has no others, or a container's limit grants no more."
        )
    shared = None if store is None or fresh else open_store(store)
    with open_run_dir(path, fresh=fresh, store=shared) as folder:
        records = run_stages(run, folder, stages_of(run.recipe), say)
        result = _conclude(run, folder, records)
    return RunResult(path, result, tuple(records))


def _concluded(run: Run) -> bool:
    """Tell whether result.json is there and speaks of this very recipe."""
    try:
        return read_json(run.path / RESULT)["recipe"] == run.recipe.model_dump(mode="json")
    except (OSError, ValueError, KeyError):
        return False


def _conclude(run: Run, folder: RunDir, records: list[StageRecord]) -> dict[str, Any]:
    """Write result.json and the report of a run whose stages are all there, and its answer into card and folders."""
    result = build_result(run, STAGES, records)
    answer = result["answer"]
    folder.amend("model", CARD, lambda card: with_results(card, results_section(result), eval_results(result)))
    if answer is not None:
        folder.amend("model", CARD, lambda card: with_line(card, answer_line(answer)))
        note_threads(folder, read_json(run.path / ship.SHIP)["candidates"])
    write_json(run.path / RESULT, result)
    build_report(run.path)
    write_manifest(run.path, result, run.teacher_source.path)
    return result


@granted_threads()
def run_until(
    recipe: Recipe,
    last: str,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    track: Track = silent,
    say: Say = no_words,
) -> tuple[Path, list[StageRecord]]:
    """Run the stages up to `last` (a stage name), resuming as `run_recipe` does; return the run directory.

    Where that completes a run whose other stages were there already, result and report are written as well.
    """
    path = default_out(recipe, out)
    run = prepare(recipe, path, resolve_device(device), track)
    stages = stages_of(run.recipe)
    names = [stage.name for stage in stages]
    with open_run_dir(path) as folder:
        records = run_stages(run, folder, stages[: names.index(last) + 1], say)
        keys = stage_keys(run)
        whole = all(folder.cached(stage.name, keys[stage.name]) for stage in stages)
        if whole and not _concluded(run):
            _conclude(run, folder, run_stages(run, folder, stages, no_words))
        return path, records


def run_stages(run: Run, folder: RunDir, stages: Sequence[Stage], say: Say) -> list[StageRecord]:
    """Run or load `stages` in their order; write recipe.yaml, environment.json and log.txt beside their results."""
    write_text(run.path / "recipe.yaml", dump_recipe(run.recipe))
    write_json(run.path / "environment.json", environment(run.device))
    log = _log_file(run.path / "log.txt")
    records = []
    try:
        keys = stage_keys(run)
        _warn(run.data.warnings, log, say)
        if any(folder.cached(stage.name, keys[stage.name]) is None for stage in stages_of(run.recipe)):
            folder.forget_outcome()
        for stage in stages:
            log.info("%s starts", stage.name)
            source = shared_key(run, folder, stage, keys[stage.name]) if stage.shared(run.recipe) else None
            record = folder.stage(stage.name, keys[stage.name], stage.outputs, partial(stage.compute, run), source)
            if stage.name == TEACHER:
                keys = stage_keys(run)
            records.append(record)
            origin = "kept from before" if record.cached else "shared" if record.shared else f"{record.seconds:.1f} s"
            line = f"{stage.name}: {origin}"
            log.info(line)
            say(line)
            _warn(stage.notes(run), log, say)
    finally:
        for handler in list(log.handlers):
            handler.close()
            log.removeHandler(handler)
    return records


def _warn(notes: Sequence[str], log: logging.Logger, say: Say) -> None:
    for note in notes:
        log.warning("warning: %s", note)
        say(f"warning: {note}")


def stage_keys(run: Run) -> dict[str, str]:
    """Return the key of every stage this recipe has: its inputs, its own part of the recipe, and the keys before it."""
    keys: dict[str, str] = {}
    # two trainings under one key need not give the same weights: what stands behind a teacher is that of its files
    teacher = RunDir(run.path).content(TEACHER) if run.recipe.finetune is not None else None
    shared = {"version": versions()["compressor"], "seed": run.recipe.seed}
    there = {stage.name for stage in stages_of(run.recipe)}
    for stage in STAGES:
        # what a recipe does not want decides nothing; the teacher's key also holds a model that came fine-tuned
        after = [name for name in stage.after if name in there or name == TEACHER]
        before = {name: [keys[name], teacher] if name == TEACHER else keys[name] for name in after}
        keys[stage.name] = stage_key(stage.name, {**shared, **stage.inputs(run), "after": before})
    return keys


def shared_key(run: Run, folder: RunDir, stage: Stage, key: str) -> str:
    """Return what a stage lies under in a store: its key, and what the stages before it wrote, which their keys only promise."""
    read = {other.name: other.read for other in STAGES if other.read is not None}
    before = {name: read[name](run) if name in read else folder.content(name) for name in stage.after}
    return stage_key(stage.name, {"key": key, "device": run.device, "after": before})


def default_out(recipe: Recipe, out: str | Path | None) -> Path:
    """Return the run directory: `out`, or runs/NAME."""
    return Path(out) if out is not None else Path("runs") / recipe.name


def _log_file(path: Path) -> logging.Logger:
    check_target(path)
    log = logging.getLogger(f"compressor.run.{path}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    return log
