"""The command line on a tiny task: whole runs, their contract and tables, every family, single commands on directories."""

import json

import numpy as np
import pytest
from results import timeless
from tiny import save_model

from compressor.cli.app import main

CONTRACT = {
    "recipe.yaml",
    "environment.json",
    "scores.json",
    "plan.json",
    "model",
    "onnx",
    "result.json",
    "report.html",
    "report.md",
    "figures",
    "log.txt",
}
VARIANT_KEYS = {
    "accuracy",
    "f1",
    "mcc",
    "parameters",
    "encoder_flops",
    "bytes",
    "predictions_sha256",
    "versus_full",
    "latency",
}
VERSUS_KEYS = {"agreement", "flips", "gained", "lost", "accuracy_delta", "ci95", "mcnemar_p", "tier"}
LATENCY_KEYS = {"batch", "length", "provider", "p50_ms", "p90_ms", "p99_ms", "runs", "speedup", "speedup_ci95"}


@pytest.fixture(scope="module")
def finished(tiny_task):
    """Return the directory of a whole run and its result."""
    out = tiny_task / "runs" / "whole"
    with pytest.raises(SystemExit) as end:
        main(["run", str(tiny_task / "recipe.yaml"), "--out", str(out), "--json"])
    assert not end.value.code
    return out, json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_a_whole_run_keeps_the_contract(finished):
    out, result = finished
    assert {path.name for path in out.iterdir()} >= CONTRACT
    assert result["schema"] == 1
    assert [entry["layer"] for entry in result["layers"]] == [0, 1, 2, 3]
    assert set(result["variants"]) >= {"full", "compressed", "onnx_fp32", "onnx_optimized", "onnx_int8"}
    for name, variant in result["variants"].items():
        assert set(variant) >= VARIANT_KEYS
        assert all(set(row) >= LATENCY_KEYS for row in variant["latency"])
        assert (variant["versus_full"] is None) == (name == "full")
    assert set(result["variants"]["compressed"]["versus_full"]) >= VERSUS_KEYS
    assert result["data"]["splits"]["evaluation"]["rows"] == 60
    assert {"skip", "keep", "search", "sets_evaluated", "sets_total", "seconds"} <= set(result["plan"])
    assert set(result["parity"]) == {"fp32", "optimized", "int8"}
    assert result["parity"]["fp32"]["agreement"] == 1.0
    assert result["fused_nodes"]["optimized"] == {"SkipLayerNormalization": 4, "BiasGelu": 2, "Attention": 1}
    assert [stage["name"] for stage in result["stages"]][:5] == ["scores", "tail", "timing", "plan", "model"]
    full, compressed = result["variants"]["full"], result["variants"]["compressed"]
    assert compressed["encoder_flops"] * 3 == full["encoder_flops"] * 2
    assert compressed["parameters"] < full["parameters"]
    assert "Recipe" in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_result_equals_what_the_files_say(finished):
    out, result = finished
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(out / "model")
    assert sum(parameter.numel() for parameter in model.parameters()) == result["variants"]["compressed"]["parameters"]
    assert (out / "model" / "model.safetensors").stat().st_size == result["variants"]["compressed"]["bytes"]
    with np.load(out / "predictions.npz") as logits:
        flips = int((logits["full"].argmax(1) != logits["compressed"].argmax(1)).sum())
    assert flips == result["variants"]["compressed"]["versus_full"]["flips"] == len(result["flipped"])


def test_a_second_run_computes_nothing_and_json_is_alone_on_stdout(finished, tiny_task, command):
    out, result = finished
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--json")
    assert code == 0
    again = json.loads(stdout)
    assert all(stage["cached"] for stage in again["stages"])
    assert timeless(again) == timeless(json.loads(json.dumps(result)))
    assert "kept from before" in stderr


def test_the_table_names_both_models_and_the_report(finished, tiny_task, command):
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", finished[0])
    assert code == 0
    assert all(word in stdout for word in ("full", "compressed", "onnx_int8", "accuracy", "agreement", "report.html"))


