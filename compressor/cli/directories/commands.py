"""Commands that take a model or a run directory."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import AsJson, Device, answer
from compressor.errors import whole_result


def export(
    model_dir: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="Hugging Face directory of a classifier.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the ONNX variants.")],
    variants: Annotated[
        list[str] | None, typer.Option("--variant", help="fp32, alltokens, optimized, fp16 or int8; repeatable.")
    ] = None,
    tail: Annotated[
        bool,
        typer.Option(
            "--cls-only-tail/--no-cls-only-tail",
            help="In optimized, fp16 and int8, compute only the [CLS] row of the last layer: exact, and faster.",
        ),
    ] = True,
    opset: Annotated[
        int | None, typer.Option(help="Version of the ONNX operators; Optimum's default otherwise.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Export a classifier to ONNX, one folder a variant, and check each against PyTorch.

    The CLS-only tail takes the form that is faster on the device.
    """
    from compressor.cli.directories.tables import export_table
    from compressor.export.directory import export_directory
    from compressor.measurement.machine.doctor import resolve_device
    from compressor.measurement.machine.providers import PROVIDERS
    from compressor.progress import track_for_terminal
    from compressor.recipe.compression import ExportSpec
    from compressor.recipe.file import part_of_recipe

    spec = part_of_recipe(ExportSpec, "export", {"opset": opset})
    wanted, provider = variants or list(spec.variants), PROVIDERS[resolve_device(device)]
    written = export_directory(
        model_dir, out, wanted, tail=tail, opset=spec.opset, provider=provider, track=track_for_terminal()
    )
    answer(as_json, written, lambda: [export_table(written)])


def explain(
    model_dir: Annotated[
        Path, typer.Argument(metavar="MODEL_DIR", help="Hugging Face directory of a classifier, such as RUN_DIR/model.")
    ],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="The text to classify, in quotes.")],
    text_pair: Annotated[
        str | None, typer.Argument(metavar="TEXT_PAIR", help="Its second text, for tasks on pairs.")
    ] = None,
    top: Annotated[int, typer.Option("--top", help="Tokens shown for each node.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Account for one prediction node by node: charges that sum to the logits, tokens that move them, confidence.

    Each node of the classification head gives every class a charge: its activation times its output weight. Charges and
    bias sum to the logits. Tokens are hidden one at a time to see which move a node most. A compressed model with a
    folded head has a few nodes; of another model the 16 with the largest charges are shown.
    """
    from compressor.analysis.explain import explain_directory
    from compressor.cli.directories.explain import explain_tables
    from compressor.progress import track_for_terminal

    found = explain_directory(model_dir, text, text_pair, top=top, track=track_for_terminal())
    answer(as_json, found.to_dict(), lambda: explain_tables(found))


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A finished run.")], as_json: AsJson = False
) -> None:
    """Rebuild report.html, report.md and the figures from result.json."""
    from compressor.release.manifest import renew_pages
    from compressor.report.build import build_report

    with whole_result(f"{run_dir / 'result.json'}"):
        paths = [str(path) for path in build_report(run_dir)]
    renew_pages(run_dir)
    answer(as_json, paths, lambda: paths)
