"""Which predictions a result calls changed: those of what is shipped, else those of the compressed model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from compressor.data.answers.kinds import SINGLE
from compressor.stages.predictions import result

BUILT = {
    **{"variant": "onnx/int8", "key": "onnx_int8", "path": "onnx/int8", "engine": "onnx"},
    **{"precision": "int8", "whole": True, "flips": 1},
}


@pytest.mark.parametrize(
    ("ship", "chosen", "changed"), [(None, None, ["row 0"]), ({}, "onnx/int8", ["row 2"]), ({}, "today", [])]
)
def test_the_texts_are_those_whose_label_changes(tmp_path, ship, chosen, changed):
    full = np.array([[2.0, 0.0], [0.0, 2.0], [0.0, 1.0]])
    compressed, file = full.copy(), full.copy()
    compressed[0] = [0.0, 1.0]
    file[2] = [3.0, 0.0]
    np.savez(tmp_path / "predictions.npz", full=full, compressed=compressed, onnx_int8=file)
    (tmp_path / "ship.json").write_text(json.dumps({"chosen": chosen, "candidates": [BUILT]}))
    for name in ("parity", "explain"):
        (tmp_path / f"{name}.json").write_text("{}")
    rows = SimpleNamespace(labels=np.array([0, 1, 0]), texts=[("a",), ("b",), ("c",)], ids=["row 0", "row 1", "row 2"])
    run = SimpleNamespace(
        path=tmp_path,
        recipe=SimpleNamespace(ship=ship),
        task=SINGLE,
        data=SimpleNamespace(evaluation=rows, label_names=["bad", "good"]),
    )
    assert [row["id"] for row in result(run)["flipped"]] == changed
