"""Does Optimum export, open and optimise a model of each family and kind of answer, and what does this toolkit make of it?

    python -m benchmarks.parity.optimum

Small random models, six layers, unchanged. Optimum: `ORTModelFor...Classification.from_pretrained(..., export=True)` and
`ORTOptimizer` at its level O2; here: the `optimized` file. Each file's logits are held against PyTorch's on invented sequences,
and its fused nodes counted; what a library raises stands in the table. results/optimum.json keeps it all.
"""

import logging
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from optimum.onnxruntime import (
    AutoOptimizationConfig,
    ORTModelForSequenceClassification,
    ORTModelForTokenClassification,
    ORTOptimizer,
)

from benchmarks.common import markdown
from benchmarks.parity.run import HERE, TINY, sequences, tiny_model
from compressor.export.onnx import export_variants, quiet
from compressor.export.optimize import fused_nodes
from compressor.files import read_json, write_json
from compressor.measurement.machine.environment import environment
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.load import find_model, load_classifier

RESULTS = HERE / "results" / "optimum.json"
KINDS: dict[str, dict[str, Any]] = {
    "one label": {},
    "score": {"num_labels": 1},
    "many labels": {"problem_type": "multi_label_classification"},
    "tokens": {"tokens": True},
}
"""Kind of answer -> what its configuration has; kinds other than one label are tried on BERT alone. Rankings are by scores."""


def measure(work: Path, name: str, kind: str) -> dict[str, Any]:
    """Return what becomes of a family's model by either way: the largest logit difference and fused nodes, or an error."""
    model = tiny_model(work / "model", name, **KINDS[kind])
    opener = ORTModelForTokenClassification if kind == "tokens" else ORTModelForSequenceClassification
    source, encodings = find_model(str(model)), sequences(model)
    wanted = predict(load_classifier(source), encodings)

    def held(file: Path) -> dict[str, Any]:
        nodes = Counter(node.op_type for node in onnx.load(str(file), load_external_data=False).graph.node)
        found = predict_onnx(session(file), encodings)
        return {"difference": float(np.abs(found - wanted).max()), "fused": fused_nodes(nodes)}

    def exported() -> dict[str, Any]:
        opener.from_pretrained(model, export=True).save_pretrained(work / "plain")
        return held(work / "plain" / "model.onnx")

    def optimised() -> dict[str, Any]:
        optimizer = ORTOptimizer.from_pretrained(opener.from_pretrained(work / "plain"))
        optimizer.optimize(save_dir=work / "o2", optimization_config=AutoOptimizationConfig.O2())
        return held(next((work / "o2").glob("*.onnx")))

    def ours() -> dict[str, Any]:
        return held(export_variants(model, work / "ours", ["optimized"], form="reassociated")["optimized"].path)

    return {"export": tried(exported), "O2": tried(optimised), "ours": tried(ours)}


def tried(step: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return what a step gives, or the first line of what it raises."""
    try:
        with quiet():
            return step()
    except Exception as error:  # whatever a library leads to is the result here
        return {"error": f"{type(error).__name__}: {(str(error).strip() or 'no words').splitlines()[0][:120]}"}


def said(entry: dict[str, Any]) -> str:
    """Return a cell of the table."""
    if "error" in entry:
        return entry["error"].replace("|", "/")
    fused = ", ".join(f"{count} {kind}" for kind, count in sorted(entry["fused"].items()))
    return f"{entry['difference']:.0e}" + (f"; {fused}" if fused else "")


def main() -> None:
    """Measure every family and kind, write results and table."""
    logging.disable(logging.WARNING)
    found = read_json(RESULTS) if RESULTS.is_file() else {}
    found["environment"], found["models"] = environment("cpu"), {}
    for name in (name for name in TINY if "," not in name):
        for kind in KINDS if name == "bert" else ["one label"]:
            with tempfile.TemporaryDirectory() as work:
                found["models"][f"{name}, {kind}"] = made = measure(Path(work), name, kind)
            print(f"{name}, {kind}: {made}", flush=True)
    write_json(RESULTS, found)
    rows = [[name, *(said(entry[way]) for way in ("export", "O2", "ours"))] for name, entry in found["models"].items()]
    columns = [
        "model, answers",
        "Optimum: exported",
        "Optimum: O2",
        "here: `optimized`, with the exact tail where there is one",
    ]
    markdown.put("optimum", markdown.table(columns, rows))


if __name__ == "__main__":
    main()
