"""Two finished runs: one that says what to ship, and one whose recipe leaves that open; never changed, copied instead."""

import shutil
from pathlib import Path

import pytest
from tiny import letter_rows, save_model

from compressor.files import write_json
from compressor.model.card import with_line
from compressor.pipeline.finished import RunResult
from compressor.pipeline.pipeline import run_recipe
from compressor.release.manifest import write_manifest
from compressor.report.build import build_report
from compressor.report.wording.answer import answer_line

CARD = "---\nlicense: apache-2.0\nlanguage: en\n---\n\n# a model\n"
CELL = {"batch_sizes": [1], "lengths": [8], "workload": True, "min_seconds": 0, "min_runs": 5, "max_seconds": 1}


def name_the_file(done: RunResult, full: Path) -> None:
    """Let a run ship its fused file, however fast three tiny layers happened to be while it ran."""
    result = done.result
    size = (done.path / "onnx/optimized/model.onnx").stat().st_size
    result["answer"] |= {
        **{
            "variant": "onnx/optimized",
            "key": "onnx_optimized",
            "path": "onnx/optimized",
            "engine": "onnx",
            "bytes": size,
        },
        **{
            "mean_ms": 2.5,
            "baseline_mean_ms": 10.0,
            "speedup": 4.0,
            "speedup_ci95": [3.5, 4.5],
            "met": True,
            "misses": [],
        },
    }
    card = done.path / "model/README.md"
    card.write_text(with_line(card.read_text(encoding="utf-8"), answer_line(result["answer"])), encoding="utf-8")
    write_json(done.path / "result.json", result)
    build_report(done.path)
    write_manifest(done.path, result, full)


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """Return the folder with the runs `ship` (an answer, a line on the card) and `open` (optimized, int8 and an early exit)."""
    folder = tmp_path_factory.mktemp("release")
    names = {0: "late", 1: "early"}
    save_model(folder / "private-place" / "model", layers=3, num_labels=2, id2label=names, max_position_embeddings=160)
    (folder / "private-place" / "model" / "README.md").write_text(CARD, encoding="utf-8")
    rows = [f"{text},{names[label]}" for text, label in letter_rows(360)]
    for name, part in (("train", rows[:260]), ("validation", rows[260:])):
        (folder / "private-place" / f"{name}.csv").write_text("\n".join(["text,label", *part]) + "\n", encoding="utf-8")
    base = {
        "model": {"path": str(folder / "private-place/model")},
        "data": {
            "train": str(folder / "private-place/train.csv"),
            "validation": str(folder / "private-place/validation.csv"),
            "text": "text", "label": "label", "max_length": 32,
            "calibration": {"split": "train", "size": 60, "seen_in_training": False}, "selection": {"size": 60},
        },
        "benchmark": {**CELL, "footprint": False},
    }  # fmt: skip
    ship = {"ship": {"goal": "exact"}}
    name_the_file(run_recipe({"name": "ship", **base, **ship}, folder / "ship"), folder / "private-place/model")
    left_open = {
        "selection": {"search": "exhaustive", "layers": 1},
        "compensation": {"head": {"nodes": 4, "epochs": 10}},
        "export": {"variants": ["optimized", "int8"]},
        "analysis": ["errors"],
        "cascade": {"exits": [1], "max_flips": 0.5},
    }
    run_recipe({"name": "open", **base, **left_open}, folder / "open")
    return folder


@pytest.fixture
def copied(released, tmp_path):
    """Return a function: name of a run -> a copy of its directory that a test may damage."""

    def copy(name: str) -> Path:
        return Path(shutil.copytree(released / name, tmp_path / name))

    return copy
