"""Make the parts of a guarded early exit: the precision of their layers, exits fitted on what these layers give, the plan."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from compressor.cascade.exits import ExitFit, ExitHead, fit_exits
from compressor.cascade.parts import HIDDEN, file_reader, part_names, with_exits, write_parts
from compressor.cascade.plan import CascadePlan, EncoderWork, layers_to_try, plan_cascade
from compressor.data.batches import Encodings, pad
from compressor.export.onnx import quiet
from compressor.export.quantize import quantize
from compressor.measurement.runtime import feeds, session
from compressor.measurement.timing.latency import Batch, measure
from compressor.measurement.timing.subjects import onnx_subject
from compressor.model.families import Family
from compressor.progress import Track, silent
from compressor.recipe.training import CascadeSpec

TIMED = 40
"""Texts on which the speed of a precision is measured, one at a time."""


Make = Callable[[Path, Path, Sequence[Mapping[str, np.ndarray]]], None]
"""Writes a file in another precision; takes inputs that show what activations look like (`export/calibration.py`)."""
PRECISIONS: dict[str, Make | None] = {"float32": None, "int8": quantize}
"""Precision (keys = CascadeSpec.precision) -> how the file that is cut is made of the fused float32 one; None: it is that."""


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
    layers, make = layers_to_try(spec.exits, work.layers), PRECISIONS[spec.precision]
    with tempfile.TemporaryDirectory() as place:
        cut, reader = fused, None
        if make is not None:
            whole, cut = Path(place) / "exits.onnx", Path(place) / "model.onnx"
            with_exits(fused, model, family, layers, whole)
            with quiet():
                make(whole, cut, observed)
            reader = file_reader(cut, layers, torch.get_num_threads())
            work = measured_work(
                *_halves_and_whole(cut, model, family, layers, Path(place)), fused, text, work, track=track
            )
        behind = full if spec.unsure_to_full is True or (spec.unsure_to_full == "auto" and make is not None) else None
        work = replace(work, full=behind and behind[1])
        fits, held = fit_exits(model, family, text, layers, targets, reader=reader, track=track)
        plan = plan_cascade(fits, held, text.lengths[held.rows], work, spec, certified_rows)
        taken = [fit for fit in fits if fit.head.layer in plan.exits]
        last = full[0] if plan.exits[-1] == work.layers else None
        write_parts(cut, model, family, [fit.head for fit in taken], folder, last)
    return Built(plan, taken, work)


def _halves_and_whole(
    cut: Path, model: nn.Module, family: Family, layers: Sequence[int], place: Path
) -> tuple[list[Path], Path]:
    """Write below `place` the layers of the file `cut` behind an exit in their midst that decides nothing, and in one part."""
    width, classes = 3 * model.config.hidden_size, model.config.num_labels
    head = ExitHead(layers[len(layers) // 2], torch.zeros(width, classes), torch.zeros(classes))
    for name, heads in (("halves", [head]), ("whole", [])):
        (place / name).mkdir()
        write_parts(cut, model, family, heads, place / name)
    return [place / "halves" / name for name in part_names(1)], place / "whole" / part_names(0)[0]


def measured_work(
    halves: Sequence[Path],
    whole: Path,
    opponent: Path,
    text: Encodings,
    work: EncoderWork,
    *,
    seconds: float = 15.0,
    track: Track = silent,
) -> EncoderWork:
    """Return `work`, that of the float32 file `opponent`, with what its layers and an exit take in another precision.

    `whole` has the layers in that precision, `halves` are its two parts with an exit between them: what an exit costs is
    more than its operations, as it reads weights for one token, and the states go out and in again. Single texts spread over
    `text`, on the CPU, interleaved. It decides which exits are taken; no certificate depends on it.
    """
    rows, threads = np.linspace(0, len(text) - 1, min(TIMED, len(text))).astype(int), torch.get_num_threads()
    batches = [pad(text, np.array([row])) for row in rows]
    front, back = (session(file, threads=threads) for file in halves)
    names = [[value.name for value in part.get_inputs()] for part in (front, back)]

    def one_by_one(batch: Batch) -> object:
        states, _ = front.run(None, feeds(names[0], batch))
        return back.run(None, feeds(names[1], {**batch, HIDDEN: states}))

    subjects = {
        name: onnx_subject(session(file, threads=threads)) for name, file in (("float32", opponent), ("whole", whole))
    }
    values = measure(
        {**subjects, "halves": one_by_one}, batches,
        min_seconds=0, min_runs=2 * TIMED, max_seconds=seconds, track=track, description="precision",
    )  # fmt: skip
    # round by round, as texts differ in length; medians, as whatever interrupts one of them must not decide
    full, layers, halved = (np.array(values[name]) for name in ("float32", "whole", "halves"))
    speed, exit_share = float(np.median(layers / full)), float(np.median((halved - layers) / full))
    return replace(work, speed=speed, exit_work=max(0.0, exit_share) * work.costs((), text.lengths[rows])[-1].mean())
