"""The tables of the benchmark of units: pooled by hand, paired against whole layers, predicted beside measured."""

from benchmarks.units import run as units
from benchmarks.units import tables

METHODS = "cut", "cut + readout", "stand-ins", "refit", "refit + readout"


def task(full, labels, **changed):
    """Return a task's entry in which `changed` (kind -> rows, by size) differ from the full model behind every method."""
    mixes = {}
    for kind, sizes in changed.items():
        for size, rows in enumerate(sizes, start=1):
            digits = "".join(str(1 - int(d)) if index in rows else d for index, d in enumerate(full))
            methods = {name: {"predictions": digits} for name in METHODS}
            mixes[f"{kind} {size}"] = {"units": [size, "6.ffn"], "kept": 0.7, "methods": methods}
    return {"full": full, "labels": labels, "mixes": mixes}


TASKS = {
    "sst2": task("00001111", "00001111", layers=[{0, 1}, {0, 1, 2}], blocks=[{0}, {0, 1}]),
    "cola": task("0011", "1111", layers=[{0, 1}, {0}], blocks=[{0, 1}, set()], widths=[{3}]),
}


def test_changed_predictions_are_pooled_over_rows_of_tasks_with_the_same_mixes():
    assert tables.sizes_of(TASKS) == [1, 2]
    assert tables.kinds_of(TASKS, [1, 2]) == ["layers", "blocks"]
    rows = tables.mix_table(TASKS, tables.flips_of, tables._share).splitlines()[2:]
    assert len(rows) == 2 * len(tables.METHODS)
    assert "| 33.3 % [" in rows[0]  # 4 of 12, then 4 of 12
    assert "| 25.0 % [" in rows[-1]  # blocks: 3 of 12
    # layers: sst2 loses 2 of 8, cola gains 2 of 4
    assert "| +0.0 [" in tables.mix_table(TASKS, tables.better_of, tables._points).splitlines()[2]


def test_kinds_are_compared_row_by_row():
    said = tables._sentences(TASKS)
    assert said.count("\n") == 0
    assert "layers, FFNs, attention blocks less whole layers" in said
    assert "at 83% of the FLOPs -8.3 [" in said  # one row of twelve
    assert "at 67% of the FLOPs -16.7 [" in said


def test_every_task_and_budget_has_its_line():
    lines = tables.task_table(TASKS).splitlines()[2:]
    assert len(lines) == 2 * 2 * 2
    assert lines[0].startswith("| sst2 | whole layers | 83% | 70% | layer 1 and the FFN of layer 6 | 25.0 % [")


def test_removal_counts_rows_of_all_tasks():
    removal = {
        step: {"1": digits} for step, digits in {"cut": "00000000", "mean": "00001110", "refit": "00001111"}.items()
    }
    kinds = [{"kind": kind, "flips": 3, "rows": 8, "accuracy_delta": -0.25} for kind in tables.WHOLE]
    analysed = {"sst2": {"ffn": {"layers": [{"layer": 1, "removal": kinds}]}}}
    lines = tables.removal_table({"sst2": TASKS["sst2"] | {"removal": removal}}, analysed).splitlines()[2:]
    assert [line.split("|")[2].split()[0] for line in lines] == ["37.5"] * 3 + ["50.0", "12.5", "0.0"]
    assert [line.split("|")[3].strip() for line in lines] == ["-25.0"] * 3 + ["-50.0", "-12.5", "+0.0"]


def test_predicted_ratios_stand_beside_measured_ones():
    times = {"full": [2.0, 2.02] * 20, "twin": [2.0, 2.02] * 20, "half": [1.0, 1.01] * 20}
    cell = {"batch": 1, "length": 8, "values_ms": times, "predicted": {"half": 1.5}}
    made = tables.latency_table({"shapes": {"half": ["1.ffn"]}, "cells": [cell]})
    assert "| half | the FFN of layer 1 | 2.00x [2.00, 2.00], predicted 1.50x (-25%) |" in made


def test_the_figure_is_drawn_where_two_budgets_are_there(tmp_path):
    assert tables.figure(TASKS, tmp_path / "units.png").read_bytes().startswith(b"\x89PNG")
    one = {"cola": task("0011", "1111", widths=[{3}])}
    assert tables.figure(one, tmp_path / "none.png") is None


def test_other_units_replace_what_was_known():
    known = {"labels": "01", "full": "01", "mixes": {"layers 1": {"units": [5], "methods": {"cut": 1}}}}
    units.keep_consistent(
        known, {"labels": "01", "full": "01", "mixes": {"layers 1": {"units": [5]}}}, "mixes", "units"
    )
    assert known["mixes"]
    units.keep_consistent(
        known, {"labels": "01", "full": "01", "mixes": {"layers 1": {"units": [4]}}}, "mixes", "units"
    )
    assert not known["mixes"]
    units.keep_consistent(known, {"labels": "01", "full": "00"}, "mixes", "units")
    assert known == {}
