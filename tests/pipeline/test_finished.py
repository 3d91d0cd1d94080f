"""A finished run in Python: its line, its frame, its card, and how it is opened again."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from report_cases import HOSTILE, whole_result

from compressor.errors import UserError
from compressor.pipeline.finished import RunResult, open_run
from compressor.report.tables.variants import COLUMNS

ANSWER = {
    "variant": "onnx/int8", "key": "onnx_int8", "path": "onnx/int8", "engine": "onnx", "goal": "lossless", "met": True,
    "misses": [], "mean_ms": 2.4, "baseline_mean_ms": 11.1, "cell": {"batch": 8, "length": "workload"}, "speedup": 4.625,
    "speedup_ci95": [4.5, 4.9], "flips": 2, "rows": 1000, "tier": "lossless", "bytes": 22_000_000, "why": "It is so.",
    "baseline_bytes": 91_000_000, "factors": [], "threads": 1, "accuracy_delta": None,
    "baseline": {"engine": "pytorch", "dtype": "float32", "padding": "dynamic", "compile": False},
}  # fmt: skip
VOID = {"br", "hr", "img", "input", "link", "meta"}


def run(tmp_path, **changes) -> RunResult:
    result = {**copy.deepcopy(whole_result()), **changes}
    (tmp_path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    return open_run(tmp_path)


class Reader(HTMLParser):
    """Reads a page: its text, its elements, and whether each that opens closes."""

    def __init__(self, html):
        super().__init__()
        self.open, self.seen, self.words = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_a_run_with_an_answer(tmp_path):
    done = run(tmp_path, answer=ANSWER)
    assert done.line == (
        "Ship onnx/int8: 2.40 ms instead of 11.1 ms (4.6x [4.5, 4.9]), 22 MB instead of 91 MB, 2 of 1,000 predictions changed "
        "(lossless)."
    )
    assert repr(done) == f"<RunResult {done.result['name']}: {done.line}>"
    assert (done.answer, done.shipped) == (ANSWER, tmp_path / "onnx/int8")
    assert (done.path, done.report) == (tmp_path, tmp_path / "report.html")
    frame = done.to_frame()
    assert list(frame.index[frame["shipped"]]) == ["onnx_int8"]
    assert set(frame["length"].dropna()) == {"workload"}
    kept = run(tmp_path, answer={**ANSWER, "path": None, "variant": "full", "key": "full"})
    assert kept.shipped is None
    assert not kept.to_frame()["shipped"].any()
    assert kept.line.startswith("Keep what runs today")


def test_a_run_without_an_answer_has_the_headline_of_its_report(tmp_path):
    done = run(tmp_path)
    assert (done.answer, done.shipped) == (None, None)
    assert "1 of 6 layers removed" in done.line
    assert re.fullmatch(r"<RunResult .*: \w+, \d+ of [\d,]+ predictions changed>", repr(done))


def test_the_frame_holds_what_the_result_holds(tmp_path):
    done = run(tmp_path)
    frame, variants = done.to_frame(), done.result["variants"]
    assert list(frame.columns) == list(COLUMNS)
    assert {*frame.index} == {*variants}
    assert frame.index.name == "variant"
    for name, row in frame.iterrows():
        entry = variants[name]
        assert (row["accuracy"], row["bytes"], row["parameters"]) == (
            *(entry["accuracy"], entry["bytes"], entry["parameters"]),
        )
        assert (row["accuracy_low"], row["accuracy_high"]) == tuple(entry["accuracy_ci95"])
        timed = next(one for one in entry["latency"] if (one["batch"], one["length"]) == (1, 32))
        assert (row["batch"], row["length"], row["p50_ms"]) == (1, 32, timed["p50_ms"])
        if versus := entry["versus_full"]:
            assert (row["flips"], row["rows"], row["tier"]) == (versus["flips"], versus["rows"], versus["tier"])
            assert (row["delta_low"], row["delta_high"]) == tuple(versus["ci95"])
    compressed = variants["compressed"]["latency"][0]
    assert frame.loc["compressed", "speedup"] == compressed["speedup"]
    assert (frame.loc["compressed", "speedup_low"], frame.loc["compressed", "against"]) == (
        *(compressed["speedup_ci95"][0], "full"),
    )
    assert pd.isna(frame.loc["full", "speedup"])
    assert pd.isna(frame.loc["full", "flips"])


def test_every_column_is_explained_where_python_is():
    page = (Path(__file__).parents[2] / "docs/python.md").read_text("utf-8")
    _, _, table = page.partition("| column | holds |\n")
    assert re.findall(r"^\| `(\w+)` \| (.+) \|$", table, re.M) == list(COLUMNS.items())


@pytest.mark.parametrize("answer", [None, ANSWER])
def test_the_card_holds_the_line_three_numbers_and_the_variants(tmp_path, answer):
    data = {**whole_result()["data"], "warnings": ["Few rows."]}
    done = run(tmp_path, answer=answer, data=data)
    page = Reader(done._repr_html_())
    text = " ".join(page.words)
    assert page.words[page.words.index(done.line)]
    warnings = done.result["data"]["warnings"]
    assert page.seen.count("b") == 3 + len(warnings)
    assert [warning for warning in warnings if warning not in text] == []
    assert page.seen.count("tr") == 1 + len(done.result["variants"])
    assert {"script", "img", "link"}.isdisjoint(page.seen)
    assert "http" not in text
    assert str(done.report) in text
    if answer:
        assert [
            word for word in ("4.62x", "of 1,000 predictions changed, lossless", "−75.8 %") if word not in text
        ] == []


def test_the_card_escapes_and_the_prompt_is_short(tmp_path):
    data = {**whole_result()["data"], "warnings": [HOSTILE]}
    done = run(tmp_path, name=HOSTILE * 9, answer={**ANSWER, "path": HOSTILE}, data=data)
    assert "<script" not in done._repr_html_()
    assert "&lt;script&gt;" in done._repr_html_()
    assert len(repr(done)) <= 200
    assert "\n" not in repr(done)


def test_texts_without_labels_leave_the_accuracy_out(tmp_path):
    result = copy.deepcopy(whole_result())
    for entry in result["variants"].values():
        entry.update(accuracy=None, accuracy_ci95=None)
        if entry["versus_full"]:
            entry["versus_full"].update(accuracy_delta=None, ci95=None)
    done = run(tmp_path, **result)
    assert done.to_frame()["accuracy"].isna().all()
    assert done._repr_html_()


def test_what_is_no_finished_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="there is no result here; give the folder of a finished run"):
        open_run(tmp_path / "none")
    broken = copy.deepcopy(whole_result())
    del broken["variants"]["full"]["latency"]
    (tmp_path / "result.json").write_text(json.dumps(broken), encoding="utf-8")
    with pytest.raises(UserError, match=r"result\.json: a part is missing or of the wrong kind") as caught:
        open_run(str(tmp_path))
    assert "\n" not in str(caught.value)
