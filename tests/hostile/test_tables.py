"""Data files that are small and hold much, or hold what no table holds: refused in seconds, with the limit."""

import gzip
import json
import time

import pandas as pd
import pytest

from compressor.data import files
from compressor.errors import UserError

QUOTED = 'text,label\n"' + "a" * 5_000_000
HOSTILE = {
    "a header of very many columns": ("csv", ",".join(f"c{n}" for n in range(200_000)) + "\na,0\n", "200,000 columns"),
    "a header that names one column again and again": ("csv", "text,label" + ",x" * 9_000 + "\na,0\n", "'x' twice"),
    "a quote that never closes": ("csv", QUOTED, "the quote that opens in line 2"),
    "very many quotes": ("csv", "text,label\n" + '"a""' * 500_000, "the quote that opens in line 2"),
    "another name in every row": (
        "jsonl",
        "\n".join(json.dumps({f"c{n}": 1}) for n in range(20_000)),
        "20,000 columns",
    ),
    "lists in lists": ("jsonl", "[" * 2_000_000, "line 1: "),
    "a number without an end": ("jsonl", '{"text": "a", "label": ' + "9" * 1_000_000 + "}", "line 1: "),
    "a packed file": ("csv", gzip.compress(b"text,label\n" * 100_000), "line 1 is not UTF-8"),
    "another name in every object": ("json", json.dumps([{f"c{n}": 1} for n in range(20_000)]), "at most 10,000 names"),
    "objects in objects": ("json", '[{"a": ' * 100_000, "not readable as json"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_it_is_refused(case, tiny_task, tmp_path, command):
    suffix, content, words = HOSTILE[case]
    path = tmp_path / f"rows.{suffix}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    quick = ["quick", tiny_task / "model", path, "--dry-run"]
    code, _, error = command(
        *(quick if suffix == "json" else ["validate", tiny_task / "recipe.yaml", "--set", f"data.train={path}"])
    )
    assert (code, error.count("\n")) == (2, 1)
    assert words in error
    assert time.process_time() - started < 5


def test_a_small_file_of_very_many_rows_is_refused_by_what_it_says_of_itself(tmp_path, monkeypatch):
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"text": ["a"] * 50_000, "label": [0] * 50_000}).to_parquet(path)
    assert files.read_table(path, "data.train").rows == 50_000
    monkeypatch.setattr(files, "MOST_ROWS", 49_999)
    monkeypatch.setattr(pd, "read_parquet", None)  # it is not even opened
    with pytest.raises(UserError, match="it has 50,000 rows, and at most 49,999"):
        files.read_table(path, "data.train")
    monkeypatch.setattr(files, "MOST_ROWS", 10**9)
    monkeypatch.setattr(files, "MOST_BYTES", 100)
    with pytest.raises(UserError, match="of 100 bytes are read"):
        files.read_table(path, "data.train")


@pytest.mark.parametrize(
    "value", ["=1+1", "+1", "@SUM(A1)", "<script>", "\x1b[2J", "../../etc/passwd", "${x}", "{{7*7}}"]
)
def test_values_that_others_compute_are_texts_here(tmp_path, value):
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\n{value},0\n", encoding="utf-8")
    assert files.read_table(path, "data.train").column("text") == [value]
