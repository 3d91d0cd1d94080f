"""The command that takes a model and texts, and no recipe. Heavy imports wait until it needs them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressor.cli.options import AsJson, Device, Out, Overrides
from compressor.cli.recipes.commands import print_outcome
from compressor.console import print_json, say, show

if TYPE_CHECKING:
    from compressor.cli.tables import Grid
    from compressor.pipeline.quick import Finding


def quick(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Directory or hub id of a fine-tuned classifier.", show_default=False)
    ],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="One file of texts (csv, tsv, jsonl, json, parquet, txt), or a folder with train, validation and test files.",
            show_default=False,
        ),
    ],
    goal: Annotated[
        str, typer.Option("--goal", help="What may change: exact, lossless (at most 1 % of predictions) or near.")
    ] = "lossless",
    text: Annotated[
        list[str] | None, typer.Option("--text", metavar="COL", help="The text column; twice for pairs of texts.")
    ] = None,
    label: Annotated[
        str | None, typer.Option("--label", metavar="COL", help="The label column; none: go without labels.")
    ] = None,
    labels: Annotated[
        list[str] | None,
        typer.Option("--labels", metavar="VALUE=CLASS,...", help="What values of the label column mean: bad=negative."),
    ] = None,
    unseen: Annotated[
        bool | None,
        typer.Option(
            "--unseen/--seen",
            help="Whether the model was not trained on these texts. Early exits that are guarded by a certificate need texts "
            "that it has not seen, and are left out where that is not known.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the run; MODEL-DATA by default.")] = None,
    out: Out = None,
    overrides: Overrides = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what was found, the recipe and the expected time; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compress a fine-tuned classifier on your own texts, without a recipe: columns, labels and splits are found.

    What was found, and why, is printed first; labels are not needed. The recipe that is made of it stands in the run's folder.
    """
    from compressor.pipeline.quick import Options, as_dicts, plan_quick, quick_recipe, run_quick
    from compressor.progress import track_for_terminal
    from compressor.recipe.quick import labels_mapping

    options = Options(
        goal=goal,
        text=tuple(text or ()),
        label=label,
        labels=labels_mapping(labels) if labels else None,
        seen=None if unseen is None else not unseen,
        name=name,
        overrides=tuple(overrides or ()),
    )
    made = quick_recipe(model, data, out, options)
    if dry_run:
        from compressor.cli.recipes.tables import stages_table
        from compressor.pipeline.dry_run import expected_seconds
        from compressor.recipe.file import dump_recipe

        stages = plan_quick(made, device=device)
        if as_json:
            found = {"found": as_dicts(made.findings), "recipe": made.recipe.model_dump(mode="json")}
            print_json({**found, "stages": [asdict(stage) for stage in stages], "seconds": expected_seconds(stages)})
        else:
            show(found_table(made.findings))
            typer.echo(dump_recipe(made.recipe), nl=False)
            show(stages_table(stages))
        return
    show(found_table(made.findings), stderr=as_json)
    print_outcome(run_quick(made, device=device, track=track_for_terminal(), say=say), as_json)


def found_table(findings: "Sequence[Finding]") -> "Grid":
    """Return a row for each thing that was found: what, which, why."""
    from compressor.cli.tables import Column, Grid, words

    rows = [(finding.what, finding.found, finding.why) for finding in findings]
    return Grid("", [*words("", "found"), Column("why", words=True, below=True)], rows)
