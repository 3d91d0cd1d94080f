"""The stages that look at the full model and decide what to skip: scores, plan, audit, timing of one layer."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from compressor.analysis.roles import passthrough_scores, roles_of
from compressor.analysis.roles_files import model_weights
from compressor.compensation.blocks import build_variants
from compressor.data.batches import pad
from compressor.measurement.cost import encoder_flops
from compressor.measurement.latency import grid_cells
from compressor.measurement.prediction import time_layers
from compressor.model.capture import capture_calls
from compressor.model.states import ClassStates, class_states
from compressor.run import Run, source_savings
from compressor.rundir import STAGES_FOLDER, TRIALS, read_json, write_json
from compressor.selection.audit import audit_scores
from compressor.selection.baselines import Evidence, ranked_set
from compressor.selection.search import find_plan
from compressor.selection.separability import score_layers, score_parts
from compressor.selection.trials import Trials
from compressor.selection.trie import StandIns
from compressor.selection.units import check_budget, find_mix, latency_savings, part_names

ARRAYS = "arrays"


def make_scores(run: Run, folder: Path) -> None:
    """Score every state in one pass over the calibration text; keep the full model's logits for the head."""
    spec = run.recipe.separability
    labels = run.data.calibration.labels if spec.labels == "gold" else None
    inner, seed = scores_parts(run), run.recipe.seed
    states = class_states(
        run.teacher, run.family, run.calibration, labels, run.classes, inner=inner, seed=seed, track=run.track
    )
    layers = states.behind_layers() if inner else states
    scores = score_layers(layers, spec.score, spec.labels, seed=seed, track=run.track)
    parts = {"parts": _part_gains(run, states)} if inner else {}
    write_json(folder / "scores.json", asdict(scores) | parts)
    save_array(folder, "calibration_logits", states.logits)


def scores_parts(run: Run) -> bool:
    """Return whether single blocks of layers may go, so that each of them is scored as well."""
    return bool({"ffn", "attention"} & set(run.recipe.selection.units))


def _part_gains(run: Run, states: ClassStates) -> list[dict[str, str | int | float]]:
    """Return what the attention and the feed-forward block of each layer add to the separability of the [CLS] state."""
    gains = score_parts(states, run.recipe.separability.score, seed=run.recipe.seed, track=run.track)
    return [{"layer": layer, "part": part, "gain": gain} for (layer, part), gain in gains.items()]


def make_plan(run: Run, folder: Path) -> None:
    """Choose the layers to skip by forward passes over the selection split."""
    spec, goals = run.recipe.selection, run.recipe.goals
    if spec.budget is not None:
        _make_mix(run, folder)
        return
    trials, logits = _trials(run)
    evidence = _evidence(run)
    plan = find_plan(
        trials,
        lambda size: ranked_set(spec.rank_by, evidence, size, spec.protect),
        spec,
        goals,
        readout=run.recipe.compensation.head is not None,
    )
    write_json(folder / "plan.json", asdict(plan))
    save_array(folder, "selection_logits", logits)


def _make_mix(run: Run, folder: Path) -> None:
    """Choose the parts of layers to leave out by forward passes with stand-ins made from the calibration text."""
    spec, source = run.recipe.selection, run.source
    width = source.config[run.family.ffn_key]
    if spec.budget.of == "flops":
        savings = source_savings(spec, source)
    else:
        cells = read_json(run.path / "timing.json")["cells"]
        savings = latency_savings(cells, source.layers, part_names(spec, width))
        check_budget(spec, savings, source.layers)
    parts = single_parts(run)
    wanted = {layer: parts for layer in range(1, source.layers + 1) if layer not in spec.protect}
    calls, _ = capture_calls(run.teacher, run.family, run.calibration, track=run.track)
    variants = build_variants(run.teacher, run.family, calls, wanted, track=run.track)
    stand_ins = {key: variant.module for key, variant in variants.items()}
    trials, logits = _trials(run, stand_ins)
    scored = read_json(run.path / "scores.json").get("parts", [])
    gains = {(entry["layer"], entry["part"]): entry["gain"] for entry in scored}
    write_json(folder / "plan.json", asdict(find_mix(trials, savings, spec, width, gains)))
    save_array(folder, "selection_logits", logits)


def make_timing(run: Run, folder: Path) -> None:
    """Time one layer beside the full model, so that the latency of any plan can be predicted."""
    spec, inputs = run.recipe.benchmark, list(pad(run.evaluation, np.arange(1)))
    cells = grid_cells(spec, run.teacher.config.vocab_size, inputs, run.recipe.seed)
    # medians of a few dozen runs do: the benchmark of the finished files is the measurement that counts
    seconds = {"min_seconds": min(1.0, spec.min_seconds), "max_seconds": min(10.0, spec.max_seconds)}
    rows = time_layers(
        run.teacher,
        run.family,
        cells,
        **seconds,
        min_runs=min(30, spec.min_runs),
        parts=single_parts(run),
        seed=run.recipe.seed,
        track=run.track,
    )
    threads = torch.get_num_threads()
    write_json(folder / "timing.json", {"provider": f"PyTorch {run.device.upper()}", "threads": threads, "cells": rows})


def make_audit(run: Run, folder: Path) -> None:
    """Hold every score against trials on the selection split, and find the best set of every size."""
    family, config = run.family, run.source.config
    roles = roles_of(model_weights(run.teacher), seed=run.recipe.seed, track=run.track).roles
    audit = audit_scores(
        _trials(run)[0],
        _evidence(run),
        run.recipe.selection,
        labels=run.recipe.separability.labels,
        flops=lambda layers: encoder_flops(layers, config[family.width_key], config[family.ffn_key]),
        roles=[
            {"layer": role.layer, "role": role.role, "margin": role.margin, "stability": role.stability}
            for role in roles
        ],
        seed=run.recipe.seed,
    )
    write_json(folder / "audit.json", asdict(audit))


def single_parts(run: Run) -> list[str]:
    """Return the parts of a layer that may go while the rest of it stays, and whose time is therefore wanted."""
    spec = run.recipe.selection
    parts = part_names(spec, run.source.config[run.family.ffn_key]) if spec.budget is not None else []
    return [part for part in parts if part]


def _trials(run: Run, stand_ins: StandIns | None = None) -> tuple[Trials, np.ndarray]:
    """Return the trials of the selection split, those of earlier searches in this run directory known, and its logits."""
    calls, logits = capture_calls(run.teacher, run.family, run.selection, track=run.track)
    cache, labels = run.path / STAGES_FOLDER / TRIALS, run.data.selection.labels
    made_from = "" if stand_ins is None else run.data.calibration.sha256
    trials = Trials(
        run.teacher,
        run.family,
        calls,
        logits,
        labels,
        cache=cache,
        stand_ins=stand_ins,
        made_from=made_from,
        track=run.track,
    )
    return trials, logits.numpy()


def _evidence(run: Run) -> Evidence:
    passthrough = passthrough_scores(model_weights(run.teacher))
    return Evidence.of(read_json(run.path / "scores.json"), run.recipe.seed, passthrough)


def save_array(folder: Path, name: str, values: np.ndarray) -> None:
    """Write an array into `folder`/arrays."""
    (folder / ARRAYS).mkdir(exist_ok=True)
    np.save(folder / ARRAYS / f"{name}.npy", values)


def load_array(path: Path, name: str) -> np.ndarray:
    """Return an array that a stage wrote."""
    return np.load(path / ARRAYS / f"{name}.npy", allow_pickle=False)
