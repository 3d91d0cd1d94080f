"""What does skipping one layer cost and gain? The five GLUE recipes, one after the other, in one table.

    python -m benchmarks.skip_one.run --models DIR --data DIR [--layers 1] [--task sst2]

`--models` holds one fine-tuned classifier a task (DIR/sst2, DIR/cola, ...), `--data` the GLUE parquet files
(DIR/sst2/train.parquet, ...). Without them the recipes' own hub ids are used. Runs resume; results/skip_one.json keeps the
figures and the environment, and the table in tables/skip_one.md is rewritten from it.
"""

import argparse
import json
import time
from pathlib import Path

from benchmarks.common import markdown
from benchmarks.common.glue import TASKS, add_sources, recipe_of
from compressor import run_recipe
from compressor.progress import track_for_terminal

HERE = Path(__file__).parents[1]
COLUMNS = (
    "task",
    "rows",
    "skipped",
    "accuracy full",
    "accuracy compressed",
    "delta, points [95 %]",
    "flips",
    "lowest gain, its regret",
    "tier",
    "speed-up ONNX optimized [95 %]",
)


def run_task(task: str, arguments: argparse.Namespace) -> dict:
    """Run one recipe; return its figures."""
    # the column of the lowest gain is about that score, whatever score ranks by default
    recipe = recipe_of(task, arguments, task, f"selection.layers={arguments.layers}", "selection.rank_by=separability")
    out, started = Path("runs") / f"skip-{arguments.layers}" / task, time.perf_counter()
    result = run_recipe(recipe, out, track=track_for_terminal(), say=lambda line: print(f"  {line}", flush=True)).result
    print(f"{task}: {time.perf_counter() - started:.0f} s of this call", flush=True)
    variants = result["variants"]
    chosen = result["plan"]["chosen"]
    return {
        "task": task,
        "skip": result["plan"]["skip"],
        "layers": result["plan"]["layers"],
        "ranked": result["plan"]["ranked"]["skip"],
        "regret": result["plan"]["regret"],
        "selection": {key: chosen[key] for key in ("agreement", "raw_agreement")},
        "head": {
            key: result["head"][key] for key in ("nodes", "targets", "agreement_before", "agreement_after", "folded")
        },
        "full": {key: variants["full"][key] for key in ("accuracy", "f1", "mcc", "parameters", "encoder_flops")},
        "compressed": {key: value for key, value in variants["compressed"].items() if key != "latency"},
        "int8": variants["onnx_int8"]["versus_full"],
        "latency": {name: variants[name]["latency"] for name in ("compressed", "onnx_optimized", "onnx_int8")},
        "noise_floor": result["benchmark"]["noise_floor"],
        "environment": result["environment"],
        "data": result["data"]["splits"],
        "seconds": {stage["name"]: stage["seconds"] for stage in result["stages"]},
    }


def table(rows: list[dict]) -> str:
    """Return the Markdown table."""
    lines = []
    for row in rows:
        versus = row["compressed"]["versus_full"]
        low, high = versus["ci95"]
        cell = next(cell for cell in row["latency"]["onnx_optimized"] if cell["length"] == "workload")
        cells = [
            row["task"],
            str(versus["rows"]),
            f"{', '.join(map(str, row['skip']))} of {row['layers']}",
            f"{row['full']['accuracy']:.1%}",
            f"{row['compressed']['accuracy']:.1%}",
            f"{100 * versus['accuracy_delta']:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]",
            f"{versus['flip_rate']:.2%}",
            f"layer {', '.join(map(str, row['ranked']))}, {100 * row['regret']['agreement']:.1f} points",
            versus["tier"],
            f"{cell['speedup']:.2f}x [{cell['speedup_ci95'][0]:.2f}, {cell['speedup_ci95'][1]:.2f}]"
            + ("" if cell["claimed"] else " (within noise)"),
        ]
        lines.append(cells)
    return markdown.table(COLUMNS, lines)


def main() -> None:
    """Run the tasks and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--layers", type=int, default=1, help="number of layers to skip")
    parser.add_argument("--task", action="append", choices=TASKS, help="only this task; may be repeated")
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from results/skip_one.json")
    arguments = parser.parse_args()
    if arguments.table_only:
        markdown.put("skip_one", table(json.loads((HERE / "results" / "skip_one.json").read_text(encoding="utf-8"))))
        return
    rows = [run_task(task, arguments) for task in arguments.task or TASKS]
    print(table(rows))
    if arguments.task or arguments.layers != 1:
        return  # the shipped table holds all tasks or none
    (HERE / "results").mkdir(exist_ok=True)
    (HERE / "results" / "skip_one.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    markdown.put("skip_one", table(rows))


if __name__ == "__main__":
    main()
