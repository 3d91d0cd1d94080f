"""Commands that take directories, not recipes; `cli.py` puts them beside its own."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli_options import AsJson, Device
from compressor.console import print_json, say, show
from compressor.errors import UserError, nearest


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
    from compressor.export.command import export_directory
    from compressor.measurement.doctor import resolve_device
    from compressor.progress import track_for_terminal
    from compressor.recipe import ExportSpec
    from compressor.stages import PROVIDERS

    spec = ExportSpec()
    wanted, provider = variants or list(spec.variants), PROVIDERS[resolve_device(device)]
    written = export_directory(
        model_dir, out, wanted, tail=tail, opset=opset, provider=provider, track=track_for_terminal()
    )
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
    against: Annotated[Path | None, typer.Option(help="The one model that everything is compared with.")] = None,
    pytorch: Annotated[
        list[str] | None,
        typer.Option("--pytorch", help="eager, padded, compiled or compiled-padded PyTorch; repeatable."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens that padded PyTorch pads to; 128 by default.")] = None,
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="Also replay ONNX models as CUDA graphs.")] = False,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of every model; PyTorch's choice by default.")
    ] = None,
    footprint: Annotated[
        bool, typer.Option("--footprint/--no-footprint", help="Cold start and memory, in processes of their own.")
    ] = True,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for bench.json and bench.png.")] = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time model or run directories, interleaved, on a batch x length grid or on real texts.

    Each model is compared with the full model of its own run in the same format where there is one, else with the first;
    a speed-up counts where it is above the noise that the opponent shows against itself. A cascade (guarded early exit)
    is timed on real texts alone: random tokens say nothing of its exits.
    """
    from compressor.bench import Options, bench_directories, write_bench
    from compressor.bench_texts import read_texts
    from compressor.measurement.doctor import resolve_device
    from compressor.progress import track_for_terminal
    from compressor.recipe_file import benchmark_spec
    from compressor.rundir import check_out

    if texts is None and text_columns:
        raise UserError("--text-column: names a column of --texts FILE, which is not given.")
    if texts is not None and lengths:
        raise UserError("--length: the texts of --texts have their own lengths; give one of the two.")
    spec = benchmark_spec(
        {"batch_sizes": batch_sizes, "lengths": lengths, "workload": False}
        | {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds}
    )
    if out is not None:
        check_out(out)
    rows = None if texts is None else read_texts(texts, text_columns or ())
    options = Options(tuple(pytorch or ("eager",)), max_length, cuda_graph, against, threads, footprint)
    measured = bench_directories(
        directories, spec, texts=rows, device=resolve_device(device), options=options, track=track_for_terminal()
    )
    written = [] if out is None else write_bench(measured, out)
    if measured["environment"]["device"]["kind"] == "cuda" and measured["no_tensorrt"]:
        say(f"TensorRT: left out, {measured['no_tensorrt']}.")
    for name in measured["left_out"]:
        say(f"{name}: left out, a cascade is timed on real texts alone; give some with --texts FILE.")
    if as_json:
        print_json(measured)
    else:
        from compressor.terminal import footprint_table, latency_table, noise_lines, stats_line

        tables = [latency_table(measured["latency"])]
        tables += [footprint_table(measured["footprint"])] if measured["footprint"] else []
        lines = [stats_line(name, stats) for name, stats in measured["cascades"].items()]
        show(*tables, *noise_lines(measured["noise_floor"]), *lines, *map(str, written))


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


def schema(
    kind: Annotated[str, typer.Option("--kind", help="compression or placement (an experiment).")] = "compression",
) -> None:
    """Print the JSON Schema of a kind of recipe, for editors."""
    from compressor.recipe_file import KINDS

    if kind not in KINDS:
        raise UserError(f"--kind {kind}: not a kind of recipe{nearest(kind, KINDS) or ';'} known: {', '.join(KINDS)}.")
    print_json(KINDS[kind].model_json_schema())


def doctor(as_json: AsJson = False) -> None:
    """Try every device and execution provider; say what does not work, why, and the remedy.

    Exit code 1: the best device of this machine (the GPU where there is a driver, else the CPU) does not work.
    """
    from compressor.measurement.doctor import doctor as examine

    diagnosis = examine()
    if as_json:
        print_json(diagnosis.to_dict())
    else:
        from compressor.terminal import doctor_tables

        show(*doctor_tables(diagnosis.to_dict()))
    if not diagnosis.ok:
        raise typer.Exit(1)


COMMANDS = (export, bench, compare, explain, report, schema, doctor)
"""In the order in which `--help` lists them."""
