"""The command line: a command parses, calls one function, prints. Heavy imports wait until a command needs them."""

import errno
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.errors import UserError

GOALS_MISSED = 3

app = typer.Typer(
    name="compressor",
    help="Skip layers of a fine-tuned BERT, make up for them, and ship ONNX with the evidence.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML recipe.", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a recipe field; may be repeated.")
]
Out = Annotated[Path | None, typer.Option("--out", help="Run directory; runs/NAME by default.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout, and nothing else there.")]


@app.callback()
def main_options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Skip layers of a fine-tuned BERT, make up for them, and ship ONNX with the evidence."""


@app.command()
def run(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    device: Device = "auto",
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute every stage anew.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline; resume by itself where an earlier run stopped. Exit code 3: the recipe's goals are missed."""
    from compressor.pipeline import run_recipe
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    done = run_recipe(loaded, out, device=device, fresh=fresh, track=track_for_terminal(), say=_say)
    if as_json:
        _print_json(done.result)
    else:
        from compressor.terminal import result_table, verdict

        _show(result_table(done.result), verdict(done.result), f"report: {done.path / 'report.html'}")
    if not done.goals_met:
        for miss in done.result["goals"]["misses"]:
            _say(f"goal missed: {miss}")
        raise typer.Exit(GOALS_MISSED)


