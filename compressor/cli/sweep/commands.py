"""The command that runs many points from one file."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import AsJson, Device, Overrides, answer
from compressor.console import say, show


def sweep(
    recipe: Annotated[Path, typer.Argument(metavar="SWEEP", help="YAML file of a sweep.", show_default=False)],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the sweep; runs/NAME by default.")] = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the points, what is there already and the time; run nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run many points, models x data x overrides x seeds, on this machine or a Ray cluster; what is done is kept.

    A point that fails is reported and the others go on; the exit code is then 2, or 1 where it is not the input's fault.
    """
    from dataclasses import asdict

    from compressor.cli.sweep.tables import expected_table, points_table, total_line
    from compressor.progress import track_for_terminal
    from compressor.recipe.file import load_spec
    from compressor.recipe.sweep import SweepRecipe
    from compressor.sweep.result import PAGE
    from compressor.sweep.sweep import expected, run_sweep

    loaded = load_spec(recipe, SweepRecipe, overrides or ())
    if dry_run:
        found = expected(loaded, out, source=recipe, device=device)
        answer(as_json, [asdict(point) for point in found], lambda: [expected_table(found), total_line(found)])
        return
    done = run_sweep(loaded, out, source=recipe, device=device, track=track_for_terminal(), say=say)
    answer(as_json, done.result, lambda: [points_table(done.result)])
    if not as_json:
        show(f"sweep: {done.path / PAGE}")
    for row in done.failed:
        say(f"failed: {row['name']}: {row['error']}")
    if done.failed:
        raise typer.Exit(2 if all(row["code"] == 2 for row in done.failed) else 1)