def test_a_changed_recipe_keeps_what_does_not_depend_on_the_change(finished, tiny_task, command):
    arguments = "run", tiny_task / "recipe.yaml", "--out", finished[0], "--json", "--set", "compensation.head=null"
    code, stdout, _ = command(*arguments)
    cached = {stage["name"]: stage["cached"] for stage in json.loads(stdout)["stages"]}
    assert code == 0
    assert cached["plan"]
    assert cached["full-onnx"]
    assert not cached["model"]
    assert json.loads(stdout)["head"] is None
    command("run", tiny_task / "recipe.yaml", "--out", finished[0])  # put the shared run back


def test_goals_missed_end_with_3_and_still_write_everything(finished, tiny_task, command):
    code, stdout, stderr = command(
        "run",
        tiny_task / "recipe.yaml",
        "--out",
        finished[0],
        "--set",
        "goals={max_flips: 0.0, max_drop: 0.0}",
        "--json",
    )
    assert code == 3
    goals = json.loads(stdout)["goals"]
    assert not goals["met"]
    assert any("max_drop" in miss for miss in goals["misses"])
    assert "goal missed: " in stderr
    assert (finished[0] / "report.html").is_file()
    code, stdout, _ = command(
        "run",
        tiny_task / "recipe.yaml",
        "--out",
        finished[0],
        "--set",
        "goals={max_flips: 1.0, max_drop: 1.0}",
        "--json",
    )
    met = {"met": True, "variant": "compressed", "misses": [], "selection": None}
    assert (code, json.loads(stdout)["goals"]) == (0, met)


@pytest.mark.parametrize("model_type", [pytest.param("roberta", marks=pytest.mark.slow), "distilbert"])
def test_other_families_go_through_the_whole_pipeline(tiny_task, tmp_path, command, model_type):
    save_model(tmp_path / "model", model_type, layers=3, num_labels=2)
    sets = [
        f"model.path={tmp_path}/model",
        "export.variants=[optimized]",
        "selection.layers=2",
        "benchmark.workload=false",
    ]
    arguments = [part for pair in sets for part in ("--set", pair)]
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json", *arguments)
    result = json.loads(stdout)
    assert (code, len(result["plan"]["keep"])) == (0, 1)
    assert result["fused_nodes"]["optimized"] == {
        "SkipLayerNormalization": 2,
        "BiasGelu": 1,
    }  # the tail is all there is
    assert result["parity"]["optimized"]["agreement"] == 1.0


def test_score_and_plan_print_tables_and_json(finished, tiny_task, command):
    recipe, out = tiny_task / "recipe.yaml", finished[0]
    code, stdout, _ = command("score", recipe, "--out", out, "--json")
    assert (code, len(json.loads(stdout)["layers"])) == (0, 4)
    printed = command("score", recipe, "--out", out)[1]
    assert "trace ratio" in printed
    assert "downstream" in printed
    code, stdout, _ = command("plan", recipe, "--out", out, "--json")
    planned = json.loads(stdout)
    assert (code, planned["plan"]["sets_evaluated"]) == (0, 3)
    assert all(stage["cached"] for stage in planned["stages"] if stage["name"] in {"scores", "plan"})
    text = command("plan", recipe, "--out", out)[1]
    assert all(word in text for word in ("kept", "layer applications", "chosen"))


def test_plan_sums_the_seconds_that_are_known(finished, tiny_task, tmp_path, command):
    recipe = tiny_task / "recipe.yaml"
    cells = "--set", "benchmark={batch_sizes: [1, 2], lengths: [8], workload: true, min_seconds: 0.5, max_seconds: 1}"
    code, stdout, _ = command("plan", recipe, "--out", tmp_path / "run", *cells, "--json")
    planned = json.loads(stdout)
    known = {stage["name"]: stage["seconds"] for stage in planned["stages"] if stage["seconds"]}
    assert (code, known) == (
        0,
        {"timing": [3, 18], "latency": [2, 4]},
    )  # two cells of one length and two files, four cells with the texts
    assert {key: planned["seconds"][key] for key in ("low", "high")} == {"low": 5, "high": 22}
    assert set(planned["seconds"]["unknown"]) == {stage["name"] for stage in planned["stages"]} - set(known)
    text = command("plan", recipe, "--out", tmp_path / "run", *cells)[1]  # what was timed is kept
    assert "stages: 2 to 4 s to go, beside model" in text
    planned = json.loads(command("plan", recipe, "--out", finished[0], "--json")[1])
    assert planned["seconds"] == {"low": 0, "high": 0, "unknown": []}