@app.command()
def validate(recipe: RecipeFile, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check a recipe and print it with every default filled in."""
    from compressor.recipe_file import dump_recipe, load_recipe

    loaded = load_recipe(recipe, overrides or ())
    if as_json:
        _print_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(dump_recipe(loaded), nl=False)


@app.command()
def plan(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Dry run: stages, what is kept, expected work; then scores and the skip plan, without training or export."""
    from dataclasses import asdict

    from compressor.pipeline import dry_run, run_until
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import load_recipe
    from compressor.rundir import read_json
    from compressor.terminal import plan_table, scores_table, stages_table

    loaded = load_recipe(recipe, overrides or ())
    stages = dry_run(loaded, out, device=device)
    if not as_json:
        _show(stages_table(stages))
    if any(stage.name == "teacher" and not stage.cached for stage in stages):
        _say("scores and plan come once the full model is fine-tuned: `compressor finetune` does that alone.")
        if as_json:
            _print_json({"stages": [asdict(stage) for stage in stages], "scores": None, "plan": None})
        return
    path, _ = run_until(loaded, "plan", out, device=device, track=track_for_terminal(), say=_say)
    scores, found = read_json(path / "scores.json"), read_json(path / "plan.json")
    if as_json:
        _print_json({"stages": [asdict(stage) for stage in stages], "scores": scores, "plan": found})
    else:
        _show(scores_table(scores, found["skip"]), plan_table(found))


@app.command()
def score(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Print the separability of every layer's [CLS] state."""
    from compressor.rundir import read_json
    from compressor.terminal import scores_table

    path = _run_until(recipe, overrides, "scores", out, device)
    scores = read_json(path / "scores.json")
    if as_json:
        _print_json(scores)
    else:
        _show(scores_table(scores))


@app.command()
def finetune(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Make the teacher only: fine-tune the recipe's model into RUN_DIR/teacher."""
    from compressor.recipe_file import load_recipe
    from compressor.rundir import read_json

    if load_recipe(recipe, overrides or ()).finetune is None:
        raise UserError(
            f"{recipe}: finetune: the recipe has no finetune section; add one, such as finetune: {{epochs: 3}}."
        )
    path = _run_until(recipe, overrides, "teacher", out, device)
    trained = {"path": str(path / "teacher"), **read_json(path / "teacher.json")}
    if as_json:
        _print_json(trained)
    else:
        _show(f"loss by epoch: {', '.join(f'{loss:.4f}' for loss in trained['loss'])}", f"teacher: {trained['path']}")


@app.command()
def export(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Hugging Face directory of a classifier.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the ONNX variants.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="fp32, optimized or int8; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Export a classifier to ONNX, one folder a variant, and check each against PyTorch."""
    from compressor.export.command import export_directory
    from compressor.progress import track_for_terminal
    from compressor.recipe import ExportSpec

    wanted = variants or list(ExportSpec().variants)
    written = export_directory(model_dir, out, wanted, track=track_for_terminal())
    if as_json:
        _print_json(written)
    else:
        from compressor.terminal import export_table

        _show(export_table(written))


@app.command()
def bench(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Model, ONNX or run directories.")],
    batch_sizes: Annotated[list[int] | None, typer.Option("--batch", help="Batch size; repeatable.")] = None,
    lengths: Annotated[list[int] | None, typer.Option("--length", help="Tokens; repeatable.")] = None,
    min_seconds: Annotated[float, typer.Option(help="Shortest measurement of a cell.")] = 5.0,
    min_runs: Annotated[int, typer.Option(help="Fewest runs of each model in a cell.")] = 100,
    max_seconds: Annotated[float, typer.Option(help="Longest measurement of a cell.")] = 60.0,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time model or run directories, interleaved, on a batch x length grid."""
    from compressor.bench import bench_directories
    from compressor.pipeline import resolve_device
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import benchmark_spec

    spec = benchmark_spec(
        {"batch_sizes": batch_sizes, "lengths": lengths, "workload": False}
        | {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds}
    )
    measured = bench_directories(directories, spec, device=resolve_device(device), track=track_for_terminal())
    if as_json:
        _print_json(measured)
    else:
        from compressor.terminal import latency_table

        _show(latency_table(measured["latency"]))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A finished run.")], as_json: AsJson = False
) -> None:
    """Rebuild report.html, report.md and the figures from result.json."""
    from compressor.report.build import build_report

    paths = [str(path) for path in build_report(run_dir)]
    if as_json:
        _print_json(paths)
    else:
        _show(*paths)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the recipe, for editors."""
    from compressor.recipe import Recipe

    _print_json(Recipe.model_json_schema())


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show devices, execution providers and versions; say why CUDA is not used, and the remedy."""
    from compressor.measurement.environment import doctor as examine

    diagnosis = examine()
    if as_json:
        _print_json(diagnosis.to_dict())
    else:
        from compressor.terminal import doctor_lines

        _show(*doctor_lines(diagnosis.to_dict()))
    if not diagnosis.ok:
        raise typer.Exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; turn errors into one sentence on stderr and the exit code of their kind."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app(args=arguments, prog_name="compressor")
    except UserError as error:
        _fail(str(error), 2)
    except Exception as error:  # the boundary of the program: anything else is our fault
        if _disk_full(error):
            where = f" ({error.filename})" if getattr(error, "filename", None) else ""
            _fail(f"the disk is full{where}; free space and run the same command again, it resumes.", 2)
        if "--debug" in arguments:
            raise
        _fail(f"{type(error).__name__}: {error} (our fault; `compressor --debug ...` shows where).", 1)


def _disk_full(error: BaseException | None) -> bool:
    """Tell whether `error` or what caused it is a full disk or quota; safetensors and NumPy hide the error number."""
    while error is not None:
        number, text = getattr(error, "errno", None), str(error).lower()
        numpy_cut_short = isinstance(error, OSError) and "requested and" in text
        if number in {errno.ENOSPC, errno.EDQUOT} or "no space left on device" in text or numpy_cut_short:
            return True
        error = error.__cause__ or error.__context__
    return False


def _fail(message: str, code: int) -> None:
    typer.echo(f"error: {message}", err=True)
    sys.exit(code)


def _run_until(recipe: Path, overrides: list[str] | None, last: str, out: Path | None, device: str) -> Path:
    from compressor.pipeline import run_until
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    return run_until(loaded, last, out, device=device, track=track_for_terminal(), say=_say)[0]


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _print_json(value: Any) -> None:  # noqa: ANN401
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def _show(*parts: Any) -> None:  # noqa: ANN401
    from rich.console import Console

    from compressor.terminal import show

    console = Console()
    # a pipe or a narrow window would cut numbers off; tables then keep their own width
    show(Console(width=max(console.width, 160)) if not console.is_terminal else console, *parts)


if __name__ == "__main__":
    main()
