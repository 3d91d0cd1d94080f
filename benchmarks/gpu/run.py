"""BERT-base on a GPU: latency, throughput, the search through all 4,096 sets of layers, and a whole compression.

    python -m benchmarks.gpu.run [--part latency] [--precision fp16] [--minutes 9]      # a GPU is needed
    python -m benchmarks.gpu.run --quick --device cpu                                   # every line, on two narrow layers

It needs Python 3.11, PyTorch with CUDA, onnxruntime-gpu, transformers 4.57, optimum, optimum-onnx, onnx, numpy, scipy,
pydantic, safetensors, tokenizers, and this checkout on PYTHONPATH. With scikit-learn the pipeline's scores are timed whole;
matplotlib is for `--part tables` alone. Weights are random and every figure is labelled so: time depends on shapes alone.

Parts can be run one by one: each keeps what the others measured in the results file, and stops when its minutes are over;
the same command again measures what is left.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.latency import measure_grid, measure_workload
from benchmarks.gpu.models import (
    BASE,
    FAMILY,
    PRECISIONS,
    QUICK,
    Files,
    Size,
    make_files,
    make_models,
    workload_lengths,
)
from benchmarks.gpu.results import RESULTS, machine, opened_results, results_file, write
from benchmarks.gpu.search import measure_pipeline, measure_search
from benchmarks.gpu.subjects import load
from compressor.errors import UserError
from compressor.export.tail import choose_form
from compressor.measurement.machine.doctor import torch_obstacle
from compressor.measurement.machine.libraries import CUDA, driver_cuda
from compressor.measurement.machine.providers import CPU, require_provider


@dataclass
class Session:
    """One command: what it measures, what the results file has already, and when its time is over."""

    arguments: argparse.Namespace
    size: Size
    lengths: np.ndarray
    source: str
    out: Path
    results: dict[str, Any]
    ends: float
    made: dict[int, Files] = field(default_factory=dict)

    @property
    def device(self) -> str:
        """Where it measures."""
        return self.arguments.device

    @property
    def precisions(self) -> list[str]:
        """The precisions asked for."""
        return self.arguments.precision or list(PRECISIONS)

    @property
    def compiled(self) -> bool:
        """Whether torch.compile takes part."""
        return not self.arguments.no_compile

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.ends - time.monotonic()

    def late(self) -> bool:
        """Tell whether the time is over."""
        return self.left() < 0

    def keep(self, part: str, found: dict[str, Any]) -> None:
        """Write what a part found, with the environment it was found in."""
        self.results[part] = {**found, "environment": machine(self.device)}
        write(self.out, self.results)

    def models(self) -> dict[int, Path]:
        """Return layers removed -> Hugging Face directory; made where they are not there."""
        return make_models(self.size, self.arguments.work)

    def form(self) -> str:
        """Return the form of the CLS-only tail that this device runs faster; measured once a results file."""
        if self.arguments.fresh or "tail" not in self.results:
            provider = CUDA if self.device == "cuda" else CPU
            seconds = self.size.max_seconds / 4
            choice = choose_form(load(self.models()[0], "cpu"), FAMILY, provider, seconds=seconds)
            self.keep("tail", {"form": choice.form, "provider": choice.provider, "cells": choice.cells})
        return self.results["tail"]["form"]

    def files(self) -> dict[int, Files]:
        """Return layers removed -> ONNX files; made where they are not there."""
        if not self.made:
            jobs = self.arguments.jobs
            self.made, seconds = make_files(self.models(), self.form(), self.precisions, jobs)
            sizes = {
                self.size.layers - skip: {name: path.stat().st_size for name, path in files.tail.items()}
                for skip, files in self.made.items()
            }
            self.keep("files", {"bytes": sizes, "seconds": seconds, "exports_at_a_time": jobs})
            print(f"  models exported in {seconds:.0f} s", flush=True)
        return self.made


def latency(session: Session) -> None:
    """Measure the grid of batch x length; cells in the results file are kept, unless all is to be fresh."""
    cells = {} if session.arguments.fresh else dict(session.results.get("latency", {}).get("cells", {}))

    def save(cell: dict[str, Any]) -> None:
        cells.update(cell)
        session.keep("latency", {"cells": cells})

    lacking = measure_grid(
        session.size, session.files(), session.precisions, session.device,
        compiled=session.compiled, done=dict(cells), late=session.late, save=save,
    )  # fmt: skip
    say_left(lacking)


def workload(session: Session) -> None:
    """Replay texts at their real lengths."""
    found = measure_workload(
        session.size, session.files(), session.lengths, session.precisions, session.device,
        compiled=session.compiled, late=session.late,
    )  # fmt: skip
    say_left(found["left"])
    lengths = session.lengths
    facts = {"texts": len(lengths), "mean": float(lengths.mean()), "deviation": float(lengths.std())}
    session.keep("workload", {**found, "lengths": {"source": session.source, **facts}})


def search(session: Session) -> None:
    """Try every set of layers."""
    found = measure_search(session.size, session.models()[0], session.lengths, session.device, session.left)
    session.keep("search", {"by_precision": found, "lengths": session.source})


def pipeline(session: Session) -> None:
    """Time a whole compression."""
    found = measure_pipeline(
        session.size, session.models()[0], session.lengths, session.device, session.form(), session.precisions
    )
    session.keep("pipeline", {**found, "lengths": session.source})
    print(f"  pipeline: {found['total_seconds']:.1f} s", flush=True)


PARTS: dict[str, Callable[[Session], None]] = {
    "latency": latency,
    "workload": workload,
    "search": search,
    "pipeline": pipeline,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that are asked for; return 2, after one sentence on stderr, where the input is wrong."""
    try:
        run(read_arguments(arguments))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=(*PARTS, "tables"), help="may be repeated; all by default")
    parser.add_argument(
        "--precision", action="append", choices=tuple(PRECISIONS), help="may be repeated; both by default"
    )
    parser.add_argument(
        "--skip", action="append", type=int, choices=sorted({*BASE.skips, *QUICK.skips}),
        help="the whole model and this one without so many layers; may be repeated; every one by default",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="the CPU only where it is asked for")
    parser.add_argument("--quick", action="store_true", help="two narrow layers and few rounds: does it run at all?")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for this command; what is left over is named")
    parser.add_argument(
        "--texts", type=Path, help="texts to replay, one a line; without, lengths are drawn like SST-2's"
    )
    parser.add_argument("--tokenizer", type=Path, help="directory of the tokenizer that counts the tokens of --texts")
    parser.add_argument("--name", help="name of this machine in the results file; the device's by default")
    parser.add_argument("--out", type=Path, help="results file; benchmarks/results/gpu_NAME.json by default")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/gpu-bench"), help="folder for models and ONNX files, kept"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(5, max(1, (os.cpu_count() or 2) // 3)), help="exports at a time"
    )
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--fresh", action="store_true", help="measure anew what the results file has already")
    return parser.parse_args(arguments)


