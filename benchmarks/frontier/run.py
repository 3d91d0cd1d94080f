"""What beats what? Five GLUE tasks x ways to choose x 1..4 skipped layers, with and without a head, against trials.

    python -m benchmarks.frontier.run --models DIR --data DIR [--task sst2] [--skip-twelve]

`--models` holds one fine-tuned classifier a task (DIR/sst2, DIR/cola, ...) and, for the 12-layer part, DIR/sst2-12layers;
`--data` the GLUE parquet files. Every set is chosen on the selection split and measured on the evaluation split; the head
is trained label-free on unlabelled text, once a seed. Audits resume; results/glue_frontier.json keeps every figure and the
environment, and the tables in tables/frontier.md are written from it.
"""

import argparse
import json
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.glue import TASKS, add_sources, recipe_of
from benchmarks.frontier import tables as frontier_tables
from benchmarks.frontier.audits import audited
from compressor.compensation.heads.head import cross_entropy, fit_head, soft_targets
from compressor.data.batches import Encodings
from compressor.files import read_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.measurement.statistics import compare
from compressor.model.capture import capture_calls
from compressor.model.families import FAMILIES, head_logits, layer_list
from compressor.model.states.states import final_states
from compressor.model.surgery import drop_layers
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.selection.baselines import Evidence, ranked_set
from compressor.selection.search import candidate_sets
from compressor.selection.trials import judge
from compressor.selection.trie import SkipSet, call_groups, walk_sets

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "glue_frontier.json"
METHODS = "separability", "block_influence", "cka", "top_first", "every_other", "random", "exhaustive"
SIZES = 1, 2, 3, 4
SEEDS = 0, 1, 2
PARTS = "calibration", "selection", "evaluation"
NAIVE_SETS = 24


def chosen_sets(run: Run, audit: dict) -> dict[tuple[str, int, int], SkipSet]:
    """Return (method, size, seed) -> skip set; only random depends on the seed."""
    best = {point["size"]: tuple(point["skip"]) for point in audit["frontier"] if point["series"] == audit["search"]}
    scores = read_json(run.path / "scores.json")
    return {
        (method, size, seed): best[size]
        if method == "exhaustive"
        else ranked_set(method, Evidence.of(scores, seed), size)
        for method in METHODS
        for size in SIZES
        for seed in SEEDS
    }


def cls_of_sets(run: Run, encodings: Encodings, sets: list[SkipSet]) -> tuple[dict[SkipSet, torch.Tensor], np.ndarray]:
    """Return the final [CLS] states [N, H] of every pruned model, and the full model's logits [N, C]."""
    calls, logits = capture_calls(run.teacher, run.family, encodings)
    order = torch.cat([call.rows for call in calls]).argsort()
    layers = list(layer_list(run.teacher, run.family))
    parts: dict[SkipSet, list[torch.Tensor]] = {skip: [] for skip in sets}
    for group in call_groups(calls, len(layers)):
        for skip, hidden in walk_sets(layers, group, sets):
            parts[skip].append(torch.cat([state[:, 0] for state in hidden]))
    return {skip: torch.cat(part)[order] for skip, part in parts.items()}, logits.numpy()


def trained_head(job: tuple) -> tuple[SkipSet, int, torch.Tensor, torch.Tensor]:
    """Train one head; return its set, its seed and its logits on the selection and the evaluation split."""
    skip, seed, (calibration, *others), targets, spec, model_type = job
    activation = FAMILIES[model_type].activation
    head = fit_head(calibration, targets[0], others[0], targets[1], spec, activation, seed=seed).head
    return skip, seed, *(head.logits(part, activation) for part in others)


def measure_task(task: str, arguments: argparse.Namespace) -> dict:
    """Return every method's sets of one task, measured on the evaluation split with and without a head."""
    started = time.perf_counter()
    run, audit = audited(arguments, task)
    chosen = chosen_sets(run, audit)
    sets = sorted(set(chosen.values()))
    states, teacher = {}, {}
    for part in PARTS:
        states[part], teacher[part] = cls_of_sets(run, getattr(run, part), sets)
    labels = run.data.evaluation.labels
    targets = soft_targets(teacher["calibration"]), soft_targets(teacher["selection"])
    jobs, stock = [], {}
    for skip in sets:
        with torch.inference_mode():
            stock[skip] = {part: head_logits(run.teacher, run.family, states[part][skip]) for part in PARTS[1:]}
        known = [states[part][skip].clone() for part in PARTS]
        jobs += [
            (skip, seed, known, targets, run.recipe.compensation.head, run.source.config["model_type"])
            for seed in SEEDS
        ]
    logits: dict[tuple[SkipSet, int | None], np.ndarray] = {
        (skip, None): stock[skip]["evaluation"].numpy() for skip in sets
    }
    folded = {}
    # a head is too small a job for several threads: one process a core
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        for skip, seed, selection_logits, evaluation_logits in pool.map(trained_head, jobs):
            # as in a run: the head is kept if its loss on the selection split is below the stock head's
            losses = [cross_entropy(part, targets[1]) for part in (selection_logits, stock[skip]["selection"])]
            folded[skip, seed] = losses[0] < losses[1]
            logits[skip, seed] = evaluation_logits.numpy() if folded[skip, seed] else logits[skip, None]
    full = teacher["evaluation"]
    points = []
    for (method, size, seed), skip in chosen.items():
        for mode in ("stock", "head"):
            versus = compare(full, logits[skip, seed if mode == "head" else None], labels)
            points.append(
                {"method": method, "size": size, "seed": seed, "mode": mode, "skip": skip}
                | {"flips": versus.flips, "gained": versus.gained, "lost": versus.lost}
                | ({"folded": folded[skip, seed]} if mode == "head" else {})
            )
    rows = frontier_tables.row_scores(chosen, logits, full, labels, SEEDS)
    accuracy = float((full.argmax(1) == labels).mean())
    print(f"{task}: {time.perf_counter() - started:.0f} s, {len(sets)} sets", flush=True)
    return {"accuracy": accuracy, "evaluation_rows": len(labels), "points": points, "row_scores": rows}


