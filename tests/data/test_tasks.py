"""Tasks of own files: formats, pairs, copies, calibration text, and how labels become ids."""

import json

import numpy as np
import pytest
from own_files import TRAIN, VALIDATION, load, own, write

from compressor.data.files import read_table
from compressor.data.splits import normalised
from compressor.data.tasks import load_task
from compressor.errors import UserError
from compressor.recipe.data import DataSpec


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_own_files_of_every_kind_give_the_same_task(tmp_path, suffix):
    texts = ["NA", "null", "naïve 😀", "1.50", "-", "a\u2028b"]
    if suffix != ".tsv":  # there a line is a row and a quote is a character
        texts += ['he said "no", twice', "two\nlines", "tab\tand, comma"]
    rows = [(text, ("neg", "pos")[i % 2]) for i, text in enumerate(texts)] + TRAIN
    task = load(own(tmp_path, rows, suffix=suffix))
    assert (task.name, task.text_columns, task.label_names) == ("train", ("review",), ("neg", "pos"))
    assert [len(part) for part in (task.calibration, task.selection, task.evaluation)] == [8, 10, 6]
    assert len(task.train) == len(rows) - 18
    assert task.evaluation.texts == [(text,) for text, _ in VALIDATION]
    assert task.evaluation.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert task.evaluation.labels.dtype == np.int64
    assert task.evaluation.ids[-1] == "validation:5"
    label_of = {text: name for text, name in rows}
    for part in (task.train, task.calibration, task.selection):
        for (text,), label, row in zip(part.texts, part.labels, part.ids, strict=True):
            assert label_of[text] == task.label_names[label]
            assert rows[int(row.removeprefix("train:"))][0] == text


