"""Make the parts of a guarded early exit: the precision of their layers, exits fitted on what these layers give, the plan."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressor.cascade.exits import ExitFit, fit_exits
from compressor.cascade.parts import file_reader, part_names, with_exits, write_parts
from compressor.cascade.plan import CascadePlan, EncoderWork, layers_to_try, plan_cascade
from compressor.data.batches import Encodings, pad
from compressor.export.onnx import quiet
from compressor.export.quantize import quantize
from compressor.measurement.runtime import session
from compressor.measurement.timing.latency import measure
from compressor.measurement.timing.subjects import onnx_subject
from compressor.model.families import Family
from compressor.progress import Track, silent
from compressor.recipe.training import CascadeSpec

TIMED = 40
"""Texts on which the speed of a precision is measured, one at a time."""


@dataclass(frozen=True)
class Precision:
    """How the file that is cut is made from the fused one in float32 (None: it is that one).

    `make` also takes inputs that show what activations look like (`export/calibration.py`).
    """

    make: Callable[[Path, Path, Sequence[Mapping[str, np.ndarray]]], None] | None


PRECISIONS = {"float32": Precision(None), "int8": Precision(quantize)}  # keys = CascadeSpec.precision


@dataclass(frozen=True)
class Built:
    """The parts that were written: their plan, the exits behind early layers, and the work of a row."""

    plan: CascadePlan
    fits: list[ExitFit]
    work: EncoderWork


def build_cascade(
    folder: Path,
    model: nn.Module,
    family: Family,
    fused: Path,
    work: EncoderWork,
    spec: CascadeSpec,
    text: Encodings,
    certified_rows: int,
    *,
    observed: Sequence[Mapping[str, np.ndarray]] = (),
    targets: np.ndarray | None = None,
    full: tuple[Path, EncoderWork] | None = None,
    track: Track = silent,
) -> Built:
    """Fit and choose exits of `model` on unlabelled `text`, and write the parts of its fused float32 file into `folder`.

    `targets` [N, C] are the full model's logits for the text; None where `model` is the full model and runs in float32.
    `full` is the full model's fused file and its work, for texts that the end is unsure of; None where there are to be
    none. Exits are fitted and planned on the states of the file that is cut, in its precision. Thresholds are not certified
    yet: `certified_rows` is how many rows will. `observed` are inputs by which the ranges of 8-bit activations are chosen.
    """
    layers, make = layers_to_try(spec.exits, work.layers), PRECISIONS[spec.precision].make
    with tempfile.TemporaryDirectory() as place:
        cut, reader = fused, None
        if make is not None:
            whole, cut = Path(place) / "exits.onnx", Path(place) / "model.onnx"
            with_exits(fused, model, family, layers, whole)
            with quiet():
                make(whole, cut, observed)
            reader = file_reader(cut, layers, torch.get_num_threads())
            bare = Path(place) / "bare"
            bare.mkdir()
            write_parts(cut, model, family, [], bare)  # the layers alone: all in one part
            work = measured_work(cut, bare / part_names(0)[0], fused, text, work, len(layers), track=track)
        behind = full if spec.unsure_to_full is True or (spec.unsure_to_full == "auto" and make is not None) else None
        work = replace(work, full=behind and behind[1])
        fits, held = fit_exits(model, family, text, layers, targets, reader=reader, track=track)
        plan = plan_cascade(fits, held, text.lengths[held.rows], work, spec, certified_rows)
        taken = [fit for fit in fits if fit.head.layer in plan.exits]
        last = full[0] if plan.exits[-1] == work.layers else None
        write_parts(cut, model, family, [fit.head for fit in taken], folder, last)
    return Built(plan, taken, work)


def measured_work(
    file: Path,
    layers: Path,
    opponent: Path,
    text: Encodings,
    work: EncoderWork,
    exits: int,
    *,
    seconds: float = 15.0,
    track: Track = silent,
) -> EncoderWork:
    """Return `work`, that of the float32 file `opponent`, with what its layers and its exits take in `file` on a CPU.

    `file` has so many `exits` (`with_exits`), `layers` is the same without them. Single texts spread over `text`, interleaved.
    What is found decides which exits are taken and how many texts start again; no certificate depends on it.
    """
    rows = np.linspace(0, len(text) - 1, min(TIMED, len(text))).astype(int)
    threads = torch.get_num_threads()
    batches = [pad(text, np.array([row])) for row in rows]
    files = {"opponent": opponent, "layers": layers, "exits": file}
    subjects = {name: onnx_subject(session(path, threads=threads)) for name, path in files.items()}
    values = measure(
        subjects, batches, min_seconds=0, min_runs=2 * TIMED, max_seconds=seconds, track=track, description="precision"
    )
    times = {name: np.array(values[name]) for name in subjects}
    # round by round, as texts differ in length; medians, as whatever interrupts one of them must not decide
    speed = float(np.median(times["layers"] / times["opponent"]))
    share = float(np.median((times["exits"] - times["layers"]) / times["opponent"])) / exits
    return replace(work, speed=speed, exit_work=max(0.0, share) * work.costs((), text.lengths[rows])[-1].mean())