def test_finetune_then_run_takes_the_new_teacher(tiny_task, tmp_path, command):
    recipe, out = tiny_task / "recipe.yaml", tmp_path / "run"
    tuned = "--set", "finetune={epochs: 2, lr: 1e-3, batch_size: 16}"
    assert command("finetune", recipe, "--out", out)[0] == 2  # no finetune section
    code, stdout, stderr = command("plan", recipe, "--out", out, *tuned, "--json")
    assert (code, json.loads(stdout)["plan"], "compressor finetune" in stderr) == (0, None, True)
    assert not out.exists()
    code, stdout, _ = command("finetune", recipe, "--out", out, *tuned, "--json")
    assert (code, len(json.loads(stdout)["loss"])) == (0, 2)
    assert (out / "teacher" / "model.safetensors").is_file()
    code, stdout, _ = command("plan", recipe, "--out", out, *tuned, "--json")
    assert (code, len(json.loads(stdout)["plan"]["skip"])) == (0, 1)


def test_export_bench_and_report_work_on_directories(finished, tiny_task, tmp_path, command):
    code, stdout, _ = command(
        "export", tiny_task / "model", "--out", tmp_path / "onnx", "--variant", "optimized", "--json"
    )
    written = json.loads(stdout)
    assert (code, set(written)) == (0, {"optimized"})
    assert written["optimized"]["parity"]["agreement"] == 1.0
    few = "--batch", 1, "--length", 8, "--min-seconds", 0, "--min-runs", 5, "--max-seconds", 3, "--no-footprint"
    code, stdout, _ = command("bench", tiny_task / "model", tmp_path / "onnx" / "optimized", *few, "--json")
    timed = json.loads(stdout)
    assert code == 0
    assert {row["against"] for rows in timed["latency"].values() for row in rows} == {str(tiny_task / "model")}
    code, stdout, _ = command("bench", finished[0], *few, "--json")
    rows = json.loads(stdout)["latency"]
    assert rows[f"{finished[0]}/onnx/int8"][0]["against"] == f"{finished[0]}/full-onnx/int8"
    (finished[0] / "report.html").unlink()
    assert command("report", finished[0])[0] == 0
    assert (finished[0] / "report.html").is_file()


def test_validate_schema_and_doctor(tiny_task, command):
    code, stdout, _ = command("validate", tiny_task / "recipe.yaml")
    assert code == 0
    assert "trace_ratio" in stdout  # a default, filled in
    assert json.loads(command("validate", tiny_task / "recipe.yaml", "--json")[1])["name"] == "tiny"
    assert json.loads(command("schema")[1])["title"] == "Recipe"
    assert json.loads(command("schema", "--kind", "placement")[1])["title"] == "PlacementRecipe"
    code, _, stderr = command("schema", "--kind", "placment")
    assert code == 2
    assert "did you mean 'placement'" in " ".join(stderr.split())
    code, stdout, _ = command("doctor", "--json")
    assert json.loads(stdout)["best"].endswith("ExecutionProvider")


def test_unlabelled_data_gives_agreement_and_no_accuracy(tiny_task, tmp_path, command):
    sets = ["data.label=null", "separability.labels=teacher", "compensation.head.targets=teacher", "export.variants=[]"]
    arguments = [part for pair in sets for part in ("--set", pair)]
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json", *arguments)
    variant = json.loads(stdout)["variants"]["compressed"]
    assert (code, variant["accuracy"], variant["versus_full"]["gained"]) == (0, None, None)
    assert 0 < variant["versus_full"]["agreement"] <= 1


def test_a_model_inside_its_own_run_directory_is_refused(finished, tiny_task, command):
    out = finished[0]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--set", f"model.path={out}/model")
    assert (code, "lies in the run directory" in stderr) == (2, True)
