"""Where distillation starts, and what it learns from: a model made in closed form, and unlabelled text in one fixed order."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedModel

from benchmarks.common.glue import recipe_of
from compressor.data.batches import Encodings, join, same_tokens
from compressor.data.splits import Split, first_rows
from compressor.model.units import Unit
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent, track_for_terminal
from compressor.run.checks import prepare
from compressor.run.run import Run

UNITS = "heads", "width"
"""What may go."""
KEEP = 0.5
"""Share of the encoder's FLOPs that may remain."""
UNTIMED = "benchmark={batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 2, footprint: false}"
"""A budget of FLOPs needs no time of a layer, which the stage of timing takes all the same."""
WHOLE = 10**6
"""More than any file has."""


@dataclass(frozen=True)
class Start:
    """A compressed model and what it was made from: `units` are gone of the full model of `run`."""

    run: Run
    model: PreTrainedModel
    units: list[Unit]


@dataclass(frozen=True)
class Text:
    """Unlabelled texts in one order, whose first N are taken for every N; `known` [N]: the start was fitted on them."""

    encodings: Encodings
    known: np.ndarray


def start_of(model: str, arguments: argparse.Namespace) -> Start:
    """Return the mix that the package finds for the budget with the units asked for, fitted in closed form; kept in runs/."""
    mix = f"selection={{units: [{', '.join(arguments.units)}], budget: {{keep: {arguments.keep}}}}}"
    recipe = recipe_of(
        model.partition("-")[0], arguments, model, f"name=distill-{model}", mix, "export.variants=[]",
        "compensation={refit: {layers: later, blocks: both}, head: null}", UNTIMED,
    )  # fmt: skip
    out = Path("runs") / recipe.name
    run_until(recipe, "model", out, device=arguments.device, track=track_for_terminal(), say=print)
    run = prepare(recipe, out, arguments.device, silent)
    return Start(run, run.compressed, run.lost_units)


def text_of(run: Run) -> Text:
    """Return the training texts and the unlabelled texts of the test file, each once, shuffled by the seed."""
    data = run.recipe.data
    whole = data.model_copy(update={"calibration": data.calibration.model_copy(update={"size": WHOLE})})
    new = prepare(run.recipe.model_copy(update={"data": whole}), run.path, run.device, silent).data.calibration
    same = same_tokens(run.tokenizer)
    fitted = set(map(same, run.data.calibration.texts))
    parts: list[Split] = [run.data.train.take(first_rows(run.data.train, same)), new]
    known = np.array([same(texts) in fitted for part in parts for texts in part.texts])
    order = np.random.default_rng(run.recipe.seed).permutation(len(known))
    return Text(join([run.encode(part) for part in parts]).take(order), known[order])
