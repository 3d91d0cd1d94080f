"""A user's file or folder as parts: what is read, what is cut off, that copies stay together, and what is refused."""

import json

import numpy as np
import pytest

from compressor.data.own.columns import find_columns
from compressor.data.own.parts import EVALUATION, assign, cut, evaluation_size, read_own, usable
from compressor.data.splits import Split, normalised
from compressor.errors import UserError

CLASSES = ("negative", "positive")


def split(rows, labelled=True, prefix="text"):
    labels = np.arange(rows) % 2 if labelled else None
    return Split([(f"{prefix} {row}",) for row in range(rows)], labels, [f"all:{row}" for row in range(rows)])


def test_the_evaluation_is_a_third_more_of_small_files_and_at_most_two_thousand():
    assert [evaluation_size(rows) for rows in (300, 1999, 2400, 4500, 100_000)] == [150, 999, 1000, 1500, 2000]
    assert EVALUATION[1] == 2000


def test_a_cut_is_the_same_whatever_the_order_and_keeps_copies_together():
    rows = split(300)
    copied = Split(
        rows.texts + [(f"text  {row}",) for row in range(100)], np.arange(400) % 2, [str(row) for row in range(400)]
    )
    evaluation, rest = cut(copied, normalised)
    assert len(evaluation) + len(rest) == 400
    assert 200 <= len(evaluation) < 202
    keys = [set(map(normalised, part.texts)) for part in (evaluation, rest)]
    assert keys[0].isdisjoint(keys[1])
    assert set(cut(copied.take(list(range(399, -1, -1))), normalised)[0].texts) == set(evaluation.texts)


def test_a_text_of_many_copies_is_not_the_evaluation():
    rows = Split([("same",)] * 500 + split(100).texts, None, [""] * 600)
    evaluation, rest = cut(rows, normalised)
    assert len(evaluation) == 100
    assert {texts for texts in rest.texts} == {("same",)} or ("same",) not in evaluation.texts


def test_too_few_texts_are_refused_copies_counted_once():
    with pytest.raises(UserError, match="there are 39 different texts"):
        cut(Split(split(39).texts * 5, None, [""] * 195), normalised)


def test_files_are_parts_and_the_missing_one_is_cut():
    files = {"train": split(200), "validation": split(60, prefix="v"), "test": split(90, labelled=False, prefix="t")}
    parts = assign(files, normalised)
    assert {name: len(part) for name, part in parts.by_name().items()} == {"train": 200, "validation": 60, "test": 90}
    assert (parts.labelled, parts.notes) == (True, {"test": "the test file"})
    parts = assign({"train": files["train"], "test": files["test"]}, normalised)
    assert {name: len(part) for name, part in parts.by_name().items()} == {"train": 100, "validation": 100, "test": 90}
    labelled_test = {**files, "test": split(90, prefix="t")}
    assert assign(labelled_test, normalised).test.labels is None
    parts = assign({"train": files["train"], "test": labelled_test["test"]}, normalised)
    assert (len(parts.validation), parts.notes["validation"]) == (90, "the test file")
    parts = assign({"train": split(300, labelled=False), "validation": split(120, prefix="v")}, normalised)
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (60, 60, 300)


def test_of_a_huge_file_a_sample_is_taken():
    parts = assign({"all": split(40_000)}, normalised)
    assert (len(parts.validation), len(parts.train)) == (2000, 12_000)
    assert parts.notes["train"] == "a sample of 12,000 of the other rows"
    parts = assign({"train": split(20_000), "validation": split(6000, prefix="v")}, normalised)
    assert (len(parts.validation), len(parts.train)) == (5000, 12_000)


def write(path, rows):
    path.write_text("\n".join(["text,label", *(f"text {row},{row % 2}" for row in range(rows))]), encoding="utf-8")


def test_a_folder_s_files_by_their_names(tmp_path):
    write(tmp_path / "dev.csv", 4)
    assert read_own(tmp_path)["validation"].rows == 4
    write(tmp_path / "train-00000-of-00001.csv", 5)
    (tmp_path / "test_matched.txt").write_text("one\n\ntwo\n")
    tables = read_own(tmp_path)
    assert {part: table.rows for part, table in tables.items()} == {"train": 5, "validation": 4, "test": 2}
    write(tmp_path / "train.csv", 4)
    with pytest.raises(UserError, match="could both be the train part"):
        read_own(tmp_path)


def test_one_file_of_any_kind(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"text": "one", "label": 1}, {"text": "two"}]))
    assert read_own(tmp_path)["all"].columns == {"text": ["one", "two"], "label": [1, None]}
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert read_own(tmp_path / "a.txt")["all"].columns == {"text": ["one", "two"]}


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "1,a film of its own\n0,another\n1,one more\n", "since '1' stands below it again"),
        ("a.csv", "text;label\none;1\n", "separated by semicolons"),
        ("a.tsv", "a film\tgood\na book\tbad\nboth\tgood\n", "the first line seems to be a row"),
        ("a.json", '{"text": "one"}', "a list of objects"),
        ("a.json", "[", "not readable as json"),
        ("a.txt", "\n\n", "no lines"),
        ("a.xml", "", "is no known kind of data"),
    ],
)
def test_files_that_are_no_table_are_one_sentence(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError) as refused:
        read_own(tmp_path / name)
    assert words in str(refused.value)


def test_a_folder_without_parts_is_refused(tmp_path):
    with pytest.raises(UserError, match="no file called train, validation or test"):
        read_own(tmp_path)


def test_rows_without_text_or_label_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\none,1\n,0\ntwo,-1\nthree,0\nfour\n", encoding="utf-8")
    table = read_own(tmp_path / "a.csv")["all"]
    rows, note = usable(table, find_columns(table, CLASSES), "all")
    assert (rows.texts, rows.labels.tolist(), rows.ids) == ([("one",), ("three",)], [1, 0], ["all:0", "all:3"])
    assert note.startswith("3 of 5 rows of a.csv left out: ")
