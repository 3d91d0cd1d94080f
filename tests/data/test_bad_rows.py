"""Rows and files that cannot be used: one sentence each, with the row and the remedy."""

import pytest
from own_files import TRAIN, VALIDATION, load, own

from compressor.errors import UserError


def replaced(rows, row, **values):
    text, label = rows[row]
    return [*rows[:row], (values.get("text", text), values.get("label", label)), *rows[row + 1 :]]


def one_class(rows, label="pos"):
    return [(text, label) for text, _ in rows]


BAD_ROWS = {
    "empty text": (
        {"train": replaced(TRAIN, 4, text="")},
        None,
        "train.csv: row 5, column 'review': the text is empty",
    ),
    "blank text": ({"validation": replaced(VALIDATION, 1, text=" ")}, None, "valid.csv: row 2, column 'review'"),
    "no label": (
        {"train": replaced(TRAIN, 39, label=None)},
        None,
        "train.csv: row 40, column 'sentiment': the label is",
    ),
    "regression": (
        {"train": replaced(TRAIN, 2, label="0.5")},
        None,
        "train.csv: row 3, column 'sentiment': the label '0.5'",
    ),
    "unknown name": (
        {},
        ["bad", "pos"],
        "train.csv: row 1, column 'sentiment': the label 'neg' is none of 'bad', 'pos'",
    ),
    "id too high": (
        {"train": [(text, i % 3) for i, (text, _) in enumerate(TRAIN)]},
        ["a", "b"],
        "train.csv: row 3, column 'sentiment': the label '2' is none of 'a', 'b' or the ids 0 to 1",
    ),
    "names and ids mixed": (
        {"train": replaced(TRAIN, 6, label="1")},
        ["neg", "pos"],
        "train.csv: row 7, column 'sentiment'",
    ),
    "0 beside names 1 and 2": (
        {"train": [(text, i % 3) for i, (text, _) in enumerate(TRAIN)]},
        ["1", "2"],
        "train.csv: row 1, column 'sentiment': the label '0'",
    ),
    "label sets differ": (
        {"validation": [(text, i % 2) for i, (text, _) in enumerate(VALIDATION)]},
        None,
        "valid.csv: row 1, column 'sentiment': the label '0' is none of 'neg', 'pos'; ",
    ),
    "one class": ({"train": one_class(TRAIN)}, None, "train.csv: all rows have the label 'pos' in column 'sentiment'"),
    "one class for a model": (
        {"train": one_class(TRAIN)},
        ["neg", "pos"],
        "train.csv: the train part (22 rows) holds the single class 'pos'",
    ),
    "one class to evaluate": (
        {"validation": one_class(VALIDATION)},
        None,
        "valid.csv: the evaluation part (6 rows) holds the single class 'pos'",
    ),
    "no rows": ({"validation": []}, None, "valid.csv: the file has no rows"),
    "too few rows": ({"train": TRAIN[:2]}, None, "train.csv: its rows leave too few for the calibration part;"),
    "all rows elsewhere": (
        {"train": TRAIN, "validation": TRAIN},
        None,
        "train.csv: all its rows are the same rows as in ",
    ),
}


@pytest.mark.parametrize(("changed", "model_labels", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_in_one_sentence(tmp_path, changed, model_labels, message):
    with pytest.raises(UserError) as error:
        load(own(tmp_path, **changed), model_labels)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


BAD_FILES = {
    "missing": ("absent.csv", None, "absent.csv: no such file; correct data.train"),
    "folder": (".", None, "no suffix"),
    "unknown kind": ("a.xlsx", b"", ".xlsx (data.train) is no known kind of data; use .csv, .tsv, .jsonl, .parquet"),
    "nearly known kind": ("a.json", b"", "did you mean '.jsonl'?"),
    "empty": ("a.csv", b"", "a.csv: the file has no rows"),
    "surplus field": ("a.csv", b"review,sentiment\nfine,pos\na,b,neg\n", "a.csv: line 3 has 3 fields, the header 2"),
    "surplus field first": (
        "a.csv",
        b"review,sentiment\na,b,neg\nfine,pos\n",
        "a.csv: line 2 has 3 fields, the header 2",
    ),
    "open quote": (
        "a.csv",
        b'review,sentiment\n"fine,pos\n',
        "a.csv: not readable as csv (the quote that opens in line 2",
    ),
    "not UTF-8": ("a.tsv", b"review\tsentiment\n\xff\xfe\tpos\n", "a.tsv: line 2 is not UTF-8 (byte 0xff)"),
    "broken line": ("a.jsonl", b'{"review": "fine", "sentiment": "pos"}\n\n{"review": }\n', "a.jsonl: line 3:"),
    "no object": ("a.jsonl", b"[1]\n", "a.jsonl: line 1: each line must be an object"),
    "no lines": ("a.jsonl", b"\n", "a.jsonl: the file has no rows"),
    "no parquet": ("a.parquet", b"hello", "a.parquet: not readable as parquet"),
    "text column": (
        "a.csv",
        b"reviews,sentiment\nfine,pos\n",
        "there is no column 'review'; did you mean 'reviews'? the columns are",
    ),
    "label column": (
        "a.csv",
        b"review,polarity\nfine,pos\n",
        "there is no column 'sentiment'; the columns are review, polarity",
    ),
    "text missing": (
        "a.jsonl",
        b'{"review": "a", "sentiment": 0}\n{"sentiment": 1}\n',
        "row 2, column 'review': the text is missing",
    ),
    "text no text": ("a.jsonl", b'{"review": ["a"], "sentiment": 0}\n', "row 1, column 'review': a list is not text"),
    "half a character": (
        "a.jsonl",
        rb'{"review": "\ud800", "sentiment": 0}',
        "row 1, column 'review': the text holds half",
    ),
    "label list": (
        "a.jsonl",
        b'{"review": "a", "sentiment": [0, 1]}\n',
        "row 1, column 'sentiment': the label [0, 1] is not a class",
    ),
    "label missing": (
        "a.jsonl",
        b'{"review": "a", "sentiment": NaN}\n',
        "row 1, column 'sentiment': the label is missing",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(own(tmp_path, train=TRAIN).model_copy(update={"train": str(path)}))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
