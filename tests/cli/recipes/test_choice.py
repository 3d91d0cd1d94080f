"""The command line on the choice of layers: audit, plan, goals that decide, and their bad inputs."""

import json

import numpy as np
import pytest

from compressor.pipeline.goals import judge_goals, with_speed
from compressor.recipe.compression import GoalsSpec

QUICK = ("--set", "export.variants=[optimized]", "--set", "benchmark.workload=false")
AUTO = (*QUICK, "--set", "selection.layers=auto")


@pytest.fixture(scope="module")
def recipe(tiny_task):
    return tiny_task / "recipe.yaml"


def test_audit_writes_tables_figures_and_json_and_a_run_goes_on_from_it(recipe, tmp_path, command):
    out = tmp_path / "run"
    code, stdout, _ = command("audit", recipe, "--out", out, "--json", *QUICK)
    audit = json.loads(stdout)
    assert code == 0
    assert {"separability", "block_influence", "cka", "passthrough", "random"} <= set(audit["scores"])
    assert [row["layer"] for row in audit["roles"]] == [1, 2, 3]
    assert audit["timing"]["cells"][0]["layer_ms"] > 0
    assert not (out / "result.json").exists()
    code, stdout, _ = command("audit", recipe, "--out", out, *QUICK)
    assert code == 0
    assert all(words in stdout for words in ("separability (trace ratio)", "block influence", "regret", "figure: "))
    assert {path.name for path in (out / "figures").glob("*.png")} == {"audit.png", "frontier.png"}
    code, stdout, _ = command("run", recipe, "--out", out, "--json", *QUICK, "--set", "selection.audit=true")
    result = json.loads(stdout)
    kept = {stage["name"] for stage in result["stages"] if stage["cached"]}
    assert (code, kept) == (0, {"scores", "tail", "plan", "audit", "timing"})
    assert result["audit"]["frontier"] == audit["frontier"]
    assert result["prediction"][0]["measured"][0]["variant"] == "compressed"
    assert "Audit of the scores" in (out / "report.html").read_text(encoding="utf-8")


def test_an_audit_of_a_finished_run_enters_its_report(recipe, tmp_path, command):
    out = tmp_path / "run"
    command("run", recipe, "--out", out, *QUICK)
    before = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert before["audit"] is None
    assert "Audit of the scores" not in (out / "report.html").read_text(encoding="utf-8")
    code, _, _ = command("audit", recipe, "--out", out, *QUICK)
    after = json.loads((out / "result.json").read_text(encoding="utf-8"))
    assert code == 0
    assert after["variants"] == before["variants"]
    assert after["audit"]["layers"] == 3
    assert "Audit of the scores" in (out / "report.html").read_text(encoding="utf-8")
    command("run", recipe, "--out", out, *QUICK)  # the recipe itself asks for no audit
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["audit"] is None
    command("audit", recipe, "--out", out, *QUICK)
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))["audit"] == after["audit"]


def test_auto_takes_as_many_layers_as_the_goals_allow(recipe, tmp_path, command):
    sets = (*AUTO, "--set", "goals={max_flips: 1.0}")
    code, stdout, _ = command("run", recipe, "--out", tmp_path / "run", "--json", *sets)
    result = json.loads(stdout)
    assert (code, len(result["plan"]["skip"]), result["plan"]["layers_asked"]) == (0, 2, "auto")
    choice = result["goals"]["selection"]
    assert (choice["met"], choice["tried"], choice["choices"]) == (True, 6, 6)
    assert choice["candidates"][0]["chosen"]
    assert choice["candidates"][0]["predicted_speedup"] > choice["candidates"][1]["predicted_speedup"]
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_goals_that_no_set_meets_end_with_3_the_nearest_miss_and_the_ranked_reasons(recipe, tmp_path, command):
    out, sets = tmp_path / "run", (*AUTO, "--set", "goals={max_drop: 0.0001, confidence: 0.99}")
    code, stdout, stderr = command("run", recipe, "--out", out, *sets)
    assert code == 3
    assert all(
        (out / name).exists() for name in ("model/model.safetensors", "onnx/optimized/model.onnx", "report.html")
    )
    goals = json.loads((out / "result.json").read_text(encoding="utf-8"))["goals"]
    assert not goals["selection"]["met"]
    assert [len(entry["misses"]) for entry in goals["selection"]["candidates"]] == [1, 1]
    assert goals["selection"]["corrected"] == pytest.approx(1 - 0.01 / 6)
    assert "goals on the selection split: 6 sets tried on 60 rows" in stdout
    assert "goal missed: no set of layers meets the goals on the selection split" in stderr
    code, stdout, _ = command("plan", recipe, "--out", out, *sets)
    assert (code, "(chosen)" in stdout, "predicted speed-up" in stdout) == (0, True, True)


