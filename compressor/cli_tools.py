"""Commands that take directories, not recipes; `cli.py` puts them beside its own."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli_options import AsJson, Device
from compressor.console import print_json, say, show
from compressor.errors import UserError


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
        print_json(written)
    else:
        from compressor.terminal import export_table

        show(export_table(written))


def bench(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Model, ONNX, cascade or run directories.")
    ],
    batch_sizes: Annotated[list[int] | None, typer.Option("--batch", help="Batch size; repeatable.")] = None,
    lengths: Annotated[list[int] | None, typer.Option("--length", help="Tokens; repeatable.")] = None,
    min_seconds: Annotated[float, typer.Option(help="Shortest measurement of a cell.")] = 5.0,
    min_runs: Annotated[int, typer.Option(help="Fewest runs of each model in a cell.")] = 100,
    max_seconds: Annotated[float, typer.Option(help="Longest measurement of a cell.")] = 60.0,
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts", help="Replay these texts at their real lengths: csv, tsv, jsonl, parquet, or txt by line."
        ),
    ] = None,
    text_columns: Annotated[
        list[str] | None, typer.Option("--text-column", help="Column of --texts; twice for pairs.")
    ] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time model or run directories, interleaved, on a batch x length grid or on real texts.

    A cascade (guarded early exit) is timed on real texts alone: random tokens say nothing of its exits.
    """
    from compressor.bench import bench_directories, read_texts
    from compressor.pipeline import resolve_device
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import benchmark_spec

    if texts is None and text_columns:
        raise UserError("--text-column: names a column of --texts FILE, which is not given.")
    if texts is not None and lengths:
        raise UserError("--length: the texts of --texts have their own lengths; give one of the two.")
    spec = benchmark_spec(
        {"batch_sizes": batch_sizes, "lengths": lengths, "workload": False}
        | {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds}
    )
    rows = None if texts is None else read_texts(texts, text_columns or ())
    measured = bench_directories(
        directories, spec, texts=rows, device=resolve_device(device), track=track_for_terminal()
    )
    for name in measured["left_out"]:
        say(f"{name}: left out, a cascade is timed on real texts alone; give some with --texts FILE.")
    if as_json:
        print_json(measured)
    else:
        from compressor.terminal import latency_table, stats_line

        lines = [stats_line(name, stats) for name, stats in measured["cascades"].items()]
        show(latency_table(measured["latency"]), *lines)


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Two or more finished runs.")],
    variant: Annotated[
        str, typer.Option("--variant", help="Which model of every run, such as onnx_int8.")
    ] = "compressed",
    as_json: AsJson = False,
) -> None:
    """Show finished runs side by side, row by row with the first where they were evaluated on the same rows."""
    from compressor.compare import compare_runs

    compared = compare_runs(run_dirs, variant)
    if as_json:
        print_json(compared)
    else:
        from compressor.terminal_compare import compare_tables

        show(*compare_tables(compared))


def explain(
    model_dir: Annotated[
        Path,
        typer.Argument(metavar="MODEL_DIR", help="Hugging Face directory of a classifier, such as RUN_DIR/model."),
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
    from compressor.explain import explain_directory
    from compressor.progress import track_for_terminal

    found = explain_directory(model_dir, text, text_pair, top=top, track=track_for_terminal())
    if as_json:
        print_json(found.to_dict())
    else:
        from compressor.terminal_explain import explain_tables

        show(*explain_tables(found))


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="A finished run.")], as_json: AsJson = False
) -> None:
    """Rebuild report.html, report.md and the figures from result.json."""
    from compressor.report.build import build_report

    paths = [str(path) for path in build_report(run_dir)]
    if as_json:
        print_json(paths)
    else:
        show(*paths)


def schema() -> None:
    """Print the JSON Schema of the recipe, for editors."""
    from compressor.recipe import Recipe

    print_json(Recipe.model_json_schema())


def doctor(as_json: AsJson = False) -> None:
    """Show devices, execution providers and versions; say why CUDA is not used, and the remedy."""
    from compressor.measurement.environment import doctor as examine

    diagnosis = examine()
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        from compressor.terminal import doctor_lines

        show(*doctor_lines(diagnosis.to_dict()))
    if not diagnosis.ok:
        raise typer.Exit(1)


COMMANDS = (export, bench, compare, explain, report, schema, doctor)
"""In the order in which `--help` lists them."""