def measure_twelve(arguments: argparse.Namespace) -> dict:
    """Return the 12-layer model's exhaustive and beam searches, and the trie's time against naive trials of a sample."""
    shutil.rmtree(Path("runs") / "frontier" / "sst2-12layers", ignore_errors=True)  # the search must really be timed
    every = "selection.layers=auto", "goals={max_flips: 0.05}", "data.selection.size=500"
    recipe = recipe_of("sst2", arguments, "sst2-12layers", *every)
    run = prepare(recipe, Path("runs") / "frontier" / "sst2-12layers", "cpu", silent)
    layers = len(layer_list(run.teacher, run.family))
    sets = candidate_sets(layers, range(layers), [])
    sample = [sets[pick] for pick in np.random.default_rng(0).choice(len(sets), NAIVE_SETS, replace=False)]
    seconds = naive_trials(run, sample[: NAIVE_SETS // 2])  # half before and half after, so that drift hits both alike
    recipe = recipe_of("sst2", arguments, "sst2-12layers", *every, "selection.audit=true")
    run_until(recipe, "audit", run.path, device="cpu")
    audit = read_json(run.path / "audit.json")
    plan = read_json(run.path / "plan.json")
    seconds += naive_trials(run, sample[NAIVE_SETS // 2 :])
    draws = np.random.default_rng(1).choice(seconds, (10_000, len(seconds))).mean(axis=1) * len(sets) / plan["seconds"]
    beams = {}
    for width in (1, 4, 8):  # these find their trials in the exhaustive search's cache
        beam = "selection.search=beam", f"selection.beam_width={width}", "selection.layers=11", "goals=null"
        run_until(recipe_of("sst2", arguments, "sst2-12layers", *every, *beam), "plan", run.path, device="cpu")
        found, best = read_json(run.path / "plan.json"), {}
        for trial in found["trace"]:
            best.setdefault(len(trial["skip"]), {key: trial[key] for key in ("skip", "agreement", "kl")})
        beams[str(width)] = {"best": {str(size): trial for size, trial in best.items()}}
        beams[str(width)] |= {key: found[key] for key in ("sets_evaluated", "layer_applications")}
    return {
        "audit": audit,
        "beam": beams,
        "rows": plan["rows"],
        "exhaustive": {
            key: plan[key] for key in ("sets_evaluated", "layer_applications", "predicted_seconds", "seconds")
        },
        "naive": {
            "sample": sample,
            "seconds_per_set": seconds,
            "layer_applications_of_all_sets": sum(layers - len(skip) for skip in sets),
            "ratio": float(np.mean(seconds) * len(sets) / plan["seconds"]),
            "ratio_ci95": np.quantile(draws, [0.025, 0.975]).tolist(),
        },
    }


def naive_trials(run: Run, sets: list[SkipSet]) -> list[float]:
    """Return the seconds of judging each set on its own: a forward pass of the pruned model and the readout."""
    teacher, seconds = predict(run.teacher, run.selection), []
    for skip in sets:
        pruned = drop_layers(run.teacher, run.family, skip)
        started = time.perf_counter()
        states, logits = final_states(pruned, run.family, run.selection)
        judge(skip, torch.from_numpy(states), logits, teacher, run.data.selection.labels)
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> None:
    """Run the tasks, write the figures and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument(
        "--task", action="append", choices=TASKS, help="only this task; may be repeated; writes no table"
    )
    parser.add_argument(
        "--skip-twelve", action="store_true", help="leave the 12-layer model out; keeps its last figures"
    )
    parser.add_argument(
        "--only-twelve", action="store_true", help="the 12-layer model alone; keeps the tasks' last figures"
    )
    parser.add_argument("--table-only", action="store_true", help="rewrite the tables from the results")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"tasks": {}, "twelve": None}
    if not arguments.table_only:
        if not arguments.only_twelve:
            measured = {task: measure_task(task, arguments) for task in arguments.task or TASKS}
            results["tasks"] = {
                task: {key: value for key, value in entry.items() if key != "row_scores"}
                for task, entry in measured.items()
            }
            if not arguments.task:
                results["pooled"] = frontier_tables.pool(measured, METHODS, SIZES)
        if arguments.task:  # the shipped tables hold all tasks or none
            print(json.dumps(results["tasks"], indent=1))
            return
        if not arguments.skip_twelve and arguments.models and (arguments.models / "sst2-12layers").is_dir():
            results["twelve"] = measure_twelve(arguments)
        results["environment"] = environment("cpu")
        results["settings"] = {"methods": METHODS, "sizes": SIZES, "seeds": SEEDS, "naive_sets": NAIVE_SETS}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, allow_nan=False) + "\n", encoding="utf-8")
    frontier_tables.write(results)


if __name__ == "__main__":
    main()
