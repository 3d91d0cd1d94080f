"""`compressor analyze`: one analysis of a recipe's full model, of a finished run, or of a checkpoint's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from compressor.analysis.roles.compare import compare_roles, role_trajectory
from compressor.analysis.roles.roles import analyze_roles
from compressor.analysis.roles.trace import trace_roles
from compressor.data.answers.config import need_single_label
from compressor.data.files import read_table
from compressor.errors import UserError
from compressor.files import write_json
from compressor.measurement.machine.environment import granted_threads
from compressor.pipeline.pipeline import Say, default_out, no_words, run_until
from compressor.progress import Track, silent
from compressor.recipe.file import load_recipe
from compressor.report.build import build_analysis
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.stages.analyses.errors import errors_of
from compressor.stages.analyses.ffn import ffn_of


def target_run(
    target: Path, overrides: Sequence[str] = (), *, device: str = "cpu", track: Track = silent, say: Say = no_words
) -> tuple[Run, bool]:
    """Return the run behind a recipe or a run directory, and whether its compressed model is there.

    A recipe that fine-tunes has its full model made first, in the recipe's own run directory. Raises UserError where the
    target is neither, or the run is not finished.
    """
    directory = target if target.is_dir() else None
    recipe_file = target if directory is None else directory / "recipe.yaml"
    if directory is not None and not recipe_file.is_file():
        raise UserError(f"{target}: neither a recipe nor a run directory (it holds no recipe.yaml).")
    recipe = load_recipe(recipe_file, overrides)
    path = directory or default_out(recipe, None)
    if recipe.finetune is not None and directory is None:
        run_until(recipe, "teacher", path, device=device, track=track, say=say)
        say = no_words  # the warnings are said
    run = prepare(recipe, path, device, track)
    for note in run.data.warnings:
        say(f"warning: {note}")
    if directory is not None and not (path / "model" / "config.json").is_file():
        raise UserError(f"{target}: the run has no compressed model yet; finish it with `compressor run`.")
    return run, directory is not None


@granted_threads()
def analyze_ffn_of(target: Path, overrides: Sequence[str] = (), **options: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return the analysis of the feed-forward blocks of a recipe's or run's full model; options of `target_run`."""
    run = target_run(target, overrides, **options)[0]
    need_single_label(run.kind, str(target), "feed-forward blocks are told apart by what they do for classes")
    return ffn_of(run)


@granted_threads()
def analyze_errors_of(
    target: Path,
    overrides: Sequence[str] = (),
    column: str | None = None,
    **options: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Return the analysis of the errors of the full model and, in a run directory, of the compressed one beside it.

    `column` names a column of the recipe's own validation file whose values are slices. Options of `target_run`.
    """
    run, finished = target_run(target, overrides, **options)
    need_single_label(run.kind, str(target), "errors are answers of another class")
    if run.data.evaluation.labels is None or run.data.selection.labels is None:
        raise UserError(f"{target}: errors are told by gold labels, and the data has none; set data.label.")
    values = None if column is None else evaluation_column(run, column)
    return errors_of(run, run.compressed if finished else None, values, column or "column")


@granted_threads()
def analyze_roles_of(
    model_dir: Path,
    *,
    trace: Path | None = None,
    overrides: Sequence[str] = (),
    against: Path | None = None,
    steps: Sequence[Path] = (),
    seed: int = 0,
    draws: int = 200,
    device: str = "cpu",
    track: Track = silent,
) -> dict[str, Any]:
    """Return the roles of a checkpoint's layers, beside another checkpoint or along a trajectory where these are given."""
    traced = None
    if trace is not None:
        run, _ = target_run(trace, overrides, device=device, track=track)
        need_single_label(run.kind, str(trace), "a trace fine-tunes towards classes")
        labels = run.data.train.labels
        if labels is None:
            raise UserError(
                f"{trace}: a trace fine-tunes for a few steps and needs labelled training text; set data.label."
            )
        traced = trace_roles(run.teacher, run.family, run.encode(run.data.train), labels, seed=seed, track=track)
    made = {"seed": seed, "draws": draws, "track": track}
    found = analyze_roles(model_dir, trace=traced, **made)
    # other checkpoints are not traced, so their roles are held against those of the weights alone
    plain = analyze_roles(model_dir, **made) if traced is not None and (against is not None or steps) else found
    beside = asdict(compare_roles(plain, analyze_roles(against, **made))) if against is not None else None
    path = asdict(role_trajectory([plain, *(analyze_roles(step, **made) for step in steps)])) if steps else None
    return asdict(replace(found, against=beside, steps=path))


def evaluation_column(run: Run, column: str) -> list[str]:
    """Return the values of a column of the validation file for every evaluation row, as text.

    Raises UserError where the recipe has no file of its own, or the file no such column.
    """
    path = run.recipe.data.validation
    if path is None:
        raise UserError(f"--column {column}: only the recipe's own data.validation file has columns; leave it out.")
    try:
        values = read_table(Path(path), "data.validation", run.recipe.data.encoding).column(column)
    except UserError as error:
        raise UserError(f"--column {column}: {error}") from error
    rows = [int(name.rpartition(":")[2]) for name in run.data.evaluation.ids]
    return [str(values[row]) for row in rows]


def write_analysis(out: Path, name: str, analysis: Mapping[str, Any], title: str) -> list[Path]:
    """Write out/NAME.json, out/NAME.html and out/figures/NAME_*.png; return their paths."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / f"{name}.json", dict(analysis))
        return [out / f"{name}.json", *build_analysis(out, name, analysis, title)]
    except OSError as error:
        raise UserError(f"--out {out}: cannot be written ({error.strerror}); check rights and space.") from error
