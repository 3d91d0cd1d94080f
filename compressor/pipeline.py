"""One run from recipe to report, stage by stage: the only place that knows the order."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from compressor.measurement.doctor import resolve_device
from compressor.measurement.environment import environment, versions
from compressor.measurement.providers import require_provider
from compressor.progress import Track, silent
from compressor.recipe import Recipe
from compressor.recipe_file import dump_recipe
from compressor.report.build import build_report
from compressor.results import build_result
from compressor.run import TAIL, TEACHER, Run, measures_tail, prepare
from compressor.rundir import RunDir, StageRecord, open_run_dir, read_json, stage_key, write_json, write_text
from compressor.stage_inputs import (
    analysis_inputs,
    cascade_inputs,
    export_inputs,
    latency_inputs,
    model_inputs,
    plan_inputs,
    scores_inputs,
    shipping_inputs,
    tail_inputs,
    teacher_inputs,
    timing_inputs,
)
from compressor.stages import (
    EXPLAINED,
    FULL_ONNX,
    PREDICTIONS,
    PROVIDERS,
    make_full_onnx,
    make_onnx,
    make_predictions,
    make_tail,
    make_teacher,
)
from compressor.stages_analysis import ANALYSES, make_analysis, stage_name
from compressor.stages_analysis import FOLDER as ANALYSIS
from compressor.stages_cascade import FITTED, FOLDER, MEASURED, make_cascade, make_cascade_evaluation
from compressor.stages_latency import make_latency
from compressor.stages_model import make_model
from compressor.stages_selection import ARRAYS, make_audit, make_plan, make_scores, make_timing
from compressor.stages_shipping import SHIPPED, make_shipping

Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """One stage: what it writes, the stages and inputs that its key depends on, and the function that computes it."""

    name: str
    outputs: Sequence[str]
    after: Sequence[str]
    inputs: Callable[[Run], dict[str, Any]]
    compute: Callable[[Run, Path], None]


STAGES: tuple[Stage, ...] = (
    Stage("teacher", (TEACHER, f"{TEACHER}.json"), (), teacher_inputs, make_teacher),
    Stage("scores", ("scores.json", f"{ARRAYS}/calibration_logits.npy"), ("teacher",), scores_inputs, make_scores),
    Stage("timing", ("timing.json",), ("teacher",), timing_inputs, make_timing),
    Stage(
        "plan",
        ("plan.json", f"{ARRAYS}/selection_logits.npy"),
        ("scores",),
        plan_inputs,
        make_plan,
    ),
    Stage("audit", ("audit.json",), ("plan",), lambda _run: {}, make_audit),
    Stage("model", ("model", "model.json"), ("plan",), model_inputs, make_model),
    Stage("tail", (TAIL,), ("teacher",), tail_inputs, make_tail),
    Stage("onnx", ("onnx", "onnx.json"), ("model", "tail"), export_inputs, make_onnx),
    Stage(FULL_ONNX, (FULL_ONNX, f"{FULL_ONNX}.json"), ("teacher", "tail"), export_inputs, make_full_onnx),
    Stage(
        "predictions",
        (PREDICTIONS, "parity.json", EXPLAINED),
        ("onnx", FULL_ONNX),
        lambda run: {"evaluation": run.data.evaluation.sha256, "device": run.device},
        make_predictions,
    ),
    Stage("latency", ("latency.json", "latency_raw.json"), ("predictions",), latency_inputs, make_latency),
    Stage("shipping", (SHIPPED,), ("latency",), shipping_inputs, make_shipping),
    Stage("cascade", (FOLDER, FITTED), ("teacher", "model", "onnx"), cascade_inputs, make_cascade),
    Stage(
        "cascade-evaluation",
        (f"{MEASURED}.npz", f"{MEASURED}.json"),
        ("cascade", "predictions"),
        latency_inputs,
        make_cascade_evaluation,
    ),
    *(
        Stage(stage_name(name), (f"{ANALYSIS}/{name}.json",), after, analysis_inputs, make_analysis(name))
        for name, (after, _) in ANALYSES.items()
    ),
)
"""Every stage, in the order in which they run."""


def stages_of(recipe: Recipe) -> list[Stage]:
    """Return the stages that a recipe needs: a model that comes fine-tuned needs no teacher stage, audits are a wish."""
    no_cascade = recipe.cascade is None
    unwanted = {TEACHER: recipe.finetune is None, "audit": not recipe.selection.audit}
    unwanted |= {"tail": not measures_tail(recipe), "shipping": recipe.export.variants != "auto"}
    unwanted |= {"cascade": no_cascade, "cascade-evaluation": no_cascade}
    unwanted |= {stage_name(name): name not in recipe.analysis for name in ANALYSES}
    return [stage for stage in STAGES if not unwanted.get(stage.name)]


def no_words(_line: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class RunResult:
    """A finished run: its directory, the content of result.json, and how each stage ended."""

    path: Path
    result: dict[str, Any]
    stages: tuple[StageRecord, ...]

    @property
    def goals_met(self) -> bool:
        """Whether the recipe's goals hold; True where it names none."""
        goals = self.result.get("goals")
        return goals is None or goals["met"] is not False


