"""A model as large as BERT-large: beam search over its 24 layers, time predicted and measured, and the peak of memory.

    python -m benchmarks.memory.large [--rows 500] [--length 8] [--beam 8] [--layers 2] [--workers 1]

The classifier is random (24 layers, 1,024 wide, 16 heads), the texts are the demo's, cut to `--length` tokens: neither
memory nor time depends on what the weights are. The search tries every layer, then each of the best `--beam` with every
other, by real forward passes over `--rows` texts. It runs in a child process of its own, whose peak is reported; that of
several workers is the largest one's.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from benchmarks.common.child import told_by
from benchmarks.memory.archive import WIDE, random_bert
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment

RESULTS = Path(__file__).parents[1] / "results" / "large.json"


def child(folder: Path, asked: dict[str, Any]) -> None:
    """Search; print what the plan says of it, and the peak of resident memory."""
    from compressor.pipeline.pipeline import run_until
    from compressor.recipe.file import load_recipe

    recipe = load_recipe(
        {
            "name": "large",
            "model": {"path": str(folder / "model")},
            "data": {
                "task": "demo",
                "calibration": {"size": 100},
                "selection": {"size": asked["rows"]},
                "max_length": asked["length"],
            },
            "selection": {
                "search": "beam",
                "beam_width": asked["beam"],
                "layers": asked["layers"],
                "rank_by": "separability",
                "engine": {"workers": asked["workers"]} if asked["workers"] > 1 else None,
            },
            "export": {"variants": []},
            "benchmark": {"lengths": [asked["length"]]},
        }
    )
    run_until(recipe, "plan", folder / "run", device="cpu")
    plan = read_json(folder / "run" / "plan.json")
    own, others = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    keys = "rows", "sets_evaluated", "layer_applications", "predicted_seconds", "seconds"
    print(json.dumps({**asked, **{key: plan[key] for key in keys}, "peak_mb": max(own, others) * 1024 / 1e6}))


def main() -> None:
    """Measure and write the figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("rows", 500), ("length", 8), ("beam", 8), ("layers", 2), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    asked = {name: getattr(arguments, name) for name in ("rows", "length", "beam", "layers", "workers")}
    if arguments.child:
        child(arguments.child, asked)
        return
    with tempfile.TemporaryDirectory() as made:
        random_bert(Path(made) / "model", num_hidden_layers=24, **WIDE)
        options = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        found = told_by(__spec__.name, *options, "--child", made)
    print(found, flush=True)
    kept = read_json(RESULTS)["runs"] if RESULTS.is_file() else []
    kept = [run for run in kept if {name: run[name] for name in asked} != asked]
    write_json(RESULTS, {"runs": [*kept, found], "environment": environment("cpu")})
    markdown.put("large", table([*kept, found]))


def table(runs: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    columns = [
        "texts",
        "tokens",
        "beam",
        "layers less",
        "workers",
        "sets tried",
        "predicted",
        "measured",
        "peak of a process",
    ]
    names = "rows", "length", "beam", "layers", "workers", "sets_evaluated"
    return markdown.table(
        columns,
        [
            [
                *(f"{run[name]:,}" for name in names),
                f"{run['predicted_seconds']:,.0f} s",
                run.get("note") or f"{run['seconds']:,.0f} s",
                f"{run['peak_mb'] / 1e3:.1f} GB",
            ]
            for run in runs
        ],
    )


if __name__ == "__main__":
    main()
