"""What a sweep saves: twelve points of three models one after the other, on two workers, and on Ray where a node dies.

    python -m benchmarks.sweep.run --models DIR --data DIR [--part apart --part local --part ray]

The points are RTE, MRPC and CoLA (six layers, texts of up to 32 tokens) with neurons within four budgets, short measurements.
`apart`: each run in a process of its own, one after the other, with nothing shared. `one` and `local`: a sweep on one worker and
on two. `ray`: two nodes of one CPU, of which one is killed once both have begun, with another in its place. Every part has one
thread a point, pinned by the sweep or by `taskset`. results/sweep.json keeps the seconds, tables/sweep.md shows them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.recipe.file import dump_recipe
from compressor.recipe.sweep import SweepRecipe
from compressor.sweep.points import points_of
from compressor.sweep.sweep import run_sweep
from compressor.sweep.work import THREADS

RESULTS = Path(__file__).parents[1] / "results" / "sweep.json"
TASKS = "rte", "mrpc", "cola"
KEEP = [0.9, 0.8, 0.7, 0.6]


def sweep_of(arguments: argparse.Namespace, **engine: Any) -> SweepRecipe:  # noqa: ANN401
    """Return the sweep of twelve points."""
    base = {
        "name": "points",
        "model": {"path": "."},
        "data": {
            "task": TASKS[0],
            "source": str(arguments.data),
            "calibration": {"split": "train", "size": 100},
            "selection": {"size": 100},
            "max_length": 32,
        },
        "separability": {"labels": "teacher"},
        "selection": {"units": ["width"], "widths": [0.75, 0.5, 0.25], "budget": {"keep": 0.84}},
        "compensation": {"refit": {"layers": "later", "blocks": "both"}, "head": None},
        "export": {"variants": ["optimized"]},
        "benchmark": {
            "batch_sizes": [1],
            "lengths": [32],
            "workload": False,
            "min_seconds": 0.5,
            "max_seconds": 2,
            "footprint": False,
        },
    }
    models = {task: {"model.path": str(arguments.models / task), "data.task": task} for task in TASKS}
    return SweepRecipe(name="twelve", base=base, models=models, grid={"selection.budget.keep": KEEP}, engine=engine)


def apart(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run every point on its own, one after the other, on one core."""
    core, started = sorted(os.sched_getaffinity(0))[0], time.monotonic()
    for point in points_of(sweep_of(arguments)):
        recipe = out / f"{point.name}.yaml"
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_text(dump_recipe(point.recipe), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "compressor",
            "run",
            str(recipe),
            "--out",
            str(out / point.name),
            "--device",
            "cpu",
        ]
        subprocess.run(
            ["taskset", "-c", str(core), *command],
            check=True,
            capture_output=True,
            env={**os.environ, **dict.fromkeys(THREADS, "1")},
        )
    return {"wall_seconds": time.monotonic() - started}


def swept(arguments: argparse.Namespace, out: Path, workers: int) -> dict[str, Any]:
    """Run the sweep on so many workers of one thread."""
    return told(run_sweep(sweep_of(arguments, workers=workers, threads=1), out, device="cpu", say=print).result)


def on_ray(arguments: argparse.Namespace, out: Path) -> dict[str, Any]:
    """Run the sweep on two nodes of one CPU, kill one of them once both are at work, and start another."""
    from ray.cluster_utils import Cluster

    # what Ray would end at exit it asks the main thread to, and the last node is added by another
    head = {"num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, shutdown_at_exit=False, head_node_args=head)
    cluster.add_node(num_cpus=1)
    doomed, killed = cluster.add_node(num_cpus=1), []

    def kill() -> None:
        started = time.monotonic()
        while len(list(out.glob("points/*/.stages/*.json"))) < 6:
            time.sleep(0.2)
        cluster.remove_node(doomed, allow_graceful=False)
        killed.append(time.monotonic() - started)
        cluster.add_node(num_cpus=1)

    threading.Thread(target=kill, daemon=True).start()
    sweep = sweep_of(arguments, kind="ray", address=cluster.address, threads=1, retries=2)
    try:
        return {**told(run_sweep(sweep, out, device="cpu", say=print).result), "killed_after_seconds": killed[0]}
    finally:
        cluster.shutdown()


def told(result: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a sweep."""
    states = [row["state"] for row in result["points"]]
    kept = {key: result[key] for key in ("wall_seconds", "shared", "front")}
    rows = ("name", "flips", "rows", "tier", "speedup", "shared_stages", "shared_seconds", "attempts")
    return {
        **kept,
        "done": states.count("done"),
        "points": [{key: row[key] for key in rows} for row in result["points"]],
    }


PARTS = {
    "apart": apart,
    "one": lambda arguments, out: swept(arguments, out, 1),
    "local": lambda arguments, out: swept(arguments, out, 2),
    "ray": on_ray,
}
NAMES = {
    "apart": "one run after the other, nothing shared",
    "one": "sweep, one worker",
    "local": "sweep, two workers",
    "ray": "Ray, two nodes, one killed",
}


def put_table(results: dict[str, Any]) -> None:
    """Write tables/sweep.md."""
    base = results.get("apart", {}).get("wall_seconds")
    rows = []
    for part, name in NAMES.items():
        if part in results:
            entry = results[part]
            shared = {"stages": 0, "seconds": 0.0, "computed": None, **entry.get("shared", {})}
            computed = "" if shared["computed"] is None else f"{shared['computed']:.0f} s"
            rows.append([
                name, f"{entry['wall_seconds']:.0f} s", f"{base / entry['wall_seconds']:.2f}x" if base else "",
                str(shared["stages"]), f"{shared['seconds']:.0f} s", computed,
            ])  # fmt: skip
    columns = ["twelve points", "wall time", "times as fast", "stages shared", "which had taken", "computed"]
    markdown.put("sweep", markdown.table(columns, rows))


def main() -> None:
    """Measure the parts asked for, keep the seconds, rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with rte, mrpc and cola")
    parser.add_argument("--data", type=Path, help="folder with the GLUE parquet files of each task")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this part; repeatable")
    parser.add_argument("--out", type=Path, default=Path("runs/sweep-benchmark"))
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from the results")
    arguments = parser.parse_args()
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    for part in [] if arguments.table_only else arguments.part or PARTS:
        shutil.rmtree(arguments.out / part, ignore_errors=True)
        kept[part] = {**PARTS[part](arguments, arguments.out / part), "environment": environment("cpu")}
        write_json(RESULTS, kept)
        print(f"{part}: {kept[part]['wall_seconds']:.0f} s", flush=True)
    put_table(kept)


if __name__ == "__main__":
    main()
