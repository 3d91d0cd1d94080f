"""Scores and sets of labels as they stand in files, and the sentences for those that cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest

from compressor.data.tasks import load_task
from compressor.errors import UserError
from compressor.recipe.data import DataSpec


def own(folder, values, validation, label="y", suffix=".jsonl", **more):
    """Return the data of two files whose rows have these values of the label columns."""
    files = {}
    for name, rows in (("train", values), ("validation", validation)):
        table = [
            {"text": f"{name} text {row}", **(value if isinstance(value, dict) else {"y": value})}
            for row, value in enumerate(rows)
        ]
        path = folder / f"{name}{suffix}"
        if suffix == ".csv":
            pd.DataFrame(table).to_csv(path, index=False)
        else:
            path.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
        files[name] = str(path)
    sizes = {"calibration": {"size": 4}, "selection": {"size": 4}}
    return DataSpec(**{**files, "text": "text", "label": label, **sizes, **more})


def load(spec, names=None):
    return load_task(spec, model_labels=names, seed=0)


SCORES = [row / 20 for row in range(20)]
SETS = [["a"] * (row % 2) + ["b"] * (row % 3 == 0) for row in range(20)]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_scores_are_read_as_numbers(tmp_path, suffix):
    data = load(own(tmp_path, SCORES, [0.5, 2, 1e-3], kind="score", suffix=suffix))
    assert data.label_names == ("score",)
    assert data.evaluation.labels.tolist() == [0.5, 2, 1e-3]
    assert data.evaluation.labels.dtype == np.float64
    parts = np.concatenate([getattr(data, part).labels for part in ("train", "calibration", "selection")])
    assert sorted(parts.tolist()) == SCORES


def test_sets_are_read_from_lists_and_from_columns(tmp_path):
    data = load(own(tmp_path, SETS, [["b"], [], ["a", "b"]], kind="many_labels"))
    assert data.label_names == ("a", "b")
    assert data.evaluation.labels.tolist() == [[0, 1], [0, 0], [1, 1]]
    rows = [{"b": row % 2, "a": row % 3 == 0} for row in range(20)]
    data = load(own(tmp_path, rows, [{"b": 1, "a": False}, {"b": 0, "a": True}], label=["b", "a"], kind="many_labels"))
    assert data.label_names == ("b", "a")
    assert data.evaluation.labels.tolist() == [[1, 0], [0, 1]]
    written = [json.dumps(labels) for labels in SETS]
    data = load(own(tmp_path, written, ['["b"]', "a"], kind="many_labels", suffix=".csv"))
    assert data.evaluation.labels.tolist() == [[0, 1], [1, 0]]


def test_the_labels_of_the_model_give_the_order(tmp_path):
    data = load(own(tmp_path, SETS, [["b"], ["a"]], kind="many_labels"), ["c", "b", "a"])
    assert data.evaluation.labels.tolist() == [[0, 1, 0], [0, 0, 1]]


BAD = {
    "no number": (
        "score",
        [*SCORES[:-1], "high"],
        {},
        "train.jsonl: row 20, column 'y': the score 'high' is no finite number",
    ),
    "NaN": ("score", [*SCORES[:-1], "nan"], {}, "row 20, column 'y': the score 'nan' is no finite number"),
    "infinite": ("score", ["-inf", *SCORES[1:]], {}, "row 1, column 'y': the score '-inf' is no finite number"),
    "no score": ("score", [None, *SCORES[1:]], {}, "row 1, column 'y': the score is missing"),
    "all the same": ("score", [1.0] * 20, {}, "all rows of the train part (12) have the score 1"),
    "no list": ("many_labels", [3, *SETS[1:]], {}, "row 1, column 'y': 3 is no list of labels"),
    "broken list": ("many_labels", ["[a,", *SETS[1:]], {}, "row 1, column 'y': '[a,' is no list of labels"),
    "odd label": ("many_labels", [[0.5], *SETS[1:]], {}, "row 1, column 'y': the list holds 0.5, which is no label"),
    "no labels": ("many_labels", [None, *SETS[1:]], {}, "row 1, column 'y': the labels are missing"),
    "unknown label": (
        "many_labels",
        [["z"], *SETS[1:]],
        {"names": ["a", "b"]},
        "row 1, column 'y': 'z' is none of 'a', 'b'",
    ),
}


@pytest.mark.parametrize(("kind", "values", "more", "words"), BAD.values(), ids=BAD)
def test_labels_that_cannot_be_used_are_named_with_their_row(tmp_path, kind, values, more, words):
    validation = [0.1, 0.2] if kind == "score" else [["a"], ["b"]]
    with pytest.raises(UserError) as error:
        load(own(tmp_path, values, validation, kind=kind), **more)
    assert words in str(error.value)


def test_flags_are_0_and_1(tmp_path):
    rows = [{"b": row % 2, "a": 0} for row in range(20)]
    rows[3]["a"] = 2
    with pytest.raises(UserError, match=r"row 4, column 'a': 2 is neither 0 nor 1"):
        load(own(tmp_path, rows, rows[:2], label=["b", "a"], kind="many_labels"))


def test_bad_rows_can_be_left_out(tmp_path):
    data = load(own(tmp_path, ["high", *SCORES[1:]], [0.1, 0.2], kind="score", on_bad_row="skip"))
    assert data.skipped_rows == {"train": 1, "validation": 0}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "score", "label": ["a", "b"]}, "label names several columns: that is for kind: many_labels"),
        ({"label": ["a", "b"]}, "label names several columns: that is for kind: many_labels"),
        ({"kind": "many_labels", "tolerance": 0.1}, "tolerance is for kind: score, not many_labels"),
        ({"kind": "score", "threshold": 0.4}, "threshold is for kind: many_labels, not score"),
        ({"kind": "many_labels", "threshold": 1.5}, "less than 1"),
        ({"kind": "score", "labels": {"a": "b"}}, "leave it out with kind: score"),
        ({"kind": "regression"}, "'single_label', 'score' or 'many_labels'"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(values, words):
    with pytest.raises(ValueError, match="validation error") as error:
        DataSpec(**{"train": "a.csv", "validation": "b.csv", "text": "t", "label": "y", **values})
    assert words in str(error.value)


def test_classes_known_by_name_may_be_read_as_a_score(tmp_path):
    (tmp_path / "mrpc").mkdir()
    for split, rows in (("train", 40), ("validation", 6)):
        table = [[f"{split} {row}", f"other {row}", row % 2] for row in range(rows)]
        pd.DataFrame(table, columns=["sentence1", "sentence2", "label"]).to_parquet(
            tmp_path / "mrpc" / f"{split}.parquet"
        )
    data = load(
        DataSpec(task="mrpc", source=str(tmp_path), kind="score", selection={"size": 6}, calibration={"size": 6})
    )
    assert (data.label_names, data.evaluation.labels.tolist()) == (("score",), [0, 1, 0, 1, 0, 1])
