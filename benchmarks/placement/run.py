"""Which layers of an encoder need a feed-forward block? Placements of equal size, trained from scratch, several seeds.

    python -m benchmarks.placement.run [--data DIR] [--recipe recipes/placement/gpu.yaml --device cuda] [--part tables]

`--data` holds the GLUE parquet files: the text is then every sentence of the train and test splits of five tasks, and the
recipe's tasks are read there. Without it the script makes text and one task by the demo grammar. `--processes` share the
runs, one thread each on a CPU; a run that is finished is not done again. results/ffn_placement.json (for another recipe
results/ffn_placement_NAME.json) keeps every run, the analysis and the environment; tables are written for the default recipe.
"""

import argparse
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from benchmarks.common.glue import TASKS
from benchmarks.placement import tables as ffn_placement_tables
from compressor.data import demo
from compressor.data.files import read_table
from compressor.data.named import GLUE
from compressor.files import read_json, write_json, write_text
from compressor.progress import track_for_terminal
from compressor.recipe.file import load_spec
from compressor.recipe.placement import PlacementRecipe

HERE = Path(__file__).parents[1]
RECIPE = HERE.parent / "recipes" / "placement" / "cpu.yaml"
DEMO_SENTENCES = 60_000


def sentences(data: Path | None) -> list[str]:
    """Return the text: every sentence of the five tasks' train and test splits once, or sentences of the demo grammar."""
    if data is None:
        return [text for text, _ in demo.generate(DEMO_SENTENCES, Random(0), set())]
    found: dict[str, None] = {}
    for task in TASKS:
        for split in ("train", "test"):
            columns = read_table(data / task / f"{split}.parquet", "--data").columns
            for column in GLUE[task].text_columns:
                found.update(dict.fromkeys(" ".join(text.split()) for text in columns[column]))
    return list(found)


def recipe_with(arguments: argparse.Namespace) -> PlacementRecipe:
    """Return the recipe with the text and tasks of the command line."""
    recipe = load_spec(arguments.recipe, PlacementRecipe, arguments.set)
    values = recipe.model_dump(mode="json")
    if arguments.recipe == RECIPE or arguments.data:
        values["text"] |= {"files": str(arguments.out / "text.txt"), "hub": None}
    for task in values["tasks"]:
        if arguments.data:
            task["source"] = str(arguments.data)
        elif arguments.recipe == RECIPE:
            task["task"] = "demo"
    if arguments.recipe == RECIPE and not arguments.data:
        values["tasks"] = values["tasks"][:1]
    return PlacementRecipe.model_validate(values)


def work(arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    """Take part in the runs until none is left; return what they share."""
    import torch

    from compressor.placement.experiment import prepare_placement, train_placement

    if arguments.device == "cpu":
        torch.set_num_threads(1)
    made = prepare_placement(recipe_with(arguments), arguments.out, device=arguments.device)
    train_placement(made, track=track_for_terminal())
    return made


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do all runs with the processes asked for; return the results."""
    from compressor.measurement.machine.environment import environment
    from compressor.placement.experiment import analyze_placement

    arguments.out.mkdir(parents=True, exist_ok=True)
    text = arguments.out / "text.txt"
    if not text.is_file() and (arguments.recipe == RECIPE or arguments.data):
        write_text(text, "\n".join(sentences(arguments.data)) + "\n")
    started = time.perf_counter()
    command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--part", "work"]
    threads = {"OMP_NUM_THREADS": "1"} if arguments.device == "cpu" else {}
    others = [subprocess.Popen(command, env={**os.environ, **threads}) for _ in range(arguments.processes - 1)]
    made = work(arguments)
    failed = [other.args for other in others if other.wait()]
    if failed:
        raise SystemExit(f"{len(failed)} of the processes failed; run the same command again, it resumes.")
    seconds = time.perf_counter() - started
    found = asdict(analyze_placement(made))
    # where text and tasks lie on this machine is no part of the result
    found["recipe"]["text"] |= {"files": "text.txt" if text.is_file() else None}
    for task in found["recipe"]["tasks"]:
        task["source"] = "GLUE"
    work_seconds = sum(run["seconds"] for run in found["runs"])
    source = (
        "five GLUE tasks, train and test"
        if arguments.data
        else "the demo grammar"
        if text.is_file()
        else "the recipe's"
    )
    timing = {"processes": arguments.processes, "seconds": seconds, "pretraining_seconds": work_seconds}
    return {"analysis": found, "text": source, **timing, "environment": environment(arguments.device)}


def main() -> None:
    """Train what is missing, write results and tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the GLUE parquet files of each task")
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="recipe of the experiment")
    parser.add_argument("--set", action="append", default=[], metavar="KEY.PATH=VALUE", help="override of the recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/ffn_placement"), help="folder of all runs")
    parser.add_argument("--processes", type=int, default=2, help="processes that share the runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--part", choices=["train", "work", "tables"], action="append", help="repeatable; default: train, tables"
    )
    arguments = parser.parse_args()
    arguments.recipe = arguments.recipe.resolve() if arguments.recipe.resolve() != RECIPE.resolve() else RECIPE
    parts = arguments.part or ["train", "tables"]
    if "work" in parts:
        work(arguments)
        return
    name = "ffn_placement" if arguments.recipe == RECIPE else f"ffn_placement_{arguments.recipe.stem}"
    results = HERE / "results" / f"{name}.json"
    if "train" in parts:
        write_json(results, train(arguments))
    if "tables" in parts and arguments.recipe == RECIPE:
        ffn_placement_tables.write(read_json(results))


if __name__ == "__main__":
    main()