def test_a_nearest_miss_is_not_signed_off_by_kind_evaluation_rows():
    logits = np.eye(2)[np.arange(1000) % 2]
    variants = {name: {"latency": []} for name in ("full", "compressed")}
    given = GoalsSpec(max_drop=0.01), {"full": logits, "compressed": logits}, np.arange(1000) % 2, variants
    assert judge_goals(*given)["met"]
    missed = {"met": False, "candidates": [{"misses": ["max_drop: too much"]}]}
    judged = judge_goals(*given, missed)
    assert not judged["met"]
    assert "nearest: max_drop: too much" in judged["misses"][0]


@pytest.mark.parametrize(
    ("limit", "misses"),
    [(5.0, []), (4.9, ["compressed: max_p95_ms: 5.00 ms in the slowest cell, allowed are 4.90 ms."])],
)
def test_max_p95_is_that_of_the_slowest_cell(limit, misses):
    logits, row = np.eye(2)[[0, 1]], {"batch": 1, "speedup": 1.0, "claimed": False}
    latency = [{**row, "length": 32, "p95_ms": 3.0}, {**row, "length": 128, "p95_ms": 5.0}]
    variants = {"full": {"latency": []}, "compressed": {"latency": latency}}
    given = GoalsSpec(max_p95_ms=limit), {"full": logits, "compressed": logits}, np.array([0, 1]), variants
    assert judge_goals(*given)["misses"] == misses


def test_predicted_speed_of_a_candidate_is_that_of_the_slowest_cell():
    choice = {"candidates": [{"size": 1}, {"size": 2}]}
    timing = {"cells": [{"full_ms": 10.0, "layer_ms": 2.0}, {"full_ms": 10.0, "layer_ms": 1.0}]}
    assert [entry["predicted_speedup"] for entry in with_speed(choice, timing)["candidates"]] == [10 / 9, 10 / 8]
    assert with_speed(None, timing) is None


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (("selection.layers=auto",), "set goals.max_drop or goals.max_flips"),
        (("selection.layers=auto", "goals={min_speedup: 1.2}"), "set goals.max_drop or goals.max_flips"),
        (("selection={layers: auto, search: ranked}",), "layers: auto needs a search that tries sets of every size"),
        (("selection={layers: auto, protect: [1, 2, 3]}", "goals={max_flips: 0.1}"), "all layers are protected"),
        (("selection.beam_width=0",), "beam_width"),
        (("selection.layers=atuo",), "--set selection.layers: input should be a valid integer or 'auto', not 'atuo'"),
        (("selection.rank_by=block_influenc",), "block_influence"),
        (("goals={max_p95_ms: 0}",), "max_p95_ms"),
    ],
)
def test_bad_inputs_get_one_sentence(recipe, tmp_path, command, sets, words):
    arguments = [part for pair in sets for part in ("--set", pair)]
    code, stdout, stderr = command("run", recipe, "--out", tmp_path / "run", *arguments)
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
