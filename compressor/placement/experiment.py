"""The placement experiment: encoders with equally many parameters, their feed-forward blocks in different layers."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from compressor.errors import UserError
from compressor.measurement.machine.environment import granted_threads
from compressor.placement.data import SHARED, load_tasks, prepare_text, task_text
from compressor.placement.importance import Importances, importances
from compressor.placement.results import MLM, Improvement, Verdict, improvement, verdict
from compressor.placement.runs import Prepared, jobs_of, read_run, right_rows, run_jobs, work_of
from compressor.placement.widths import UNIFORM, Placement, placements_of
from compressor.progress import Track, silent
from compressor.recipe.file import load_spec
from compressor.recipe.placement import PlacementRecipe
from compressor.run.rundir import STAGES_FOLDER

LONGEST_WAIT = timedelta(days=1)
"""How long further processes wait while the first one fine-tunes."""


@dataclass(frozen=True)
class PlacementRun:
    """One finished run; `mlm_loss` in nats, None where it was unstable, as then are `tasks`: name -> accuracy, predictions."""

    placement: str
    seed: int
    status: str
    parameters: int
    mlm_loss: float | None
    mlm_accuracy: float | None
    tasks: dict[str, dict[str, Any]]
    steps: int
    curve: list[float]
    halvings: int
    events: list[dict[str, Any]]
    seconds: float


@dataclass(frozen=True)
class PlacementAnalysis:
    """A whole experiment. `placements` are those of the recipe, the uniform one first; `rows` are the evaluation's by metric."""

    name: str
    recipe: dict[str, Any]
    layers: int
    hidden: int
    ffn: int
    seeds: list[int]
    placements: list[Placement]
    text: dict[str, float]
    rows: dict[str, int]
    runs: list[PlacementRun]
    improvements: list[Improvement]
    importances: list[Importances]
    verdicts: list[Verdict]


@granted_threads()
def analyze_placement_of(
    recipe_file: Path,
    overrides: Sequence[str] = (),
    out: Path | None = None,
    *,
    device: str = "cpu",
    track: Track = silent,
    say: Callable[[str], None] = lambda _line: None,
) -> tuple[dict[str, Any] | None, Path]:
    """Train what a placement recipe asks for and is not there yet; return what all runs show, and their folder.

    The result is None in all processes but the first of a training on several GPUs. Raises UserError for a recipe that
    cannot be trained, before anything is.
    """
    recipe = load_spec(recipe_file, PlacementRecipe, overrides)
    folder = folder_of(recipe, out)
    made = prepare_placement(recipe, folder, device=device, say=say)
    main = made.accelerator.is_main_process
    train_placement(made, track=track if main else silent)
    return asdict(analyze_placement(made)) if main else None, folder


def prepare_placement(
    recipe: PlacementRecipe, folder: Path, *, device: str = "cpu", say: Callable[[str], None] = lambda _line: None
) -> Prepared:
    """Check the recipe, read tasks and text, and make what all runs share below `folder`.

    Raises UserError for placements that are impossible, unknown tasks, no text, or a vocabulary that does not fit,
    before anything is trained.
    """
    placements = placements_of(recipe.placements, recipe.encoder)
    data = load_tasks(recipe)
    for note in (note for task in data for note in task.warnings):
        say(f"warning: {note}")
    accelerator = make_accelerator(recipe, device)
    try:
        text = prepare_text(recipe, folder)
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be written ({error.strerror}); check rights and space.") from error
    tasks = [task_text(spec, found, text.tokenizer) for spec, found in zip(recipe.tasks, data, strict=True)]
    return Prepared(recipe, placements, text, tasks, jobs_of(placements, recipe.seeds, folder), accelerator)


def train_placement(made: Prepared, *, track: Track = silent) -> None:
    """Finish the runs of an experiment, resuming what was interrupted; several processes with one folder share them."""
    total = len(made.jobs) * work_of(made)
    steps = iter(track(range(total), f"{len(made.jobs)} runs, steps", total=total))

    def tick(count: int) -> None:
        for _ in range(count):
            next(steps, None)

    run_jobs(made, tick)
    close = getattr(steps, "close", None)  # ends the bar
    if close:
        close()


