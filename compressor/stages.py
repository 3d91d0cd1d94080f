"""The stages besides selection and the model itself: what each reads, computes and writes. `pipeline.py` orders them."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from compressor.explain import explained_examples
from compressor.export.onnx import export_variants
from compressor.export.parity import check_parity, parity
from compressor.export.tail import choose_form
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.load import load_classifier
from compressor.model.surgery import save_model
from compressor.model.training import finetune
from compressor.report.formats import is_full
from compressor.run import TAIL, TEACHER, Run
from compressor.rundir import read_json, write_json

FULL_ONNX = "full-onnx"
PREDICTIONS, LABELS = "predictions.npz", "labels"
"""Logits of the evaluation split by variant, and beside them the gold labels where there are any."""
EXPLAINED = "explain.json"
"""Charges of the nodes for some changed and some confidently wrong predictions."""
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Device -> ONNX Runtime's execution provider."""


def make_teacher(run: Run, folder: Path) -> None:
    """Fine-tune the model that the recipe names and save it as a Hugging Face directory."""
    recipe, names = run.recipe, run.data.label_names
    model = load_classifier(run.source, device=run.device, new_labels=names, seed=recipe.seed)
    train = run.encode(run.data.train)
    spec, labels = recipe.finetune, run.data.train.labels
    inputs = {
        "model": run.source.sha256,
        "finetune": spec.model_dump(),
        "train": run.data.train.sha256,
        "labels": names,
    }
    checkpoint = run.checkpoint(TEACHER, inputs)
    losses = finetune(model, run.family, train, labels, spec, seed=recipe.seed, track=run.track, checkpoint=checkpoint)
    card = "# The full model\n\nFine-tuned by `compressor` from the model that the run's recipe names.\n"
    save_model(model, run.tokenizer, folder / TEACHER, card)
    write_json(folder / f"{TEACHER}.json", {"loss": losses, "rows": len(train)})
    checkpoint.remove()


def make_tail(run: Run, folder: Path) -> None:
    """Find the faster form of the CLS-only tail on this device; all files of the run take it."""
    threads = torch.get_num_threads()
    choice = choose_form(run.teacher, run.family, PROVIDERS[run.device], threads=threads, track=run.track)
    write_json(folder / TAIL, asdict(choice))


def make_onnx(run: Run, folder: Path) -> None:
    """Export the compressed model in every variant; count the nodes."""
    files = _export(run, run.path / "model", folder / "onnx", run.variants)
    write_json(folder / "onnx.json", files)


def make_full_onnx(run: Run, folder: Path) -> None:
    """Export the full model in the same variants: the opponent of the benchmark, in the same format."""
    (folder / FULL_ONNX).mkdir()
    files = _export(run, run.teacher_source.path, folder / FULL_ONNX, run.full_variants)
    write_json(folder / f"{FULL_ONNX}.json", files)


def _export(run: Run, source: Path, target: Path, variants: list[str]) -> dict[str, dict[str, Any]]:
    files = export_variants(
        source, target, variants, form=run.tail, opset=run.recipe.export.opset, track=run.track
    )  # fmt: skip
    return {name: {"operators": file.operators, "exported": file.exported} for name, file in files.items()}


def make_predictions(run: Run, folder: Path) -> None:
    """Read the evaluation split: logits of every model and file; a parity failure stops the run."""
    logits = {
        "full": predict(run.teacher, run.evaluation, track=run.track, description="evaluation, full"),
        "compressed": predict(run.compressed, run.evaluation, track=run.track, description="evaluation, compressed"),
    }
    parities = {}
    for name, file in onnx_files(run).items():
        own, variant = "full" if is_full(name) else "compressed", name.rpartition("_")[2]
        logits[name] = predict_onnx(session(file, provider=PROVIDERS[run.device]), run.evaluation, track=run.track)
        found = parity(logits[own], logits[name])
        overflows = variant == "fp16" and not np.isfinite(found.max_abs)
        if not overflows or run.recipe.export.variants != "auto":  # a file nobody asked for by name is just not shipped
            check_parity(variant, found)
        if own == "compressed":
            parities[variant] = asdict(found) | ({"max_abs": None} if overflows else {})
    labels = run.data.evaluation.labels
    np.savez(folder / PREDICTIONS, **logits, **({} if labels is None else {LABELS: labels}))
    write_json(folder / "parity.json", parities)
    head, data = read_json(run.path / "model.json")["head"], run.data
    examples = []
    if head and head["folded"]:  # a stock head has hundreds of nodes: nothing to show in a figure
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


def onnx_files(run: Run) -> dict[str, Path]:
    """Return variant name of result.json -> ONNX file, the full model's right before the compressed one's."""
    return {
        f"{prefix}onnx_{variant}": run.path / folder / variant / "model.onnx"
        for variant in run.full_variants
        for prefix, folder, made in (("full_", FULL_ONNX, run.full_variants), ("", "onnx", run.variants))
        if variant in made
    }