def test_byte_order_mark_and_home_directory(tmp_path, monkeypatch):
    own(tmp_path)
    for name in ("train.csv", "valid.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = DataSpec(train="~/train.csv", validation="~/valid.csv", text="review", label="sentiment")
    assert load(spec).evaluation.texts[0] == ("validation text 0",)


def test_pairs_and_overlaps_of_pairs(tmp_path):
    columns = ("a", "b", "y")
    train = [(f"a{i}", f"b{i}", i % 2) for i in range(20)] + [("v1", "x", 0), ("x", "v1", 1)]
    paths = {
        "train": write(tmp_path, "t.csv", train, columns),
        "validation": write(tmp_path, "v.csv", [("v1", "x", 1), ("v2", "x", 0)], columns),
    }
    task = load(DataSpec(**paths, text=["a", "b"], label="y", calibration={"size": 4}, selection={"size": 6}))
    assert task.text_columns == ("a", "b")
    assert task.evaluation.texts[0] == ("v1", "x")
    assert sum(task.removed_overlaps.values()) == 1
    assert sum(map(len, (task.train, task.calibration, task.selection))) == 21


def test_copies_leave_what_decides_and_are_counted(tmp_path):
    once = load(own(tmp_path))
    twice = load(own(tmp_path, [*TRAIN, *((f" {text} ", label) for text, label in TRAIN)]))
    assert once.removed_copies == {"calibration": 0, "selection": 0}
    assert twice.removed_copies == {"calibration": 8, "selection": 10}
    for part in ("calibration", "selection"):
        found, wanted = getattr(twice, part), getattr(once, part)
        assert [texts[0].strip() for texts in found.texts] == [texts[0] for texts in wanted.texts]
        assert found.labels.tolist() == wanted.labels.tolist()
    assert len(twice.train) == 2 * len(once.train)
    repeated = load(own(tmp_path, validation=[*VALIDATION, *VALIDATION]))
    assert len(repeated.evaluation) == 2 * len(VALIDATION)  # the user's own


def test_copies_in_a_test_file_leave_the_calibration_part_before_it_is_cut(tmp_path):
    test = write(tmp_path, "test.jsonl", [(f"test {i % 20}",) for i in range(60)], ["review"])
    task = load(own(tmp_path, test=test, calibration={"split": "test", "size": 12}))
    assert len(set(task.calibration.texts)) == len(task.calibration) == 12
    assert task.removed_copies == {"calibration": 24, "selection": 0}


def test_copies_are_what_the_key_says_also_between_parts(tmp_path):
    train = [*TRAIN, ("VALIDATION Text 3", "pos"), ("Train Text 0", "neg")]
    spec = own(tmp_path, train, calibration={"size": 1}, selection={"size": 1000})
    plain, uncased = (
        load_task(spec, model_labels=None, seed=0, same=same)
        for same in (normalised, lambda texts: normalised(tuple(text.lower() for text in texts)))
    )
    assert sum(plain.removed_overlaps.values()) == 0
    assert sum(uncased.removed_overlaps.values()) == 1
    lower = [text.lower() for part in (uncased.calibration, uncased.selection) for (text,) in part.texts]
    assert len(set(lower)) == len(lower)
    everywhere = [text.lower() for part in (uncased.train, uncased.evaluation) for (text,) in part.texts]
    assert not set(lower) & set(everywhere)


def test_result_does_not_depend_on_the_order_of_the_file(tmp_path):
    one = load(own(tmp_path))
    two = load(own(tmp_path, TRAIN[::-1]))
    for part in ("train", "calibration", "selection", "evaluation"):
        assert getattr(one, part).sha256 == getattr(two, part).sha256


def test_calibration_from_a_test_file_without_labels(tmp_path):
    test = write(tmp_path, "test.jsonl", [(f"test {i}",) for i in range(30)], ["review"])
    task = load(own(tmp_path, test=test, calibration={"split": "test", "size": 12}))
    assert len(task.calibration) == 12
    assert task.calibration.labels is None
    assert {row.split(":")[0] for row in task.calibration.ids} == {"test"}
    assert len(task.train) == 30
    everything = load(own(tmp_path, test=test, calibration={"split": "test", "size": None}))
    assert len(everything.calibration) == 30
    assert everything.calibration.take(range(12)).texts == task.calibration.texts


@pytest.mark.parametrize(
    ("labels", "expected"), [([-1, -1], None), ([None, None], None), (["", ""], None), (["pos", "neg"], [0, 1])]
)
def test_labels_of_a_test_file(tmp_path, labels, expected):
    test = write(tmp_path, "test.csv", list(zip(["t1", "t2"], labels, strict=True)))
    task = load(own(tmp_path, test=test, calibration={"split": "test"}))
    found = task.calibration.labels
    assert (None if found is None else sorted(found.tolist())) == expected


@pytest.mark.parametrize("labels", [[0, None], [[0], [1]], [-1, 0]])
def test_wrong_labels_of_a_test_file_are_refused(tmp_path, labels):
    test = write(tmp_path, "test.jsonl", list(zip(["t1", "t2"], labels, strict=True)))
    with pytest.raises(UserError, match=r"test\.jsonl: row [12], column 'sentiment': the label"):
        load(own(tmp_path, test=test, calibration={"split": "test"}), ["neg", "pos"])


def test_without_a_label_column_everything_is_unlabelled(tmp_path):
    task = load(own(tmp_path, label=None), model_labels=["a", "b"])
    parts = (task.train, task.calibration, task.selection, task.evaluation)
    assert all(part.labels is None for part in parts)
    assert task.label_names == ("a", "b")
    with pytest.raises(UserError, match=r"data\.label is missing.*fine-tun"):
        load(own(tmp_path, label=None))


@pytest.mark.parametrize(
    ("values", "model_labels", "names", "ids"),
    [
        (["pos", "neg"], ["neg", "pos"], ("neg", "pos"), [1, 0]),
        (["Pos", "NEG"], ["pos", "neg"], ("pos", "neg"), [0, 1]),
        ([1, 0], ["pos", "neg"], ("pos", "neg"), [1, 0]),
        (["1", "0"], ["LABEL_0", "LABEL_1"], ("LABEL_0", "LABEL_1"), [1, 0]),
        ([2.0, 0.0], ["a", "b", "c"], ("a", "b", "c"), [2, 0]),
        (["2", "1"], ["1", "2", "3"], ("1", "2", "3"), [1, 0]),  # names come first, ids second
        ([2, 1], ["1", "2", "3"], ("1", "2", "3"), [1, 0]),
        (["Aa", "aA"], ["aA", "Aa"], ("aA", "Aa"), [1, 0]),  # exact before without case
        (["pos", "neg"], None, ("neg", "pos"), [1, 0]),
        ([10, 9], None, ("9", "10"), [1, 0]),  # numbers in order, not as text
        (["1", "-1"], None, ("-1", "1"), [1, 0]),
        ([" b ", "a"], None, ("a", "b"), [1, 0]),
        (["none", "nan"], None, ("nan", "none"), [1, 0]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_how_labels_become_ids(tmp_path, values, model_labels, names, ids, suffix):
    train = [(text, values[i % 2]) for i, (text, _) in enumerate(TRAIN)]
    validation = [(text, values[i % 2]) for i, (text, _) in enumerate(VALIDATION)]
    task = load(own(tmp_path, train, validation, suffix), model_labels)
    assert task.label_names == names
    assert task.evaluation.labels.tolist() == ids * 3


def test_truth_values_are_ids(tmp_path):
    train, validation = ([(text, label == "pos") for text, label in rows] for rows in (TRAIN, VALIDATION))
    task = load(own(tmp_path, train, validation, ".jsonl"), ["a", "b"])
    assert task.evaluation.labels.tolist() == [0, 1] * 3


def test_numbers_in_a_text_column_are_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"review": i, "sentiment": i % 2}) for i in range(80)))
    spec = DataSpec(
        train=str(path), validation=write(tmp_path, "v.csv", [("x", 0), ("y", 1)]), text="review", label="sentiment"
    )
    assert {text for part in (load(spec).train, load(spec).selection) for (text,) in part.texts} <= set(
        map(str, range(80))
    )


def test_read_columns_keeps_words_that_mean_missing_elsewhere(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('t,l\nNA,None\n"a ""b""",1\n', encoding="utf-8")
    assert read_table(path, "data.train").columns == {"t": ["NA", 'a "b"'], "l": ["None", "1"]}