def analyze_placement(made: Prepared) -> PlacementAnalysis:
    """Return what the finished runs show; raises UserError where one is missing."""
    stored = {job: read_run(job, made) for job in made.jobs}
    missing = [job.name for job, result in stored.items() if result is None]
    if missing:
        raise UserError(
            f"{missing[0]}: this run is not finished, nor are {len(missing) - 1} others; run the recipe again."
        )
    widths = {placement.name: placement.widths for placement in made.placements}
    correct: dict[str, dict[str, dict[int, Any]]] = {task.name: {name: {} for name in widths} for task in made.tasks}
    tables: dict[str, dict[str, dict[int, float]]] = {
        metric: {name: {} for name in widths} for metric in (MLM, *correct)
    }
    for job, result in stored.items():
        if result["status"] == "ok":
            name = job.placement.name
            tables[MLM][name][job.seed] = result["mlm_loss"]
            for task in made.tasks:
                tables[task.name][name][job.seed] = result["tasks"][task.name]["accuracy"]
                correct[task.name][name][job.seed] = right_rows(result, task)
    improvements = [
        improvement(name, metric, table, correct.get(metric))
        for metric, table in tables.items()
        for name in widths
        if name != UNIFORM
    ]
    encoder, text = made.recipe.encoder, made.text
    return PlacementAnalysis(
        name=made.recipe.name,
        recipe=made.recipe.model_dump(mode="json"),
        layers=encoder.layers,
        hidden=encoder.hidden,
        ffn=encoder.width,
        seeds=list(made.recipe.seeds),
        placements=made.placements,
        text={
            "texts": text.texts, "sequences": len(text.train), "tokens": int(text.train.ids.size),
            "held_out_sequences": len(text.evaluation), "vocabulary": len(text.tokenizer), "unigram_loss": text.unigram_loss,
            "epochs": made.recipe.pretrain.steps * made.recipe.pretrain.batch_size / len(text.train),
        },
        rows={MLM: int(text.masked.chosen.sum()), **{task.name: len(task.evaluation) for task in made.tasks}},
        runs=[PlacementRun(job.placement.name, job.seed, **result) for job, result in stored.items()],
        improvements=improvements,
        importances=[
            importances(metric, widths, {
                each.placement: dict(zip(each.seeds, each.values, strict=True))
                for each in improvements
                if each.metric == metric
            })
            for metric in tables
        ],
        verdicts=[verdict(table, metric) for metric, table in tables.items()],
    )  # fmt: skip


def make_accelerator(recipe: PlacementRecipe, device: str) -> Accelerator:
    """Return what puts the training on a processor, a GPU or, started by `accelerate launch`, on several.

    Raises UserError where the batch cannot be divided among the processes and parts.
    """
    wanted = recipe.pretrain.precision
    bf16 = wanted == "bf16" or (wanted == "auto" and device.startswith("cuda") and torch.cuda.is_bf16_supported())
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision="bf16" if bf16 else "no",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=LONGEST_WAIT)],
    )
    parts = accelerator.num_processes * recipe.pretrain.accumulate
    if recipe.pretrain.batch_size % parts:
        raise UserError(
            f"pretrain.batch_size: {recipe.pretrain.batch_size} sequences cannot be shared by {accelerator.num_processes} "
            f"processes in {recipe.pretrain.accumulate} parts each; make it a multiple of {parts}."
        )
    return accelerator


def folder_of(recipe: PlacementRecipe, out: Path | None) -> Path:
    """Return where an experiment is kept: `out`, or runs/NAME.

    Raises UserError where the folder holds something else, or cannot be written.
    """
    folder = out or Path("runs") / recipe.name
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SHARED / STAGES_FOLDER).is_dir():
        raise UserError(f"--out {folder}: this folder holds other files; name an empty or a new folder.")
    return folder
