"""The stages besides selection and the model itself: what each reads, computes and writes. `pipeline.py` orders them."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from compressor.data.batches import pad
from compressor.explain import explained_examples
from compressor.export.onnx import export_variants
from compressor.export.parity import check_parity, parity
from compressor.measurement.environment import environment
from compressor.measurement.latency import WORKLOAD, Cell, benchmark, grid_cells, workload_batches
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.subjects import onnx_subject, torch_subject
from compressor.model.load import load_classifier
from compressor.model.surgery import save_model
from compressor.model.training import finetune
from compressor.report.formats import is_full
from compressor.run import TEACHER, Run
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


def make_onnx(run: Run, folder: Path) -> None:
    """Export the compressed model in every variant; count the fused nodes."""
    files = export_variants(run.path / "model", folder / "onnx", run.recipe.export.variants, track=run.track)
    write_json(folder / "onnx.json", {name: file.fused for name, file in files.items()})


def make_full_onnx(run: Run, folder: Path) -> None:
    """Export the full model in the same variants: the opponent of the benchmark, in the same format."""
    (folder / FULL_ONNX).mkdir()
    export_variants(run.teacher_source.path, folder / FULL_ONNX, run.recipe.export.variants, track=run.track)


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
        check_parity(variant, found)
        if own == "compressed":
            parities[variant] = asdict(found)
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


def make_latency(run: Run, folder: Path) -> None:
    """Time every model and file, interleaved; keep the raw values."""
    provider = PROVIDERS[run.device]
    threads = torch.get_num_threads()
    subjects = {"full": torch_subject(run.teacher), "compressed": torch_subject(run.compressed)}
    providers = dict.fromkeys(subjects, f"PyTorch {run.device.upper()}")
    for name, file in onnx_files(run).items():
        subjects[name] = onnx_subject(session(file, provider=provider, threads=threads))
        providers[name] = provider
    spec, inputs = run.recipe.benchmark, list(pad(run.evaluation, np.arange(1)))
    cells = grid_cells(spec, run.teacher.config.vocab_size, inputs, run.recipe.seed)
    if spec.workload:
        cells += [Cell(size, WORKLOAD, workload_batches(run.evaluation, size)) for size in spec.batch_sizes]
    measured = benchmark(
        subjects,
        opponents(subjects),
        providers,
        cells,
        min_seconds=spec.min_seconds,
        min_runs=spec.min_runs,
        max_seconds=spec.max_seconds,
        seed=run.recipe.seed,
        track=run.track,
    )
    write_json(
        folder / "latency.json",
        {
            "rows": measured.latency,
            "noise_floor": measured.noise_floor,
            "threads": threads,
            "providers": sorted(set(providers.values())),
            "environment": environment(run.device),
        },
    )
    write_json(folder / "latency_raw.json", measured.raw)


def opponents(names: Iterable[str]) -> dict[str, str]:
    """Return compressed variant -> the full model in the same format."""
    return {name: "full" if name == "compressed" else f"full_{name}" for name in names if not is_full(name)}


def onnx_files(run: Run) -> dict[str, Path]:
    """Return variant name of result.json -> ONNX file, the full model's right before the compressed one's."""
    return {
        f"{prefix}onnx_{variant}": run.path / folder / variant / "model.onnx"
        for variant in run.recipe.export.variants
        for prefix, folder in (("full_", FULL_ONNX), ("", "onnx"))
    }
