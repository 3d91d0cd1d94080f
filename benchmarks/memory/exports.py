"""Memory of an export: models as wide as BERT-large, of 12 and of 24 layers, in `optimized` and `int8`.

    python -m benchmarks.memory.exports [--layers 12 24]

The classifiers are random, 1,024 wide, with a small vocabulary: what an export takes does not depend on what the weights
are. Each runs in a child process of its own, whose peak is reported, beside what it had before the export began.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import markdown
from benchmarks.common.child import told_by
from benchmarks.memory.archive import WIDE, random_bert
from benchmarks.memory.run import memory_mb
from compressor.files import write_json
from compressor.measurement.machine.environment import environment

RESULTS = Path(__file__).parents[1] / "results" / "exports.json"
VARIANTS = "optimized", "int8"


def child(folder: Path) -> None:
    """Export; print the peak of resident memory, and what there was before."""
    from compressor.export.onnx import export_variants
    from compressor.measurement.cost import weight_bytes

    before = memory_mb("VmRSS")
    export_variants(folder / "model", folder / "onnx", VARIANTS)
    weights = weight_bytes(folder / "model") / 1e6
    print(json.dumps({"weights_mb": weights, "before_mb": before, "peak_mb": memory_mb("VmHWM")}))


def measured(layers: int) -> dict[str, Any]:
    """Return what the export of a random model of so many layers takes."""
    with tempfile.TemporaryDirectory() as made:
        random_bert(Path(made) / "model", num_hidden_layers=layers, **WIDE)
        return {"layers": layers, **told_by(__spec__.name, "--child", made)}


def table(runs: list[dict[str, Any]]) -> str:
    """Return the Markdown table."""
    columns = ["layers, 1,024 wide", "weights", "before the export", "peak", "in sizes of the weights, above that"]
    rows = [
        [
            str(run["layers"]),
            *(f"{run[name] / 1e3:.2f} GB" for name in ("weights_mb", "before_mb", "peak_mb")),
            f"{(run['peak_mb'] - run['before_mb']) / run['weights_mb']:.1f}",
        ]
        for run in runs
    ]
    return markdown.table(columns, rows)


def main() -> None:
    """Measure and write the figures and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[12, 24])
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    runs = []
    for layers in arguments.layers:
        runs.append(measured(layers))
        print(runs[-1], flush=True)
    write_json(RESULTS, {"runs": runs, "environment": environment("cpu")})
    markdown.put("exports", table(runs))


if __name__ == "__main__":
    main()
