"""Scores and sets of labels as they stand in files, and the sentences for those that cannot be used."""

import json

import numpy as np
import pandas as pd
import pytest

from compressor.data.tasks import load_task
from compressor.errors import UserError
from compressor.recipe.data import DataSpec


def own(folder, values, validation, label="y", suffix=".jsonl", queries=None, **more):
    """Return the data of two files whose rows have these values of the label columns, those of training also a query."""
    files = {}
    for name, rows in (("train", values), ("validation", validation)):
        table = [
            {"text": f"{name} text {row}", **(value if isinstance(value, dict) else {"y": value})}
            for row, value in enumerate(rows)
        ]
        if queries is not None:
            asked = queries if name == "train" else ["p"] * len(table)
            table = [{**row, "q": query} for row, query in zip(table, asked, strict=True)]
            more["group"] = "q"
        path = folder / f"{name}{suffix}"
        if suffix == ".csv":
            pd.DataFrame(table).to_csv(path, index=False)
        else:
            path.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
        files[name] = str(path)
    size = 4 if queries is None else 8
    sizes = {"calibration": {"size": size}, "selection": {"size": size}}
    return DataSpec(**{**files, "text": "text", "label": label, **(sizes | more)})


def load(spec, names=None):
    return load_task(spec, model_labels=names, seed=0)


SCORES = [row / 20 for row in range(20)]
RELEVANT = [row % 3 for row in range(20)]
QUERIES = [f"query {row // 4}" for row in range(20)]
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
    "deep list": ("many_labels", ["[" * 100_000, *SETS[1:]], {}, "is no list of labels"),
    "odd label": ("many_labels", [[0.5], *SETS[1:]], {}, "row 1, column 'y': the list holds 0.5, which is no label"),
    "no labels": ("many_labels", [None, *SETS[1:]], {}, "row 1, column 'y': the labels are missing"),
    "negative relevance": (
        "ranking",
        [-1, *RELEVANT[1:]],
        {},
        "row 1, column 'y': the relevance -1 is below 0, which is none at all",
    ),
    "one document": (
        "ranking",
        RELEVANT,
        {"queries": ["alone", *QUERIES[1:]]},
        "row 1: the query 'alone' has one document, and an order takes two",
    ),
    "no query": ("ranking", RELEVANT, {"queries": ["", *QUERIES[1:]]}, "row 1, column 'q': the query is missing"),
    "unknown label": (
        "many_labels",
        [["z"], *SETS[1:]],
        {"names": ["a", "b"]},
        "row 1, column 'y': 'z' is none of 'a', 'b'",
    ),
}


@pytest.mark.parametrize(("kind", "values", "more", "words"), BAD.values(), ids=BAD)
def test_labels_that_cannot_be_used_are_named_with_their_row(tmp_path, kind, values, more, words):
    validation = [["a"], ["b"]] if kind == "many_labels" else [0.1, 0.2]
    queries = {"queries": more.get("queries", QUERIES)} if kind == "ranking" else {}
    with pytest.raises(UserError) as error:
        load(own(tmp_path, values, validation, kind=kind, **queries), more.get("names"))
    assert words in str(error.value)


def test_queries_stay_whole_and_lie_in_one_part(tmp_path):
    spec = own(tmp_path, RELEVANT * 2, [0, 1], kind="ranking", queries=[f"query {row // 4}" for row in range(40)])
    data = load(spec)
    parts = [getattr(data, part) for part in ("train", "calibration", "selection", "evaluation")]
    assert [part.counted for part in parts] == [6, 2, 2, 1]  # eight rows each are asked for, and four a query has
    assert [len(part) for part in parts] == [24, 8, 8, 2]
    assert [set(part.within.tolist()) for part in parts] == [set(range(part.counted)) for part in parts]
    names = [set(part.groups) for part in parts]
    assert sum(map(len, names)) == len(set.union(*names)) == 11
    assert spec.group == "q"


def test_a_query_is_the_first_text_where_no_column_is_named(tmp_path):
    for name, rows in (("train", 24), ("validation", 4)):
        lines = [json.dumps({"a": f"{name} {row // 2}", "b": f"document {row}", "y": row % 2}) for row in range(rows)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("train", "validation")}
    data = load(
        DataSpec(**files, text=["a", "b"], label="y", kind="ranking", selection={"size": 6}, calibration={"size": 6})
    )
    assert data.evaluation.groups == ["validation 0"] * 2 + ["validation 1"] * 2
    assert (len(data.selection), len(data.calibration), len(data.train)) == (6, 6, 12)


def test_a_query_of_the_evaluation_leaves_the_training_rows(tmp_path):
    queries = ["p" if row < 8 else f"query {row // 4}" for row in range(80)]
    data = load(own(tmp_path, RELEVANT * 4, [0, 1], kind="ranking", queries=queries, selection={"size": 20}))
    assert sum(data.removed_overlaps.values()) == 8
    assert all("p" not in getattr(data, part).groups for part in ("train", "calibration", "selection"))


def test_documents_alone_can_be_left_out(tmp_path):
    queries = ["alone", *QUERIES[1:]]
    data = load(own(tmp_path, RELEVANT, [0, 1], kind="ranking", queries=queries, on_bad_row="skip"))
    assert data.skipped_rows == {"train": 1, "validation": 0}
    assert "the query 'alone' has one document" in data.warnings[0]


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
        ({"kind": "score", "group": "q"}, "group is for kind: ranking, not score"),
        ({"group": "q"}, "group is for kind: ranking, not None"),
        ({"kind": "regression"}, "'single_label', 'score', 'many_labels', 'ranking' or 'tokens"),
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
