"""What stands in a file is what comes back: no row, no character more or less, or a sentence that names the line."""

import csv
import io
import json

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.bench.texts import read_texts as bench_texts
from compressor.data.files import read_lines, read_table
from compressor.errors import UserError
from compressor.placement.text import read_texts as placement_texts
from compressor.recipe.placement import TextSpec

STRAY = ['"A film', "fine", 'never dull" ,', "bad", 'so " so']
LABELS = ["1", "1", "1", "0", "0"]


def put(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(path, **more):
    with pytest.raises(UserError) as error:
        read_table(path, "data.train", **more).check()
    message = str(error.value)
    assert str(path) in message
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --- tsv: a row a line ---


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_quotes_in_a_tsv_are_characters(tmp_path, end):
    rows = [f"{text}\t{label}" for text, label in zip(STRAY, LABELS, strict=True)]
    path = put(tmp_path / "a.tsv", end.join(["text\tlabel", *rows, ""]))
    assert read_table(path, "data.train").columns == {"text": STRAY, "label": LABELS}


def test_a_tsv_line_with_another_number_of_fields_is_named(tmp_path):
    path = put(tmp_path / "a.tsv", 'text\tlabel\nfine\t1\n"tab\tinside"\t0\nno label\n')
    message = refusal(path)
    assert "line 3 has 3 fields, the header 2" in message
    assert "line 4 has 1 field, the header 2" in message
    assert "tab" in message


CELL = st.text(st.characters(exclude_characters="\t\r\n", exclude_categories=["Cs"]), min_size=1)
"""Whatever may stand in a field of a tsv: quotes, U+2028, U+0085, vertical tabs, zero bytes, commas."""


@given(st.lists(st.tuples(CELL, CELL), min_size=1), st.sampled_from(["\n", "\r\n", "\r"]))
def test_every_tsv_comes_back_as_it_was(tmp_path_factory, rows, end):
    path = put(
        tmp_path_factory.mktemp("tsv") / "a.tsv", "".join("\t".join(row) + end for row in [("text", "label"), *rows])
    )
    assert list(zip(*read_table(path, "data.train").columns.values(), strict=True)) == rows


# --- csv: quotes hold, or their line is named ---

QUOTES = {
    "open to the end": ('text,label\nfine,1\n"A film,1\nbad,0\n', 3),
    "text behind the quote": ('text,label\nfine,1\n"A" film,1\nbad,0\n', 3),
    "space behind the quote": ('text,label\n"A film,1\nfine,1\nnever dull" ,1\n', 2),
    "backslash": ('text,label\nfine,1\n"he said \\"no\\" twice",1\n', 3),
    "opens in a later line of its row": ('text,more,label\nfine,a,1\n"two\nlines","never, closed,0\n', 4),
    "old line ends": ('text,label\rfine,1\r"A film,1\r', 3),
    "rows in quotes, label behind": ('text,label\nfine,0\n"A film,1\nfine,1\nnever dull",1\nbad,0\n', 3),
    "rows in quotes, label in front": ('label,text\n0,fine\n1,"A film\n1,fine\n0,never dull"\n', 3),
}


@pytest.mark.parametrize(("content", "line"), QUOTES.values(), ids=QUOTES)
def test_a_quote_that_does_not_hold_is_named_by_the_line_where_it_opens(tmp_path, content, line):
    message = refusal(put(tmp_path / "a.csv", content))
    assert f"the quote that opens in line {line} " in message


def test_quotes_that_hold_keep_what_is_inside(tmp_path):
    texts = [
        'he said "no", twice',
        "two\nlines",
        "tab\tand, comma",
        'so " so',
        '5" disk',
        "one, two\nthree",
        "a\u2028b",
    ]
    path = tmp_path / "a.csv"
    pd.DataFrame({"text": texts, "label": range(7)}).to_csv(path, index=False)
    assert read_table(path, "data.train").columns == {"text": texts, "label": [*"0123456"]}
    put(path, 'text,label\nso " so,1\n5" disk,0\n')  # no quote opens inside a field
    assert read_table(path, "data.train").columns["text"] == ['so " so', '5" disk']


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.sampled_from("01")), min_size=1))
def test_every_csv_that_python_writes_comes_back_as_it_was(tmp_path_factory, rows):
    written = io.StringIO()
    writer = csv.writer(written, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    path = put(tmp_path_factory.mktemp("csv") / "a.csv", written.getvalue())
    assert list(zip(*read_table(path, "data.train").columns.values(), strict=True)) == rows


def test_a_field_longer_than_the_csv_module_takes_by_itself(tmp_path):
    path = put(tmp_path / "a.csv", f"text,label\n{'a' * 200_000},1\n")
    assert len(read_table(path, "data.train").columns["text"][0]) == 200_000


def test_csv_rows_with_another_number_of_fields_are_named_by_line(tmp_path):
    path = put(tmp_path / "a.csv", 'text,label\n"two\nlines",1\n\na,b,0\nalone\n')
    message = refusal(path)
    assert "line 5 has 3 fields, the header 2" in message
    assert "line 6 has 1 field, the header 2" in message


def test_a_column_named_twice_is_refused(tmp_path):
    assert "the header names the column 'text' twice" in refusal(put(tmp_path / "a.csv", "text,text\na,b\n"))


# --- lines ---

SEPARATED = "one\u2028still one\u0085and\x0b\x0c\x1c\x1d\x1e so on"


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_line_ends_end_a_line(tmp_path, end):
    path = put(tmp_path / "a.txt", f"{SEPARATED}{end}two{end}")
    assert read_lines(path, "text.files") == [SEPARATED, "two"]
    assert placement_texts(TextSpec(files=str(path))) == [SEPARATED, "two"]
    assert bench_texts(path, []) == [(SEPARATED,), ("two",)]


def test_jsonl_and_csv_keep_such_characters(tmp_path):
    line = json.dumps({"text": SEPARATED}, ensure_ascii=False)
    assert read_table(put(tmp_path / "a.jsonl", f"{line}\n"), "data.train").columns == {"text": [SEPARATED]}
    assert read_table(put(tmp_path / "a.csv", f"text\n{SEPARATED}\n"), "data.train").columns == {"text": [SEPARATED]}


# --- encodings ---


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.txt"])
def test_bytes_that_are_not_utf_8_are_named_by_line(tmp_path, name):
    path = put(tmp_path / name, "text,label\r\nfine,1\r\ncaf\u00e9,0\r\n".encode("latin-1"))
    lines = lambda: read_lines(path, "x")  # noqa: E731
    table = lines if path.suffix == ".txt" else lambda: read_table(path, "data.train")
    for read in (table, lambda: bench_texts(path, []), lines):
        with pytest.raises(UserError, match=rf"{name}: line 3 is not UTF-8 .*save the file as UTF-8") as error:
            read()
        assert str(error.value).endswith(".")
    if path.suffix != ".txt":
        assert "or set data.encoding" in refusal(path)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "utf-8", "utf-8-sig", None])
