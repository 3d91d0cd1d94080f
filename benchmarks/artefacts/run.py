"""What the ONNX files keep and what they gain on a CPU: the exact saving, fused nodes, 8 bits, and layers left out.

    python -m benchmarks.artefacts.run --models DIR --data DIR [--part exact|latency|tables] [--task sst2]

`exact`: every file of the full and the compressed model of five GLUE tasks answers the evaluation split; predictions are
kept, so that every figure can be computed anew. `latency`: files of one fine-tuned model (SST-2) and of BERT-base with
random weights, interleaved, beside a model without layers (what embeddings and head cost) and one with a single CLS-only
layer; raw times are kept. The layers skipped are those of results/skip_one.json; the compressed models of `exact` are
refitted and have a charge-flow head.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from benchmarks.artefacts import tables as artefacts_tables
from benchmarks.common.digits import digits
from benchmarks.common.glue import TASKS, add_sources, recipe_of
from compressor.compensation.heads.head import fold_head, soft_targets
from compressor.compensation.heads.trainers import TRAINERS
from compressor.compensation.refits.refit import refit_gaps
from compressor.export.onnx import Job, export_optimized, export_variants, quiet
from compressor.export.tail import choose_form
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.measurement.timing.latency import grid_batches, measure
from compressor.measurement.timing.subjects import onnx_subject
from compressor.model.capture import fit_calls
from compressor.model.cls_row import FORMS
from compressor.model.families import Family, family_of, layer_list
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.model.states.states import final_states
from compressor.model.surgery import drop_layers, kept_layers, save_model
from compressor.progress import silent, track_for_terminal
from compressor.recipe.training import HeadSpec, RefitSpec
from compressor.run.checks import prepare
from compressor.run.run import Run

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "artefacts.json"
SKIP_ONE = HERE / "results" / "skip_one.json"
CARD = "# A model of a benchmark\n"
CELLS = {
    "six layers, fine-tuned": ((1, 32), (1, 128), (1, 384), (8, 32), (8, 128)),
    "BERT-base, random weights": ((1, 32), (1, 128), (1, 384)),
}
FILES = "fp32", "alltokens", "optimized, reassociated", "optimized, single_row", "int8, reassociated"
FEWER = "alltokens", "optimized, reassociated"
"""Files that are timed of the full model, and of those with fewer layers."""
INPUTS = "input_ids", "attention_mask", "token_type_ids"


def measure_exact(task: str, arguments: argparse.Namespace) -> dict:
    """Return the predictions of every file of the task's full and compressed model, and its logit differences."""
    run = prepare(recipe_of(task, arguments, task), Path("runs") / "artefacts" / task, "cpu", silent)
    skip = next(row["skip"] for row in read_json(SKIP_ONE) if row["task"] == task)
    sides = {"full": run.teacher, "compressed": compensated(run, skip)}
    found: dict = {"skip": skip, "labels": "".join(map(str, run.data.evaluation.labels)), "sides": {}}
    for side, model in sides.items():
        reference = predict(model, run.evaluation)
        files = {"pytorch": {"predictions": digits(reference)}}
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            made = export_all(model, run.tokenizer, home)
            made["int8, all rows"] = export_variants(home / "model", home / "none", ["int8"], form=None)["int8"].path
            logits = {name: predict_onnx(session(file), run.evaluation) for name, file in made.items()}
        for name, values in logits.items():
            files[name] = {
                "predictions": digits(values),
                "max_abs": float(np.abs(values - reference).max()),
                "max_abs_alltokens": float(np.abs(values - logits["alltokens"]).max()),
            }
        found["sides"][side] = files
        print(task, side, {name: entry.get("max_abs") for name, entry in files.items()}, flush=True)
    return found


def compensated(run: Run, skip: list[int]) -> PreTrainedModel:
    """Return the model without the layers `skip`, refitted, with a charge-flow head folded in."""
    model = drop_layers(run.teacher, run.family, skip)
    calls = fit_calls(run.teacher, run.family, run.calibration)
    refit_gaps(run.teacher, model, run.family, kept_layers(run.source.layers, skip), calls, RefitSpec())
    states, targets = [], []
    for part in (run.calibration, run.selection):
        states.append(torch.from_numpy(final_states(model, run.family, part)[0]))
        targets.append(soft_targets(predict(run.teacher, part)))
    spec = HeadSpec(trainer="forward")
    fit = TRAINERS["forward"](states[0], targets[0], states[1], targets[1], spec, run.family.activation)
    fold_head(model, run.family, fit.head)
    return model


