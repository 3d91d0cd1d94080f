"""Commands that take a recipe. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli.options import AsJson, Device, Out, Overrides, RecipeFile, answer
from compressor.console import print_json, say, show
from compressor.errors import UserError

if TYPE_CHECKING:
    from compressor.pipeline.pipeline import RunResult

GOALS_MISSED = 3
Fresh = Annotated[bool, typer.Option("--fresh", help="Compute every stage anew.")]


def run(
    recipe: RecipeFile,
    out: Out = None,
    overrides: Overrides = None,
    device: Device = "auto",
    fresh: Fresh = False,
    store: Annotated[
        str | None,
        typer.Option("--store", help="Folder or URL (s3://...) of the stages that several runs have in common."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline; resume by itself where an earlier run stopped. Exit code 3: the recipe's goals are missed."""
    from compressor.pipeline.pipeline import run_recipe
    from compressor.progress import track_for_terminal
    from compressor.recipe.file import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    track = track_for_terminal()
    done = run_recipe(loaded, out, device=device, fresh=fresh, store=store, track=track, say=say)
    print_outcome(done, as_json)


def demo(
    out: Out = None, overrides: Overrides = None, device: Device = "auto", fresh: Fresh = False, as_json: AsJson = False
) -> None:
    """Run the embedded example, which needs no hub and no files: fine-tune, compress, export and measure in minutes.

    Its recipe comes with the package; RUN_DIR/recipe.yaml is a copy to start your own from.
    """
    from compressor.recipe.file import DEMO

    run(DEMO, out, overrides, device, fresh=fresh, as_json=as_json)


def print_outcome(done: "RunResult", as_json: bool) -> None:
    """Print a finished run; ends with exit code 3 where its goals are missed."""
    if as_json:
        print_json(done.result)
    else:
        from compressor.cli.recipes.tables import answer_lines, result_table, verdict
        from compressor.report.wording.cascade import cascade_line
        from compressor.report.wording.export import shipped_line

        cascade = done.result.get("cascade")
        shipped = done.result["shipped"]
        lines = [*([cascade_line(cascade)] if cascade else []), *([shipped_line(shipped)] if shipped else [])]
        if done.result["answer"]:
            show(*answer_lines(done.result["answer"]))
        else:
            show(result_table(done.result), *lines, verdict(done.result))
        show(f"report: {done.path / 'report.html'}")
    if not done.goals_met:
        choice = done.result["goals"]["selection"]
        if choice and not choice["met"] and not as_json:
            from compressor.cli.recipes.choice import candidates_table

            show(candidates_table(choice))
        for miss in [*done.result["goals"]["misses"], *(done.result["answer"] or {}).get("misses", [])]:
            say(f"goal missed: {miss}")
        raise typer.Exit(GOALS_MISSED)


def validate(
    recipe: RecipeFile,
    overrides: Overrides = None,
    syntax_only: Annotated[
        bool, typer.Option("--syntax-only", help="Leave out whether the model and the files that it names are there.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a recipe, whether of a compression, a placement experiment or a sweep, and print it with every default filled in.

    Paths, columns and the model's configuration are looked at as well; hubs are not asked.
    """
    from compressor.recipe.file import dump_recipe, load_any

    loaded = load_any(recipe, overrides or ())
    if not syntax_only:
        from compressor.recipe.sweep import SweepRecipe
        from compressor.run.inputs import check_inputs
        from compressor.sweep.points import points_of

        for one in (
            [point.recipe for point in points_of(loaded, recipe)] if isinstance(loaded, SweepRecipe) else [loaded]
        ):
            check_inputs(one)
    if as_json:
        print_json(loaded.model_dump(mode="json"))
    else:
        typer.echo(dump_recipe(loaded), nl=False)


def plan(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Dry run: stages, what is kept, expected work; then scores and the skip plan, without training or export."""
    from dataclasses import asdict

    from compressor.cli.recipes.choice import candidates_table
    from compressor.cli.recipes.tables import plan_table, prediction_table, scores_table, stages_table
    from compressor.files import read_json
    from compressor.pipeline.dry_run import dry_run, expected_seconds
    from compressor.pipeline.goals import with_speed
    from compressor.recipe.file import load_recipe

    stages = dry_run(load_recipe(recipe, overrides or ()), out, device=device)
    if not as_json:
        show(stages_table(stages))
    names = ("scores", "plan", "timing")
    if any(stage.name == "teacher" and not stage.cached for stage in stages):
        say("scores and plan come once the full model is fine-tuned: `compressor finetune` does that alone.")
        read = dict.fromkeys(names)
    else:
        path = _run_until(recipe, overrides, "plan", out, device)
        read = {name: read_json(path / f"{name}.json") for name in names}
    if as_json:
        print_json({"stages": [asdict(stage) for stage in stages], "seconds": expected_seconds(stages), **read})
    elif read["plan"]:
        scores, found, timing = read.values()
        choice = [candidates_table(with_speed(found["goals"], timing))] if found["goals"] else []
        show(
            scores_table(scores, found["skip"]),
            plan_table(found),
            *choice,
            prediction_table(timing, found["units"], found["layers"]),
        )


def score(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Print the separability of every layer's [CLS] state."""
    from compressor.cli.recipes.tables import scores_table
    from compressor.files import read_json

    path = _run_until(recipe, overrides, "scores", out, device)
    scores = read_json(path / "scores.json")
    answer(as_json, scores, lambda: [scores_table(scores)])


def audit(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Hold every score against the damage that real forward passes measure; find the best set of every size."""
    from compressor.cli.recipes.choice import audit_tables, frontier_table
    from compressor.files import read_json
    from compressor.report.build import audit_figures

    path = _run_until(recipe, [*(overrides or ()), "selection.audit=true"], "audit", out, device)
    found, timing, plan = (read_json(path / f"{name}.json") for name in ("audit", "timing", "plan"))
    figures = audit_figures(path, found, timing, plan)
    if as_json:
        print_json({**found, "timing": timing})
    else:
        show(*audit_tables(found), frontier_table(found["frontier"], timing), found["reading"])
        show(*(f"figure: {figure}" for figure in figures))


def finetune(
    recipe: RecipeFile, out: Out = None, overrides: Overrides = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Make the teacher only: fine-tune the recipe's model into RUN_DIR/teacher."""
    from compressor.files import read_json
    from compressor.recipe.file import load_recipe

    if load_recipe(recipe, overrides or ()).finetune is None:
        raise UserError(
            f"{recipe}: finetune: the recipe has no finetune section; add one, such as finetune: {{epochs: 3}}."
        )
    path = _run_until(recipe, overrides, "teacher", out, device)
    trained = {"path": str(path / "teacher"), **read_json(path / "teacher.json")}
    losses = ", ".join(f"{loss:.4f}" for loss in trained["loss"])
    answer(as_json, trained, lambda: [f"loss by epoch: {losses}", f"teacher: {trained['path']}"])


def _run_until(recipe: Path, overrides: list[str] | None, last: str, out: Path | None, device: str) -> Path:
    from compressor.pipeline.pipeline import run_until
    from compressor.progress import track_for_terminal
    from compressor.recipe.file import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    return run_until(loaded, last, out, device=device, track=track_for_terminal(), say=say)[0]
