"""A task whose cascade can certify, and finished runs of it."""

import pytest
import yaml
from cascade_runs import QUICK, main_quietly
from tiny import letter_rows, save_model, save_rows


@pytest.fixture(scope="package")
def task(tmp_path_factory):
    """Return a folder with a recipe whose cascade can certify 10 % on 150 rows."""
    folder = tmp_path_factory.mktemp("cascade-task")
    save_model(folder / "model", "bert", layers=3, num_labels=2)
    rows = letter_rows(540)
    save_rows(folder, rows, 480)
    recipe = {
        "name": "tiny",
        "model": {"path": f"{folder}/model"},
        "data": {
            **{name: f"{folder}/{name}.csv" for name in ("train", "validation")},
            **{"text": "text", "label": "label", "max_length": 32},
            **{"calibration": {"split": "train", "size": 150, "seen_in_training": False}, "selection": {"size": 60}},
        },
        "selection": {"search": "ranked", "layers": 1},
        "compensation": {"head": None},
        "export": {"variants": ["optimized"]},
        "cascade": {"exits": [1, 2], "max_flips": 0.1},
        "benchmark": {"batch_sizes": [1, 4], "lengths": [8], "min_runs": 5, **QUICK},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


@pytest.fixture(scope="package")
def full(task, tmp_path_factory):
    """Return the directory of a finished run whose cascade is cut from the full model."""
    out = tmp_path_factory.mktemp("runs") / "full"
    main_quietly("run", task / "recipe.yaml", "--out", out, "--device", "cpu")
    return out
