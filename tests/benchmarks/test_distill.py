"""The benchmark of distillation on a tiny model: its points, what is kept of them and left out, and the table by hand."""

import json
import sys

import numpy as np
import pytest
from tiny import letter_rows

from benchmarks.common import markdown
from benchmarks.distill import run as bench
from benchmarks.distill import start, tables
from compressor.recipe.file import load_recipe

CURVE = [[0, 0.5], [3, 0.25], [6, 0.375]]


def entry(full, labels, begin, **points):
    """Return the entry of a model whose `points` (number of texts -> predictions) all have the same curve."""
    made = {"curve": CURVE, "kept_step": 3, "steps": 6, "seconds": 12.4, "selection_kl": 0.3,
            "environment": {"device": {"name": "a processor"}}}  # fmt: skip
    kept = {name[1:]: {**made, "predictions": digits, "texts": int(name[1:])} for name, digits in points.items()}
    return {
        "units": ["1.ffn:8"],
        "labels": labels,
        "full": full,
        "start": {"selection_kl": 0.6, "predictions": begin},
        "texts": 2000,
        "points": kept,
        "settings": {},
    }


def test_rows_by_hand():
    made = entry("1111100000", "1111111111", "1111000000", _2000="1111100011", _500="0111100000")
    begin, small, large = tables.rows_of("sst2", made)
    assert begin[:3] == ["sst2", "0 (closed form)", ""]
    assert [row[1] for row in (small, large)] == ["500", "2,000"]
    assert (begin[3], small[2:7]) == ("0.6000", ["0.5000 → 0.2500", "0.3000", "3 of 6", "12", "a processor"])
    assert [row[7].split(" [")[0] for row in (begin, small, large)] == ["10.0 %", "10.0 %", "20.0 %"]
    assert [row[8].split(" [")[0] for row in (begin, small, large)] == ["-10.0", "-10.0", "+20.0"]
    low, high = (float(bound) for bound in large[8].partition("[")[2].rstrip("]").split(", "))
    assert low < float(large[9]) < 20.0 < high


def test_tasks_are_pooled_by_the_most_text_of_each_once_all_are_there():
    made = entry("1111100000", "1111111111", "1111000000", _2000="1111100011", _500="0111100000")
    results = dict.fromkeys(tables.TASKS, made)
    assert not list(tables.pooled_rows({**results, "rte": {**made, "points": {}}}))
    begin, most = tables.pooled_rows(results)
    assert (begin[:2], most[:2]) == (["five tasks", "0 (closed form)"], ["five tasks", "most of each"])
    assert {len(row) for row in (begin, most)} == {len(tables.COLUMNS)}
    assert [row[-3].split(" [")[0] for row in (begin, most)] == ["10.0 %", "20.0 %"]
    assert [row[-2].split(" [")[0] for row in (begin, most)] == ["-10.0", "+20.0"]
    assert float(begin[-1]) < -10 < 0 < float(most[-1]) < 20


@pytest.fixture
def ready(tiny_task, tmp_path, monkeypatch):
    """Return a function: arguments -> the results of a run on the tiny task, in a folder of its own."""
    rows = [text for text, _ in letter_rows(300)][260:]
    test = tmp_path / "test.csv"
    test.write_text("\n".join(["text", *rows]) + "\n", encoding="utf-8")
    page = tmp_path / "distill.md"
    page.write_text("<!-- distill: begin -->\n<!-- distill: end -->\n", encoding="utf-8")

    def recipe_of(_task, _arguments, _model, *sets):
        own = [f"data.test={test}", "data.calibration.split=test"]
        small = ["data.selection.size=40", "data.calibration.size=20", "separability.labels=teacher"]
        return load_recipe(tiny_task / "recipe.yaml", [*sets, *own, *small])

    monkeypatch.setattr(start, "recipe_of", recipe_of)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "distill.json")
    monkeypatch.setattr(markdown, "TABLES", tmp_path)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["run", "--model", "sst2", "--keep", "0.85", *arguments])
        bench.main()
        return json.loads((tmp_path / "distill.json").read_text(encoding="utf-8"))["sst2"]

    return call


def test_points_are_measured_once_and_tabled(ready, tmp_path, capsys):
    quick = ("--set", "lr=1.0e-3", "batch_size=16", "--epochs", "1")
    made = ready("--texts", "60", "100", *quick)
    assert list(made["points"]) == ["60", "100"]
    assert made["texts"] > 150  # of train and test
    assert all(":" in unit for unit in made["units"])
    point = made["points"]["60"]
    assert (point["rows"] + point["held"], point["held"]) == (60, 6)
    assert point["spec"]["lr"] == 1e-3
    assert point["curve"][0][0] == 0
    assert len(point["predictions"]) == len(made["labels"]) == len(made["full"])
    page = (tmp_path / "distill.md").read_text(encoding="utf-8")
    assert "| sst2 | 60 |" in page
    assert "- sst2: without all but" in page

    again = ready("--texts", "60", "all", *quick)
    assert again["points"]["60"] == point
    assert again["points"]["all"]["texts"] == made["texts"]
    assert capsys.readouterr().out.count("sst2, 60, 60 texts") == 1

    other = ready("--texts", "60", "--epochs", "1", "--set", "lr=2.0e-3", "batch_size=16")
    assert other["points"]["60"]["spec"]["lr"] == 2e-3


def test_settings_are_compared_by_the_selection_split_and_the_best_is_taken(ready, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "VARIANTS", {"defaults": {}, "faster": {"lr": 3e-3}, "slower": {"lr": 1e-9}})
    monkeypatch.setattr(bench, "SETTING_TEXTS", 80)
    # eight texts held out cannot tell a fall from chance
    monkeypatch.setattr("compressor.compensation.distill.surely_lower", lambda _now, _before: True)
    made = ready("--part", "settings", "--epochs", "1")["settings"]
    assert {name: entry["spec"]["lr"] for name, entry in made.items()} == {
        "defaults": 1e-4,
        "faster": 3e-3,
        "slower": 1e-9,
    }
    best = min(made, key=lambda name: made[name]["selection_kl"])
    assert made["slower"]["selection_kl"] > made[best]["selection_kl"]
    page = (tmp_path / "distill.md").read_text(encoding="utf-8")
    assert page.index(f"| sst2 | {best}, 80 texts |") < page.index("| sst2 | slower, 80 texts |")
    point = ready("--best-of", "sst2", "--texts", "60", "--epochs", "1")
    assert point["points"]["60"]["spec"]["lr"] == made[best]["spec"]["lr"]
    assert point["settings"] == made


def test_points_for_which_no_time_is_left_are_left_out(ready, capsys):
    made = ready("--texts", "60", "--minutes", "0")
    assert made["points"] == {}
    assert "sst2, 60: left out" in capsys.readouterr().out


def test_texts_stand_once_and_say_whether_the_start_knows_them(ready, tmp_path):
    ready("--texts", "60", "--minutes", "0")
    arguments = bench.arguments_of(["--keep", "0.85"])
    begun = start.start_of("sst2", arguments)
    text = start.text_of(begun.run)
    ids = [tuple(row) for row in text.encodings.input_ids]
    assert len(set(ids)) == len(ids)
    fitted = {tuple(row) for row in begun.run.calibration.input_ids}
    assert text.known.tolist() == [row in fitted for row in ids]
    assert text.known.sum() == 20
    judged = {tuple(row) for row in [*begun.run.evaluation.input_ids, *begun.run.selection.input_ids]}
    assert not judged & set(ids)
    assert np.array_equal(text.known, start.text_of(begun.run).known)
