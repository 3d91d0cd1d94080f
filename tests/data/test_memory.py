"""What a program holds becomes the same table whatever holds it, and what is no data is one sentence."""

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from compressor.data.memory import given_tables, named
from compressor.errors import UserError

TEXTS, LABELS = ["a b", "c d", "e f"], [0, 1, 0]
ROWS = list(zip(TEXTS, LABELS, strict=True))
COLUMNS = {"text": TEXTS, "label": LABELS}


@pytest.mark.parametrize(
    "data",
    [
        ROWS,
        [list(row) for row in ROWS],
        (row for row in ROWS),
        zip(np.array(TEXTS), np.array(LABELS), strict=True),
        [{"text": text, "label": label} for text, label in ROWS],
        COLUMNS,
        {"text": np.array(TEXTS), "label": pd.Series(LABELS)},
        pd.DataFrame(COLUMNS),
        Dataset.from_dict(COLUMNS),
        DatasetDict({"train": Dataset.from_dict(COLUMNS)}),
    ],
    ids=["tuples", "lists", "generator", "numpy", "dicts", "columns", "mixed", "pandas", "dataset", "datasetdict"],
)
def test_every_form_gives_the_same_columns(data):
    [table] = given_tables(data, None).values()
    assert table.columns == COLUMNS
    assert {type(value) for value in table.columns["label"]} == {int}


def test_texts_without_labels_and_pairs():
    assert given_tables(TEXTS, None)["all"].columns == {"text": TEXTS}
    assert given_tables(pd.Series(TEXTS), None)["all"].columns == {"text": TEXTS}
    pairs = [(("a", "b"), "yes"), (["c", "d"], None)]
    assert given_tables(None, pairs)["all"].columns == {
        "text": ["a", "c"],
        "text_pair": ["b", "d"],
        "label": ["yes", None],
    }


def test_parts_have_their_names(tmp_path):
    both = given_tables(ROWS, TEXTS)
    assert {name: list(table.columns) for name, table in both.items()} == {
        "train": ["text", "label"],
        "validation": ["text"],
    }
    frame = pd.DataFrame(COLUMNS)
    assert list(given_tables({"dev": frame, "train": frame[:2], "rest": frame}, None)) == ["train", "validation"]
    assert list(given_tables({"only": frame}, None)) == ["all"]
    frame.to_csv(tmp_path / "a.csv", index=False)
    [(name, table)] = given_tables(tmp_path / "a.csv", None).items()
    assert (name, table.columns["text"]) == ("all", TEXTS)
    with pytest.raises(UserError, match="train: this holds the parts train, validation; where train and validation"):
        given_tables({"train": frame, "dev": frame}, frame)
    with pytest.raises(UserError, match="none of a, b is called train, validation or test"):
        given_tables({"a": frame, "b": frame}, None)


def test_an_index_with_a_name_is_a_column_for_whoever_names_it():
    table = given_tables(pd.DataFrame(COLUMNS).set_index("text"), None)["all"]
    assert list(table.columns) == ["label"]
    assert table.column("text") == TEXTS


def test_ids_of_a_dataset_are_read_by_their_names_where_the_model_has_these():
    features = Features({"text": Value("string"), "label": ClassLabel(names=["neg", "pos"])})
    table = given_tables(Dataset.from_dict({"text": TEXTS, "label": [0, 1, -1]}, features=features), None)["all"]
    assert named(table, ["POS", "NEG"]).columns["label"] == ["neg", "pos", -1]
    assert named(table, ["LABEL_0", "LABEL_1"]).columns["label"] == [0, 1, -1]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, "train: there are no texts; give a file or folder"),
        ([], r"train \(list\): there are no rows"),
        (pd.DataFrame(), r"train \(DataFrame\): there are no rows"),
        ({}, r"train \(dict\): there are no rows"),
        (5, r"train \(int\): this is no data"),
        (b"ab", r"train \(bytes\): this is no data"),
        ([1, 2], r"row 1 is 1; give rows of one form"),
        (["a", ("b", 1)], r"row 2 is \('b', 1\)"),
        ([("a", 1), ("b", 1, 2)], r"row 2 is \('b', 1, 2\)"),
        ([("a", 1), (("b", "c"), 1)], r"row 2 is \(\('b', 'c'\), 1\)"),
        ([("a", 1), (None, 1), (3, 1)], r"row 3 is \(3, 1\)"),
        ({"text": TEXTS, "label": [1]}, r"different lengths \(text 3, label 1\)"),
        ({"text": "abc"}, "text: 'abc' is no column"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "there are two columns 'a'"),
        ("nowhere.csv", "nowhere.csv: no such file; correct train."),
    ],
)
def test_what_is_no_data_is_one_sentence(data, words):
    with pytest.raises(UserError, match=words) as caught:
        given_tables(data, None)
    assert "\n" not in str(caught.value)
