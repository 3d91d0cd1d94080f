"""The stage that reads the evaluation split, with every model and file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from compressor.analysis.explain import explained_examples
from compressor.data.answers.kinds import SINGLE_LABEL
from compressor.export.parity import check_parity, parity
from compressor.files import read_json, write_json
from compressor.measurement.machine.providers import PROVIDERS
from compressor.measurement.predictions import flipped_examples, predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.report.formats import is_full
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX, SPARED, onnx_files
from compressor.stages.ship.built import answers_of
from compressor.stages.ship.ship import chosen_entry
from compressor.stages.stage import Stage

PREDICTIONS, LABELS, LEFT, WITHIN = "predictions.npz", "labels", "left", "within"
"""Logits of the evaluation split by variant, and beside them the gold labels where there are any, and where an early exit is
shipped the index of the part that answered each row, and of rankings the query of each row."""
EXPLAINED = "explain.json"
"""Charges of the nodes for some changed and some confidently wrong predictions."""


def compute(run: Run, folder: Path) -> None:
    """Read the evaluation split: logits of every model and file; a parity failure stops the run."""
    shipped = None if run.recipe.ship is None else chosen_entry(run)
    logits = {"full": predict(run.teacher, run.evaluation, track=run.track, description="evaluation, full")}
    if run.recipe.ship is not None and not run.lost_units:
        logits["compressed"] = logits["full"]  # the same weights
    else:
        logits["compressed"] = predict(
            run.compressed, run.evaluation, track=run.track, description="evaluation, compressed"
        )
    parities, files = {}, onnx_files(run)
    if run.recipe.ship is not None:  # what was not named before is not looked at, but for the graph's parity
        named = {SPARED, shipped.key} if shipped else set()
        files = {name: file for name, file in files.items() if name in named}
    for name, file in files.items():
        own, variant = "full" if is_full(name) else "compressed", name.rpartition("_")[2]
        logits[name] = predict_onnx(session(file, provider=PROVIDERS[run.device]), run.evaluation, track=run.track)
        found = parity(logits[own], logits[name], run.task.bound(run.data.evaluation))
        overflows = variant == "fp16" and not np.isfinite(found.max_abs)
        if not overflows or run.recipe.export.variants != "auto":  # a file nobody asked for by name is just not shipped
            check_parity(variant, found)
        if own == "compressed":
            parities[variant] = asdict(found) | ({"max_abs": None} if overflows else {})
    left = None
    if shipped and shipped.key not in logits:
        logits[shipped.key], left = answers_of(run, shipped, run.evaluation)
    labels = run.data.evaluation.labels
    beside = {
        name: values
        for name, values in ((LABELS, labels), (LEFT, left), (WITHIN, run.data.evaluation.within))
        if values is not None
    }
    np.savez(folder / PREDICTIONS, **logits, **beside)
    write_json(folder / "parity.json", parities)
    head, data = read_json(run.path / "model.json")["head"], run.data
    examples = []
    if (
        head and head["folded"] and run.kind == SINGLE_LABEL
    ):  # a stock head has hundreds of nodes: nothing to show in a figure
        examples = explained_examples(
            run.compressed,
            run.family,
            run.evaluation,
            logits,
            labels,
            data.evaluation.texts,
            data.evaluation.ids,
            data.label_names,
        )
    write_json(folder / EXPLAINED, examples)


def evaluation_logits(run: Run) -> dict[str, np.ndarray]:
    """Return the logits [N, C] of every variant on the evaluation split."""
    with np.load(run.path / PREDICTIONS, allow_pickle=False) as file:
        return {name: file[name] for name in file.files if name not in {LABELS, LEFT, WITHIN}}


def shipped_parts(run: Run) -> np.ndarray | None:
    """Return the index of the part that answered each evaluation row, int64 [N]; None where no early exit is shipped."""
    with np.load(run.path / PREDICTIONS, allow_pickle=False) as file:
        return file[LEFT] if LEFT in file.files else None


def result(run: Run) -> dict[str, Any]:
    """Return the files' parity with PyTorch, the predictions that changed, and some of them explained.

    Changed by what is shipped, where the run decided that, else by the compressed model in PyTorch.
    """
    logits, rows, names = evaluation_logits(run), run.data.evaluation, run.data.label_names
    key = "compressed"
    if run.recipe.ship is not None:
        shipped = chosen_entry(run)
        key = shipped.key if shipped else "full"
    changed = logits[key]
    return {
        "flipped": flipped_examples(
            logits["full"], changed, rows.labels, rows.texts, rows.ids, names, task=run.task.bound(rows)
        ),
        "explain": read_json(run.path / EXPLAINED),
        "parity": read_json(run.path / "parity.json"),
    }


def cost(run: Run) -> str:
    """Return the expected work."""
    return f"{2 + len(run.variants) + len(run.full_variants)} models over {len(run.data.evaluation)} evaluation rows"


STAGE = Stage(
    "predictions",
    (PREDICTIONS, "parity.json", EXPLAINED),
    ("onnx", FULL_ONNX, "ship"),
    lambda run: {"evaluation": run.data.evaluation.sha256, "device": run.device},
    compute,
    cost,
    result=result,
)
