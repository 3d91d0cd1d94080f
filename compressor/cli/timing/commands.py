"""Commands that hold what is finished against each other."""

from pathlib import Path
from typing import Annotated

import typer

from compressor.cli.options import AsJson, Device, answer
from compressor.console import say
from compressor.errors import UserError, whole_result


def bench(
    directories: Annotated[list[Path], typer.Argument(metavar="DIR", help="Model, ONNX, cascade or run directories.")],
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
    from compressor.bench.bench import Options, bench_directories, write_bench
    from compressor.bench.targets import shipped_names
    from compressor.bench.texts import read_texts
    from compressor.cli.timing.tables import bench_tables
    from compressor.files import check_out
    from compressor.measurement.machine.doctor import resolve_device
    from compressor.progress import track_for_terminal
    from compressor.recipe.compression import BenchmarkSpec
    from compressor.recipe.file import part_of_recipe

    if texts is None and text_columns:
        raise UserError("--text-column: names a column of --texts FILE, which is not given.")
    if texts is not None and lengths:
        raise UserError("--length: the texts of --texts have their own lengths; give one of the two.")
    spec = part_of_recipe(
        BenchmarkSpec,
        "benchmark",
        {"batch_sizes": batch_sizes, "lengths": lengths, "workload": False}
        | {"min_seconds": min_seconds, "min_runs": min_runs, "max_seconds": max_seconds},
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
    shipped = shipped_names(directories)
    answer(as_json, measured, lambda: [*bench_tables(measured, shipped), *map(str, written)])


def compare(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR", help="Two or more finished runs, or a sweep.")],
    variant: Annotated[
        str | None,
        typer.Option("--variant", help="Which model of every run, such as onnx_int8; by default what it ships."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show finished runs side by side, row by row with the first where they were evaluated on the same rows."""
    from compressor.bench.compare import compare_runs
    from compressor.cli.timing.compare import compare_tables
    from compressor.sweep.result import named_runs

    with whole_result(f"result.json of {', '.join(map(str, run_dirs))}"):
        compared = compare_runs(named_runs(run_dirs), variant)
        answer(as_json, compared, lambda: compare_tables(compared))
