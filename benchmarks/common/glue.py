"""The five GLUE tasks of the benchmarks, the models of twelve layers, and their recipes."""

import argparse
from pathlib import Path

from compressor import load_recipe
from compressor.recipe.compression import Recipe

TASKS = "sst2", "cola", "rte", "mrpc", "qnli"
TWELVE = {"sst2-12layers": "sst2", "qnli-12layers": "qnli"}
"""Fine-tuned classifier on a pretrained encoder of twelve layers -> its task."""
RECIPES = Path(__file__).parents[2] / "recipes"


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where models and data lie."""
    parser.add_argument("--models", type=Path, help="folder with a fine-tuned classifier for each task")
    parser.add_argument("--data", type=Path, help="folder with the GLUE parquet files of each task")


def recipe_of(task: str, arguments: argparse.Namespace, model: str, *extra: str) -> Recipe:
    """Return the recipe of a task, or of a model of twelve layers, with what the command line and `extra` override."""
    sets = [f"model.path={arguments.models / model}"] if arguments.models else []
    sets += [f"data.source={arguments.data}"] if arguments.data else []
    return load_recipe(RECIPES / f"{TWELVE.get(task, task)}.yaml", [*sets, *extra])
