"""The five GLUE tasks of the benchmarks and their recipes."""

import argparse
from pathlib import Path

from compressor import load_recipe
from compressor.recipe.compression import Recipe

TASKS = "sst2", "cola", "rte", "mrpc", "qnli"
RECIPES = Path(__file__).parents[2] / "recipes"


def add_sources(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where models and data lie."""
    parser.add_argument("--models", type=Path, help="folder with a fine-tuned classifier for each task")
    parser.add_argument("--data", type=Path, help="folder with the GLUE parquet files of each task")


def recipe_of(task: str, arguments: argparse.Namespace, model: str, *extra: str) -> Recipe:
    """Return the task's recipe with the model and the data of the command line, and `extra` overrides."""
    sets = [f"model.path={arguments.models / model}"] if arguments.models else []
    sets += [f"data.source={arguments.data}"] if arguments.data else []
    return load_recipe(RECIPES / f"{task}.yaml", [*sets, *extra])