def measure_latency(name: str, model: PreTrainedModel, tokenizer: object, skips: dict[int, list[int]]) -> dict:
    """Return raw times of all files of `model`, of what is left without `skips`, and of the model without layers."""
    family = family_of(model.config.model_type)
    layers = len(layer_list(model, family))
    with tempfile.TemporaryDirectory() as folder:
        home, subjects = Path(folder), {}
        for size, skip in {0: [], **skips}.items():
            made = drop_layers(model, family, skip) if skip else model
            wanted = FILES if size == 0 else FEWER
            for variant, file in export_all(made, tokenizer, home / str(size)).items():
                if variant in wanted:  # a session of BERT-base takes up to a gigabyte
                    subjects[f"{size}: {variant}"] = onnx_subject(session(file, threads=torch.get_num_threads()))
        for tail, file in export_bare(model, family, tokenizer, home / "bare").items():
            subjects[tail] = onnx_subject(session(file, threads=torch.get_num_threads()))
        cells = []
        for batch, length in CELLS[name]:
            inputs = grid_batches(batch, length, model.config.vocab_size, INPUTS)
            values = measure(
                {**subjects, "twin": subjects["0: alltokens"]},
                inputs,
                min_seconds=20,
                min_runs=100,
                max_seconds=150,
                track=track_for_terminal(),
                description=f"{name}, batch {batch}, {length} tokens",
            )
            cells.append({"batch": batch, "length": length, "values_ms": values})
    shape = {key: getattr(model.config, getattr(family, f"{key}_key")) for key in ("width", "ffn", "heads")}
    choice = choose_form(model, family, threads=torch.get_num_threads())
    return {"layers": layers, "skips": skips, **shape, "cells": cells, "form": choice.form, "forms": choice.cells}


def export_all(model: PreTrainedModel, tokenizer: object, home: Path) -> dict[str, Path]:
    """Return the files of a model: as exported, fused, fused with the tail in both forms, and in 8 bits."""
    with quiet():
        save_model(model, tokenizer, home / "model", CARD)
    files = {}
    for form in FORMS:
        wanted = ["optimized", "int8"] if files else ["fp32", "alltokens", "optimized", "int8"]
        for variant, file in export_variants(home / "model", home / form, wanted, form=form).items():
            files[variant if variant in {"fp32", "alltokens"} else f"{variant}, {form}"] = file.path
    return files


def export_bare(model: PreTrainedModel, family: Family, tokenizer: object, home: Path) -> dict[str, Path]:
    """Return the fused files of embeddings and head alone, and of these with one CLS-only layer, in both forms."""
    layers = len(layer_list(model, family))
    with quiet():
        save_model(drop_layers(model, family, list(range(1, layers))), tokenizer, home / "one", CARD)
    source = find_model(str(home / "one"))
    files = {}
    for form in FORMS:
        (home / form).mkdir()
        with quiet():
            files[f"one: optimized, {form}"] = export_optimized(Job.of(source, home / form, form, None))
    files["none"] = without_layers(load_classifier(source), family, home)
    return files


def without_layers(model: PreTrainedModel, family: Family, home: Path) -> Path:
    """Return the fused file of the embeddings and the head, with no layer between them."""
    from optimum.exporters.onnx import onnx_export_from_model

    from compressor.export.optimize import fuse

    parent, _, name = family.layers.rpartition(".")
    setattr(model.get_submodule(parent), name, torch.nn.ModuleList())
    setattr(model.config, family.layers_key, 0)
    (home / "none").mkdir()
    with quiet():
        onnx_export_from_model(model, home / "none", task="text-classification", do_validation=False)
    fuse(home / "none" / "model.onnx", home / "none" / "fused.onnx", model.config.to_dict())
    return home / "none" / "fused.onnx"


def latency_models(arguments: argparse.Namespace) -> dict[str, tuple[PreTrainedModel, object, dict[int, list[int]]]]:
    """Return what is timed: name -> model, tokenizer, and the layers left out by their number."""
    source = find_model(str(arguments.models / "sst2"))
    tokenizer = load_tokenizer(source)
    torch.manual_seed(0)
    config = AutoConfig.for_model("bert", num_labels=2)
    random = AutoModelForSequenceClassification.from_config(config).eval()
    one = next(row["skip"] for row in read_json(SKIP_ONE) if row["task"] == "sst2")
    return {
        "six layers, fine-tuned": (load_classifier(source), tokenizer, {1: one, 3: [2, 4, 6]}),
        "BERT-base, random weights": (random, tokenizer, {6: [2, 4, 6, 8, 10, 12]}),
    }


def main() -> None:
    """Measure the parts asked for, merge them into the results, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--task", choices=TASKS, action="append", help="only this task in `exact`; repeatable")
    parser.add_argument("--model", choices=CELLS, action="append", help="only this model in `latency`; repeatable")
    parser.add_argument("--part", choices=("exact", "latency", "tables"), action="append", help="repeatable")
    arguments = parser.parse_args()
    parts = arguments.part or ["exact", "latency"]
    results = read_json(RESULTS) if RESULTS.is_file() else {"tasks": {}, "latency": {}}
    if "exact" in parts:
        for task in arguments.task or TASKS:
            results["tasks"][task] = measure_exact(task, arguments)
            write_json(RESULTS, {**results, "environment": environment("cpu")})
    if "latency" in parts:
        for name, timed in latency_models(arguments).items():
            if name in (arguments.model or CELLS):
                results["latency"][name] = measure_latency(name, *timed)
                write_json(RESULTS, {**results, "environment": environment("cpu")})
    artefacts_tables.write(read_json(RESULTS))


if __name__ == "__main__":
    main()
