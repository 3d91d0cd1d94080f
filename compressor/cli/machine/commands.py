"""Commands about the machine and the recipes it takes."""

from dataclasses import asdict
from typing import Annotated

import typer

from compressor.cli.options import AsJson, answer
from compressor.console import print_json
from compressor.errors import UserError, nearest


def schema(
    kind: Annotated[
        str, typer.Option("--kind", help="compression, placement (an experiment) or sweep.")
    ] = "compression",
) -> None:
    """Print the JSON Schema of a kind of recipe, for editors."""
    from compressor.recipe.file import KINDS

    if kind not in KINDS:
        raise UserError(f"--kind {kind}: not a kind of recipe{nearest(kind, KINDS) or ';'} known: {', '.join(KINDS)}.")
    print_json(KINDS[kind].model_json_schema())


def doctor(as_json: AsJson = False) -> None:
    """Try every device and execution provider; say what does not work, why, and the remedy.

    Exit code 1: the best device of this machine (the GPU where there is a driver, else the CPU) does not work.
    """
    from compressor.cli.machine.tables import doctor_tables
    from compressor.measurement.machine.doctor import doctor as examine

    diagnosis = examine()
    answer(as_json, asdict(diagnosis), lambda: doctor_tables(asdict(diagnosis)))
    if not diagnosis.ok:
        raise typer.Exit(1)
