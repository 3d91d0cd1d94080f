"""Archives as streams: the same rows from every kind of file, shares that are all of it, and what is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from compressor.data.archive.stream import CHUNK, chunks, first_chunk, rows_of
from compressor.errors import UserError
from compressor.recipe.data import ArchiveSpec

ROWS = 2 * CHUNK + 7


def write(folder, kind, texts):
    path = folder / f"some.{kind}"
    if kind == "parquet":
        pd.DataFrame({"other": range(len(texts)), "text": texts}).to_parquet(path)
    elif kind == "jsonl":
        path.write_text("".join(json.dumps({"text": text, "other": 1}) + "\n" for text in texts), encoding="utf-8")
    elif kind == "csv":
        pd.DataFrame({"text": texts, "other": 1}).to_csv(path, index=False)
    else:
        path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def read(path, columns=("text",), share=(0, 1), size=None, **more):
    return list(chunks(ArchiveSpec(files=str(path), size=size), columns, share=share, **more))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "csv", "txt"])
def test_every_kind_of_file_gives_the_same_chunks(tmp_path, kind):
    texts = [f"text {row}, NA" for row in range(ROWS)]
    texts[3] = "7"  # a number, or a missing value, to whoever guesses
    texts[4] = "NA"
    found = read(write(tmp_path, kind, texts))
    assert [len(chunk.texts) for chunk in found] == [CHUNK, CHUNK, 7]
    assert [text for chunk in found for (text,) in chunk.texts] == texts
    np.testing.assert_array_equal(np.concatenate([chunk.rows for chunk in found]), np.arange(ROWS))


def test_shares_are_the_same_chunks_and_all_of_them(tmp_path):
    path = write(tmp_path, "parquet", [f"text {row}" for row in range(5 * CHUNK - 3)])
    whole = read(path)
    first, second = read(path, share=(0, 2)), read(path, share=(1, 2))
    assert (len(first), len(second)) == (3, 2)
    for one, other in zip([first[0], second[0], first[1], second[1], first[2]], whole, strict=True):
        assert one.texts == other.texts
        np.testing.assert_array_equal(one.rows, other.rows)


def test_empty_rows_and_known_texts_are_left_out_and_counted_and_rows_keep_their_numbers(tmp_path):
    path = write(tmp_path, "jsonl", ["a", " ", None, "b", "C", "d"])
    (found,) = read(path, known={("c",)}, same=lambda texts: tuple(text.lower() for text in texts))
    assert found.texts == [("a",), ("b",), ("d",)]
    assert found.rows.tolist() == [0, 3, 5]
    assert (found.empty, found.known) == (2, 1)


def test_a_size_ends_the_stream_and_several_files_are_one(tmp_path):
    for name in ("b", "a"):
        (tmp_path / f"{name}.txt").write_text(f"{name}1\n{name}2\n", encoding="utf-8")
    spec = ArchiveSpec(files=str(tmp_path / "*.txt"), size=3)
    assert [text for chunk in chunks(spec, ["text"]) for (text,) in chunk.texts] == ["a1", "a2", "b1"]


def test_pairs_have_two_columns(tmp_path):
    pd.DataFrame({"q": ["x", "y"], "a": ["1", ""]}).to_parquet(tmp_path / "pairs.parquet")
    (found,) = read(tmp_path / "pairs.parquet", ("q", "a"))
    assert (found.texts, found.empty) == ([("x", "1")], 1)


def test_rows_are_known_beforehand_where_the_files_say(tmp_path):
    path = write(tmp_path, "parquet", ["a"] * 12)
    assert rows_of(ArchiveSpec(files=str(path))) == 12
    assert rows_of(ArchiveSpec(files=str(path), size=5)) == 5
    assert rows_of(ArchiveSpec(files=str(write(tmp_path, "csv", ["a"])))) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.parquet", None, "none.parquet: no such file"),
        ("some.arrow", "x", "some.arrow: this kind cannot be read as a stream"),
        ("some.parquet", "no parquet", "some.parquet: it cannot be read"),
        ("some.jsonl", '{"text": "a"}\n{"text": \n', "some.jsonl: it cannot be read"),
        ("some.jsonl", '{"body": "a"}\n', "there is no column 'text'"),
        ("some.jsonl", '{"text": "a"}\n{"text": ["b"]}\n', "some.jsonl"),
        ("some.jsonl", '{"text": ["b"]}\n', "row 1 of the archive, column 'text': a list is no text"),
        ("some.csv", "other,text\n1,a\n1,a,b\n", "some.csv: it cannot be read"),
        ("some.csv", "other\n1\n", "there is no column 'text'"),
        ("some.txt", b"\xff\xfe\x00", "some.txt: it cannot be read"),
        ("some.txt", "", "there are no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_sentence(tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match="data.archive|row 1") as refused:
        first_chunk(ArchiveSpec(files=str(tmp_path / name)), ["text"])
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_line_is_no_pair(tmp_path):
    (tmp_path / "a.txt").write_text("a\n", encoding="utf-8")
    with pytest.raises(UserError, match="a line holds one text"):
        first_chunk(ArchiveSpec(files=str(tmp_path / "a.txt")), ["a", "b"])
