"""The stage that finds the faster form of the CLS-only tail on the device at hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressor.export.tail import choose_form
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.run.run import TAIL, Run, measures_tail
from compressor.stages.stage import Stage, machine_inputs, never


def inputs(run: Run) -> dict[str, Any]:
    """Return what the form of the CLS-only tail depends on: the machine, where it is found by measurement."""
    return machine_inputs(run) if measures_tail(run.recipe) else {}


def compute(run: Run, folder: Path) -> None:
    """Find the faster form of the CLS-only tail on this device; all files of the run take it."""
    threads = torch.get_num_threads()
    choice = choose_form(run.teacher, run.family, PROVIDERS[run.device], threads=threads, track=run.track)
    write_json(folder / TAIL, asdict(choice))


def result(run: Run) -> dict[str, Any]:
    """Return the form that the files have, and the measurement behind it where there is one."""
    return {"tail": read_json(run.path / TAIL) if measures_tail(run.recipe) else {"form": run.tail}}


STAGE = Stage(
    "tail",
    (TAIL,),
    ("teacher",),
    inputs,
    compute,
    lambda _run: "the last layer's [CLS] row in each form",
    measures_tail,
    result,
    shared=never,
    read=lambda run: run.tail,
)