def test_an_encoding_that_is_named_is_read(tmp_path, encoding):
    path = put(tmp_path / "a.csv", "text,label\ncaf\u00e9,1\n".encode(encoding or "utf-8-sig"))
    assert read_table(path, "data.train", encoding).columns == {"text": ["caf\u00e9"], "label": ["1"]}


def test_the_wrong_encoding_is_named(tmp_path):
    path = put(tmp_path / "a.csv", "text,label\nfine,1\ncaf\u00e9,1\n")
    assert "line 3 is not ascii" in refusal(path, encoding="ascii")


# --- columns ---


def test_a_pandas_index_is_a_column_when_it_is_named(tmp_path):
    path, lonely = tmp_path / "a.parquet", tmp_path / "b.parquet"
    pd.DataFrame({"label": [0, 1]}, index=pd.Index(["a", "b"], name="text")).to_parquet(path)
    pd.DataFrame({"review": ["c", "d"]}, index=pd.Index([7, 9], name="id")).to_parquet(lonely)
    table = read_table(path, "data.train")
    assert table.column("text") == ["a", "b"]
    assert table.column("label") == [0, 1]
    assert bench_texts(path, ["text"]) == [("a",), ("b",)]
    assert placement_texts(TextSpec(files=str(path))) == ["a", "b"]
    assert bench_texts(lonely, []) == [("c",), ("d",)]  # an index that nobody named is no second column
    with pytest.raises(UserError, match=r"no column 'nothing'; the columns are review, id\."):
        read_table(lonely, "data.train").column("nothing")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", "text;label\nfine, so;1\n", "semicolons"),
        ("a.csv", 'text;label\n"fine, so";1\n', "semicolons"),
        ("a.csv", '"text";"label"\n"fine";1\n', "semicolons"),
        ("a.csv", "text\tlabel\nfine\t1\n", "tabs"),
        ("a.tsv", "text,label\nfine,1\n", "commas"),
    ],
)
def test_another_separator_is_said(tmp_path, name, content, words):
    path = put(tmp_path / name, content)
    with pytest.raises(UserError, match=f"the file seems to be separated by {words}"):
        read_table(path, "data.train").column("text")


def test_a_tsv_whose_names_are_in_quotes_is_told(tmp_path):
    path = put(tmp_path / "a.tsv", '"text"\t"label"\n"fine"\t"1"\n')
    with pytest.raises(UserError, match="quotes are characters"):
        read_table(path, "data.train").column("text")


# --- what else a reader may meet ---


def test_other_failures_are_sentences(tmp_path):
    deep = "[" * 100_000 + "]" * 100_000
    assert "line 2" in refusal(put(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": {deep}}}\n'))
    assert "line 1" in refusal(put(tmp_path / "b.jsonl", f'{{"text": {"9" * 5000}}}\n'))
    assert "no such file" in refusal(tmp_path / ("n" * 300 + ".csv"))


@given(st.sampled_from(["csv", "tsv", "jsonl", "parquet", "txt"]), st.binary(max_size=200) | st.text().map(str.encode))
def test_nothing_but_a_sentence_leaves_a_reader(tmp_path_factory, suffix, content):
    path = put(tmp_path_factory.mktemp("any") / f"a.{suffix}", content)
    try:
        if suffix == "txt":
            read_lines(path, "text.files")
        else:
            table = read_table(path, "data.train")
            assert len({len(values) for values in table.columns.values()}) == 1
            table.check()
    except UserError as error:
        assert str(error).endswith(".")