def run(arguments: argparse.Namespace) -> None:
    """Measure, and write the results file after every cell and part."""
    parts = arguments.part or [*PARTS, "tables"]
    measured = [part for part in PARTS if part in parts]
    if measured:
        check_device(arguments.device)
        size = QUICK if arguments.quick else BASE
        if arguments.skip:
            size = replace(size, skips=tuple(sorted({0, *arguments.skip})))
        lengths, source = workload_lengths(size, arguments.texts, arguments.tokenizer)
        out = arguments.out or results_file(arguments.device, arguments.name)
        results = opened_results(out, size, arguments.device)
        session = Session(arguments, size, lengths, source, out, results, time.monotonic() + 60 * arguments.minutes)
        for part in measured:
            PARTS[part](session)
        print(f"results: {out}", flush=True)
    if "tables" in parts and (arguments.device == "cuda" or not measured):
        from benchmarks.gpu import tables as gpu_tables

        for line in gpu_tables.write(sorted(RESULTS.glob("gpu_*.json"))):
            print(line, flush=True)


def check_device(device: str) -> None:
    """Raise UserError, with the diagnosis and the remedy, where the GPU that is asked for cannot be used."""
    if device == "cpu":
        return
    if not torch.cuda.is_available():
        found = torch_obstacle(driver_cuda(), torch.version.cuda, "it sees no GPU")
        raise UserError(
            f"this benchmark needs a GPU and PyTorch finds none ({found.problem}); {found.remedy}, or set --device cpu, "
            "which labels every figure CPU."
        )
    require_provider(CUDA, "--device cuda")


def say_left(cells: Sequence[str]) -> None:
    """Say what was not measured."""
    if cells:
        print(
            f"  time is over, {len(cells)} cells are left (the same command measures them): {', '.join(cells)}",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