def run_recipe(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    fresh: bool = False,
    track: Track = silent,
    say: Say = no_words,
) -> RunResult:
    """Carry a recipe through to its report in `out` (default runs/NAME); finished stages are loaded, not run again.

    Raises UserError where the user's input is wrong, before anything expensive and before a file is made.
    """
    path, device = default_out(recipe, out), resolve_device(device)
    if recipe.export.variants or recipe.cascade is not None:
        require_provider(PROVIDERS[device], f"--device {device}")
    run = prepare(recipe, path, device, track)
    with open_run_dir(path, fresh=fresh) as folder:
        records = run_stages(run, folder, stages_of(recipe), say)
        result = _conclude(run, records)
    return RunResult(path, result, tuple(records))


def _concluded(run: Run) -> bool:
    """Tell whether result.json is there and speaks of this very recipe."""
    try:
        return read_json(run.path / "result.json")["recipe"] == run.recipe.model_dump(mode="json")
    except (OSError, ValueError, KeyError):
        return False


def _conclude(run: Run, records: list[StageRecord]) -> dict[str, Any]:
    """Write result.json and the report of a run whose stages are all there."""
    result = build_result(run, records)
    write_json(run.path / "result.json", result)
    build_report(run.path)
    return result


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
    stages = stages_of(recipe)
    names = [stage.name for stage in stages]
    with open_run_dir(path) as folder:
        records = run_stages(run, folder, stages[: names.index(last) + 1], say)
        keys = stage_keys(run)
        whole = all(folder.cached(stage.name, keys[stage.name]) for stage in stages)
        if whole and not _concluded(run):
            _conclude(run, run_stages(run, folder, stages, no_words))
        return path, records


def run_stages(run: Run, folder: RunDir, stages: Sequence[Stage], say: Say) -> list[StageRecord]:
    """Run or load `stages` in their order; write recipe.yaml, environment.json and log.txt beside their results."""
    write_text(run.path / "recipe.yaml", dump_recipe(run.recipe))
    write_json(run.path / "environment.json", environment(run.device))
    log = _log_file(run.path / "log.txt")
    records = []
    try:
        keys = stage_keys(run)
        if any(folder.cached(stage.name, keys[stage.name]) is None for stage in stages_of(run.recipe)):
            folder.forget_outcome()
        for stage in stages:
            log.info("%s starts", stage.name)
            record = folder.stage(stage.name, keys[stage.name], stage.outputs, partial(stage.compute, run))
            records.append(record)
            line = f"{stage.name}: {'kept from before' if record.cached else f'{record.seconds:.1f} s'}"
            log.info(line)
            say(line)
    finally:
        for handler in list(log.handlers):
            handler.close()
            log.removeHandler(handler)
    return records


def stage_keys(run: Run) -> dict[str, str]:
    """Return the key of every stage this recipe has: its inputs, its own part of the recipe, and the keys before it."""
    keys: dict[str, str] = {}
    shared = {"version": versions()["compressor"], "seed": run.recipe.seed}
    for stage in STAGES:
        before = {name: keys[name] for name in stage.after}
        keys[stage.name] = stage_key(stage.name, {**shared, **stage.inputs(run), "after": before})
    return keys


def default_out(recipe: Recipe, out: str | Path | None) -> Path:
    """Return the run directory: `out`, or runs/NAME."""
    return Path(out) if out is not None else Path("runs") / recipe.name


def _log_file(path: Path) -> logging.Logger:
    log = logging.getLogger(f"compressor.run.{path}")
    log.setLevel(logging.INFO)
    log.propagate = False
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    log.addHandler(handler)
    return log
