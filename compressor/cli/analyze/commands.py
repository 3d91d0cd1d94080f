"""`compressor analyze errors|ffn|roles|placement`: explain a model; `cli.py` puts the group beside its own commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from compressor.cli.options import AsJson, Device, Overrides, Panels, answer, interruptible
from compressor.console import say

ALARM = 3

analyze = typer.Typer(
    cls=Panels,
    name="analyze",
    help="Explain a model: its confident errors, what its feed-forward blocks do, the role of each layer, where blocks belong.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
Target = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|RUN_DIR",
        help="A recipe (its full model is analysed) or a finished run (the compressed model is looked at as well).",
        show_default=False,
    ),
]
Page = Annotated[
    Path | None, typer.Option("--out", help="Folder for a page of its own, its figures and the JSON file.")
]


@analyze.command()
@interruptible
def ffn(
    target: Target, overrides: Overrides = None, out: Page = None, device: Device = "auto", as_json: AsJson = False
) -> None:
    """Are the feed-forward blocks structural or do they classify? Energies, null, probes, and real removal of each."""
    from compressor.pipeline.analyses import analyze_ffn_of

    found = analyze_ffn_of(target, overrides or (), say=say, **_options(device, out))
    _finish("ffn", found, out, as_json, f"FFN roles: {target}")


@analyze.command()
@interruptible
def errors(
    target: Target,
    overrides: Overrides = None,
    column: Annotated[
        str | None, typer.Option("--column", help="Column of the recipe's validation file whose values are slices.")
    ] = None,
    out: Page = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """How confident are the errors, could any layer have avoided them, and where do they lie?"""
    from compressor.pipeline.analyses import analyze_errors_of

    found = analyze_errors_of(target, overrides or (), column, say=say, **_options(device, out))
    _finish("errors", found, out, as_json, f"Errors: {target}")


@analyze.command()
@interruptible
def roles(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Directory of an encoder or a decoder checkpoint.")
    ],
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="RECIPE", help="Fine-tune a copy for a few steps on this recipe's text as well."
        ),
    ] = None,
    overrides: Overrides = None,
    against: Annotated[Path | None, typer.Option("--against", help="A second checkpoint, side by side.")] = None,
    steps: Annotated[
        list[Path] | None, typer.Option("--steps", help="Later checkpoints of the same model, in order; repeatable.")
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="Bootstrap draws.")] = 200,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 0,
    out: Page = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Hub, damper, passthrough or specialist: the role of each layer, read from the weights. Exit code 3: an alarm."""
    from compressor.errors import UserError
    from compressor.pipeline.analyses import analyze_roles_of
    from compressor.recipe.base import Seed
    from compressor.recipe.file import in_range

    in_range(Seed, "--seed", seed)
    if overrides and trace is None:
        raise UserError("--set: overrides the recipe of --trace, which is not given.")
    found = analyze_roles_of(
        model_dir, trace=trace, overrides=overrides or (), against=against, steps=steps or (), seed=seed, draws=draws,
        **_options(device, out),
    )  # fmt: skip
    _finish("roles", found, out, as_json, f"Layer roles: {model_dir}")
    if found["alarms"]:
        for alarm in found["alarms"]:
            say(f"alarm: {alarm['text']}")
        raise typer.Exit(ALARM)


@analyze.command()
@interruptible
def placement(
    recipe: Annotated[
        Path, typer.Argument(metavar="RECIPE", help="YAML recipe of a placement experiment.", show_default=False)
    ],
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for all runs, the page and the JSON file; runs/NAME by default."),
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Which layers need a feed-forward block? Train encoders of equal size from scratch that differ in nothing else."""
    from compressor.placement.experiment import analyze_placement_of

    found, folder = analyze_placement_of(recipe, overrides or (), out, say=say, **_options(device))
    if found is not None:  # several processes may work at one experiment: the first one reports
        _finish("placement", found, folder, as_json, f"FFN placement: {found['name']}")


def _options(device: str, out: Path | None = None) -> dict[str, Any]:
    """Return what every analysis takes, once it is sure that its page can be written to `out`."""
    from compressor.files import check_out
    from compressor.measurement.machine.doctor import resolve_device
    from compressor.progress import track_for_terminal

    if out is not None:
        check_out(out)
    return {"device": resolve_device(device), "track": track_for_terminal()}


def _finish(name: str, found: dict[str, Any], out: Path | None, as_json: bool, title: str) -> None:
    from compressor.cli.analyze.tables import section_lines
    from compressor.pipeline.analyses import write_analysis
    from compressor.report.analyses import SECTIONS

    written = write_analysis(out, name, found, title) if out is not None else []
    pages = [f"page: {path}" for path in written if path.suffix == ".html"]
    answer(as_json, found, lambda: [*section_lines(SECTIONS[name](found)), *pages])
