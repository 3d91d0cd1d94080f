"""What beats what? Five GLUE tasks x ways to choose x 1..4 skipped layers, with and without a head, against trials.

    python -m benchmarks.frontier.run --models DIR --data DIR [--task sst2]

`--models` holds one fine-tuned classifier a task (DIR/sst2, DIR/cola, ...), `--data` the GLUE parquet files. Every set is
chosen on the selection split and measured on the evaluation split; the head is trained label-free on unlabelled text, once
a seed. Audits resume; results/glue_frontier.json keeps every figure and the environment, and the tables in
tables/frontier.md are written from it.
"""

import argparse
import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.common.glue import TASKS, add_sources
from benchmarks.frontier import tables as frontier_tables
from benchmarks.frontier.audits import audited
from compressor.compensation.heads.head import cross_entropy, fit_head, soft_targets
from compressor.data.batches import Encodings
from compressor.files import read_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.statistics import compare
from compressor.model.capture import capture_calls
from compressor.model.families import FAMILIES, layer_list
from compressor.model.states.reading import head_logits
from compressor.run.run import Run
from compressor.selection.baselines import Evidence, ranked_set
from compressor.selection.trie import SkipSet, call_groups, walk_sets

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "glue_frontier.json"
METHODS = "separability", "block_influence", "cka", "top_first", "every_other", "random", "exhaustive"
SIZES = 1, 2, 3, 4
SEEDS = 0, 1, 2
PARTS = "calibration", "selection", "evaluation"


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


def main() -> None:
    """Run the tasks, write the figures and the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument(
        "--task", action="append", choices=TASKS, help="only this task; may be repeated; writes no table"
    )
    parser.add_argument("--table-only", action="store_true", help="rewrite the tables from the results")
    arguments = parser.parse_args()
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"tasks": {}, "twelve": {}}
    if not arguments.table_only:
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
        results["environment"] = environment("cpu")
        results["settings"] = {"methods": METHODS, "sizes": SIZES, "seeds": SEEDS}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, allow_nan=False) + "\n", encoding="utf-8")
    frontier_tables.write(results)


if __name__ == "__main__":
    main()
