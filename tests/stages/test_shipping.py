"""Which file to ship: named on the selection split by speed among those that keep to the goals."""

import json

import numpy as np
import pytest

from compressor.export.onnx import variants_for
from compressor.recipe.compression import GoalsSpec
from compressor.report.wording.export import operator_rows, parity_words, shipped_line, shipping_reading, tail_reading
from compressor.stages.onnx.onnx import operators_of
from compressor.stages.shipping import fastest, judge, typical_ms

FULL = np.tile([[2.0, 0.0]], (100, 1))
LABELS = np.zeros(100, dtype=np.int64)


def flipped(rows):
    logits = FULL.copy()
    logits[:rows] = logits[:rows, ::-1]
    return logits


def test_auto_makes_what_may_be_fast_on_the_device():
    assert variants_for(["int8", "fp32"], "cuda", []) == ["int8", "fp32"]
    assert variants_for("auto", "cuda:0", ["avx2"]) == ["optimized", "fp16"]
    assert variants_for("auto", "cpu", ["avx2"]) == ["optimized"]
    assert variants_for("auto", "cpu", ["avx2", "avx512f", "avx512_vnni"]) == ["optimized", "int8"]
    assert variants_for("auto", "cpu", ["neon", "i8mm"]) == ["optimized", "int8"]


@pytest.mark.parametrize(("changed", "passes"), [(0, True), (1, True), (2, False)])
def test_without_goals_a_precision_may_change_one_percent_of_its_own_model_s_predictions(changed, passes):
    found = judge(FULL, flipped(40), flipped(40 + changed), LABELS, None)
    assert found["own_flips"] == changed / 100
    assert found["flips"] == (40 + changed) / 100
    assert (found["misses"] == []) is passes
    assert judge(FULL, flipped(0), flipped(changed), None, GoalsSpec(min_speedup=2.0))["misses"] == found["misses"]


def test_goals_are_judged_against_the_full_model():
    kept = judge(FULL, flipped(0), flipped(3), LABELS, GoalsSpec(max_flips=0.03))
    assert kept["misses"] == []
    missed = judge(FULL, flipped(0), flipped(4), LABELS, GoalsSpec(max_flips=0.03, max_drop=0.01))
    assert [miss.split(":")[0] for miss in missed["misses"]] == ["max_drop", "max_flips"]


def test_logits_that_are_not_finite_never_ship():
    broken = FULL.copy()
    broken[3:5] = np.nan
    found = judge(FULL, FULL, broken, LABELS, None)
    assert found["misses"] == ["no finite logits for 2 rows"]
    assert found["flips"] is None


def entry(variant, mean_ms, *misses):
    return {"variant": variant, "mean_ms": mean_ms, "flips": 0.01, "misses": list(misses)}


def test_the_fastest_that_passes_else_the_most_exact():
    assert fastest([entry("optimized", 3.0), entry("int8", 2.0)]) == "int8"
    assert fastest([entry("optimized", 3.0), entry("int8", 2.0, "max_flips")]) == "optimized"
    assert fastest([entry("optimized", 3.0, "max_drop"), entry("int8", 2.0, "max_flips")]) == "optimized"
    assert fastest([entry("optimized", None), entry("int8", None)]) == "optimized"


def test_typical_time_by_hand():
    assert typical_ms([{"p50_ms": 1.0}, {"p50_ms": 4.0}]) == pytest.approx(2.0)
    assert typical_ms([]) is None


def test_words():
    shipped = {"variant": "int8", "rows": 1200, "candidates": [entry("optimized", 3.0), entry("int8", 2.0)]}
    said = shipping_reading(shipped)
    assert "Ship onnx/int8: the fastest that keeps to the goals" in said
    assert "1,200 selection texts" in said
    assert "optimized (3.00 ms)" in said
    assert shipped_line(shipped) == "ship onnx/int8 (2.00 ms, 1.00 % of the selection predictions changed)"
    none = {"variant": "optimized", "rows": 9, "candidates": [entry("optimized", 3.0, "max_drop: no")]}
    assert "no file meets the goals" in shipping_reading(none)
    assert shipping_reading(None) == tail_reading(None) == tail_reading({"form": None}) == ""
    cells = [{"batch": 1, "length": 32, "ratio": 0.5, "ci95": [0.4, 0.6]}]
    said = tail_reading({"form": "reassociated", "provider": "CPUExecutionProvider", "cells": cells})
    assert "batch 1, 32 tokens: 0.50x (0.40x to 0.60x)" in said
    assert parity_words({"max_abs": None}) == "not finite"


def test_operators_by_hand():
    files = {
        "fp32": {"operators": {"MatMul": 8, "Add": 9}, "exported": {"MatMul": 8, "Add": 9}},
        "optimized": {"operators": {"MatMul": 3, "Attention": 1}, "exported": {"MatMul": 9}},
    }
    counts = operators_of(files)
    assert list(counts) == ["exported", "fp32", "optimized"]
    assert operator_rows(counts) == [
        ["operator", "as exported", "fp32", "optimized"],
        ["all nodes", "17", "17", "4"],
        ["Add", "9", "9", "–"],
        ["MatMul", "8", "8", "3"],
        ["Attention", "–", "–", "1"],
    ]
    assert (operator_rows({}), operators_of({})) == ([], {})


def test_a_run_names_the_file_and_the_goals_judge_that_one(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    sets = ["--set", "export.variants=auto", "--set", "goals={max_flips: 1.0}", "--device", "cpu"]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, *sets)
    assert code == 0, stderr
    result = json.loads((out / "result.json").read_text())
    shipped = result["shipped"]
    assert {entry["variant"] for entry in shipped["candidates"]} == set(result["parity"])
    assert shipped["rows"] == result["data"]["splits"]["selection"]["rows"]
    assert result["goals"]["variant"] == f"onnx_{shipped['variant']}"
    assert f"Ship onnx/{shipped['variant']}" in (out / "report.md").read_text()
    assert "full_onnx_alltokens" in result["variants"]
    spared, whole = (result["variants"][f"full_onnx_{name}"] for name in ("optimized", "alltokens"))
    assert spared["encoder_flops"] < whole["encoder_flops"] == result["variants"]["full"]["encoder_flops"]
    row = spared["latency"][0]
    assert row["against"] == "full_onnx_alltokens"
    assert result["tail"]["form"] in {"reassociated", "single_row"}
    assert json.loads((out / "tail.json").read_text()) == result["tail"]
    assert "Operators before and after" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("sets", "form"), [(["export.cls_only_tail=false"], None), (["export.cls_only_tail=single_row"], "single_row")]
)
def test_a_form_by_name_and_none(tiny_task, tmp_path, command, sets, form):
    out = tmp_path / "run"
    options = [part for value in [*sets, "export.variants=[optimized]"] for part in ("--set", value)]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, *options, "--device", "cpu")
    assert code == 0, stderr
    result = json.loads((out / "result.json").read_text())
    assert result["tail"] == {"form": form}
    assert not (out / "tail.json").exists()
    assert ("full_onnx_alltokens" in result["variants"]) is (form is not None)
    attention = result["fused_nodes"]["optimized"]["Attention"]
    assert attention == len(result["plan"]["keep"]) - (form is not None)
