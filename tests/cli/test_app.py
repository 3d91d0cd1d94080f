"""The command line on a tiny task: a whole run, resuming, JSON, and a sentence with exit code 2 for every bad input."""

import errno
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version

import numpy as np
import pytest
import torch
from filelock import FileLock
from tiny import save_model

from compressor.cli.app import main
from compressor.errors import UserError

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


TIMES = {"timing", "prediction"}


def timeless(result):
    """Drop what depends on the clock."""
    for variant in result["variants"].values():
        variant["latency"] = [(row["batch"], row["length"], row["provider"]) for row in variant["latency"]]
    for key in ("seconds", "predicted_seconds", "sets_known"):
        result["plan"].pop(key)
    return {key: value for key, value in result.items() if key not in {"stages", "benchmark", "goals"} | TIMES}


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


BAD = {
    "unknown key": (["--set", "selection.layrs=1"], ["selection.layrs", "did you mean 'layers'?"]),
    "wrong type": (["--set", "seed=many"], ["seed", "integer"]),
    "as many layers as there are": (["--set", "selection.layers=3"], ["cannot skip 3 of the model's 3 layers"]),
    "a layer that is not there": (
        ["--set", "selection={search: fixed, skip: [4]}"],
        ["layer 4 does not exist", "1..3"],
    ),
    "missing file": (["--set", "data.train=none.csv"], ["data.train", "none.csv"]),
    "missing column": (["--set", "data.text=txt"], ["txt", "train.csv", "did you mean 'text'?"]),
    "model that is not there": (["--set", "model.path=./nothing"], ["./nothing", "no such directory"]),
    "hub out of reach": (["--set", "model.path=some/model"], ["some/model", "--set model.path="]),
    "data hub out of reach": (["--set", "data={task: sst2, max_length: 32}"], ["data.source"]),
    "unknown task": (["--set", "data={task: sst3, max_length: 32}"], ["sst3", "sst2"]),
    "calibration without labels": (["--set", "data.label=null"], ["separability.labels", "teacher"]),
    "longer than the positions": (["--set", "data.max_length=128"], ["data.max_length", "60 tokens"]),
    "a cell that cannot be measured": (["--set", "benchmark.lengths=[512]"], ["benchmark.lengths", "512"]),
    "too many nodes": (["--set", "compensation.head.nodes=64"], ["64 nodes"]),
    "wrong device": (["--device", "tpu"], ["--device 'tpu'"]),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence_with_exit_code_2_and_leaves_nothing(tiny_task, tmp_path, command, monkeypatch, case):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *arguments)
    assert (code, stdout) == (2, "")
    assert all(word in stderr for word in words), stderr
    assert len(stderr.strip().splitlines()) == 1
    assert stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,label\n", ["no rows", "own.csv"]),
        ("text,label\n" + "".join(f"a {letter},1\n" for letter in "bcdefghijk"), ["single class", "own.csv"]),
        ("text,label\na b,1\nc d,7\n", ["7", "own.csv", "label"]),
    ],
)
def test_bad_training_files_are_told(tiny_task, tmp_path, command, text, words):
    (tmp_path / "own.csv").write_text(text)
    recipe, out = tiny_task / "recipe.yaml", tmp_path / "run"
    code, _, stderr = command("run", recipe, "--out", out, "--set", f"data.train={tmp_path}/own.csv")
    assert code == 2
    assert all(word in stderr for word in words), stderr
    assert not out.exists()


def test_output_in_use_or_foreign_is_refused(tiny_task, tmp_path, command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    assert "holds other files" in command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "mine")[2]
    (tmp_path / "busy" / ".stages").mkdir(parents=True)
    with FileLock(tmp_path / "busy" / ".stages" / "lock"):
        code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "busy")
    assert code == 2
    assert "another run is using this folder" in stderr


def test_a_model_inside_its_own_run_directory_is_refused(finished, tiny_task, command):
    out = finished[0]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--set", f"model.path={out}/model")
    assert (code, "lies in the run directory" in stderr) == (2, True)


def test_export_and_bench_refuse_nonsense(tiny_task, tmp_path, command):
    (tmp_path / "file").write_text("x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.onnx").write_bytes(b"no graph")
    for arguments, words in (
        (("export", tiny_task / "model", "--out", tmp_path / "file", "--variant", "fp32"), "cannot be written"),
        (("export", tmp_path, "--out", tmp_path / "o"), "no config.json"),
        (("export", tiny_task / "model", "--out", tmp_path / "o", "--variant", "fp64"), "fp64"),
        (("bench", tmp_path / "nothing"), "neither a model directory"),
        (("bench", tmp_path / "bare"), "no config.json"),
        (("bench", tiny_task / "model", "--length", "512"), "longest input"),
        (("bench", tiny_task / "model", "--batch", "0"), "batch_sizes"),
        (("report", tmp_path), "result.json"),
    ):
        code, _, stderr = command(*arguments)
        assert code == 2, stderr
        assert words in stderr
    assert not list(tmp_path.glob("o/*"))


def test_a_full_disk_is_told_and_the_run_resumes(tiny_task, tmp_path, command, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("compressor.stages.model.model.save_model", full)
        code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out)
    assert code == 2
    assert "the disk is full (model.safetensors)" in stderr
    assert not (out / "model").exists()
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", out, "--json")
    assert code == 0
    kept = [stage["name"] for stage in json.loads(stdout)["stages"] if stage["cached"]]
    assert kept == ["scores", "tail", "timing", "plan"]


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", LONG, "x"],
        ["validate", LONG],
        ["validate", "RECIPE", "--set", f"model.path={LONG}"],
        ["validate", "RECIPE", "--set", f"data.train={LONG}.csv"],
        ["validate", "RECIPE", "--set", f"data={{task: sst2, source: {LONG}}}"],
        ["plan", "RECIPE", "--out", LONG],
        ["report", LONG],
        ["compare", LONG, "other"],
        ["bench", LONG],
        ["export", "MODEL", "--out", LONG],
        ["analyze", "roles", LONG],
        ["analyze", "roles", "MODEL", "--out", LONG],
    ],
)
def test_a_place_that_the_system_refuses_is_told(tiny_task, command, arguments):
    names = {"RECIPE": tiny_task / "recipe.yaml", "MODEL": tiny_task / "model"}
    code, _, stderr = command(*(names.get(word, word) for word in arguments))
    assert (code, stderr.count("\n"), "our fault" in stderr) == (2, 1, False), stderr


def test_our_own_faults_end_with_1_and_a_traceback_only_on_demand(tiny_task, tmp_path, command, monkeypatch):
    def broken(*_arguments, **_options):
        raise RuntimeError("parity failure: made up")

    monkeypatch.setattr("compressor.stages.predictions.check_parity", broken)
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run")
    assert (code, "parity failure: made up" in stderr, "Traceback" in stderr) == (1, True, False)
    with pytest.raises(RuntimeError, match="made up"):
        command("--debug", "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run")


def test_version_and_both_module_names():
    said = f"compressor {version('compressor')}"
    for module in ("compressor", "compressor.cli"):
        done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == said


@pytest.mark.slow
def test_bytes_that_are_no_text_and_terminals_that_know_few_signs(tiny_task):
    def call(*arguments, encoding="utf-8"):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": encoding}
        done = subprocess.run(
            [sys.executable, "-m", "compressor", *arguments], capture_output=True, env=environment, check=False
        )
        return done.returncode, done.stdout, done.stderr

    code, _, stderr = call("explain", os.fspath(tiny_task / "model"), b"caf\xe9")
    assert (code, b"bytes that are no UTF-8 text" in stderr, b"Traceback" in stderr) == (2, True, False)
    code, stdout, stderr = call("explain", os.fspath(tiny_task / "model"), "a b \u03c9", encoding="ascii")
    assert (code, stderr) == (0, b"")
    assert stdout.isascii()
    for encoding in ("ascii", "latin-1"):  # what the terminal lacks is escaped as JSON has it
        told = call("explain", os.fspath(tiny_task / "model"), "a caf\u00e9 \U0001f600", "--json", encoding=encoding)
        assert (told[0], json.loads(told[1].decode())["texts"]) == (0, ["a caf\u00e9 \U0001f600"]), told[2]
    code, _, stderr = call("validate", os.fspath(tiny_task / "caf\u00e9.yaml"), encoding="ascii")
    assert (code, b"no such recipe file" in stderr, b"Traceback" in stderr) == (2, True, False)


@pytest.mark.parametrize("words", [["schema"], ["analyze", "errors", "x.yaml"]])
def test_an_interruption_says_how_to_go_on(command, monkeypatch, words):
    def interrupt(*_arguments, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr("compressor.cli.machine.commands.print_json", interrupt)
    monkeypatch.setattr("compressor.pipeline.analyses.analyze_errors_of", interrupt)
    code, _, stderr = command(*words)
    assert (code, stderr) == (130, "interrupted; run the same command again to resume.\n")


def test_a_scheduler_that_ends_a_command_is_told_so_too(command, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)

    def end(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("went on")

    monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", end)
    code, _, stderr = command("run", "recipes/demo.yaml")
    assert (code, stderr.splitlines()[-1]) == (143, "terminated; run the same command again to resume.")
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("number", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_that_meets_compiled_code_ends_a_command_as_any_other(command, monkeypatch, number, code, word):
    class Row:
        """A sequence within which the signal comes: torch makes an error of its own of what the handler raises."""

        def __len__(self):
            return 1

        def __getitem__(self, place):
            if place:
                raise IndexError
            os.kill(os.getpid(), getattr(signal, number))
            return 1.0

    monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", lambda *_, **__: torch.tensor(Row()))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        found, _, stderr = command("run", "recipes/demo.yaml")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (found, stderr.splitlines()[-1]) == (code, f"{word}; run the same command again to resume.")


def test_a_signal_that_is_to_be_ignored_stays_so(command, monkeypatch):
    def end(*_arguments, **_options):
        os.kill(os.getpid(), signal.SIGINT)
        raise UserError("it went on.")

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr("compressor.pipeline.pipeline.run_recipe", end)
        code, _, stderr = command("run", "recipes/demo.yaml")
        assert (code, stderr.splitlines()[-1]) == (2, "error: it went on.")
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


KILL = """
import dataclasses, os, signal, sys
import compressor.pipeline.pipeline as pipeline
from compressor.cli.app import main
name = sys.argv.pop(1)
def killed(compute):
    def run(self, folder):
        compute(self, folder)
        os.kill(os.getpid(), signal.SIGKILL)
    return run
pipeline.STAGES = tuple(
    dataclasses.replace(s, compute=killed(s.compute)) if s.name == name else s for s in pipeline.STAGES
)
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sets", "stages"),
    [
        (("finetune={epochs: 1, batch_size: 16}", "selection.audit=true"), 10),
        (
            (
                "selection={units: [heads, width], budget: {keep: 0.85}}",
                "compensation.refit={layers: later, blocks: both}",
            ),
            9,
        ),
    ],
)
def test_killed_in_every_stage_it_resumes_to_the_same_result(tiny_task, tmp_path, command, sets, stages):
    recipe = tiny_task / "recipe.yaml"
    # the form of the tail by name: the measured choice may differ from run to run
    tuned = [part for pair in (*sets, "export.cls_only_tail=reassociated") for part in ("--set", pair)]
    code, stdout, _ = command("run", recipe, "--out", tmp_path / "whole", "--json", *tuned)
    assert code == 0
    names = [stage["name"] for stage in json.loads(stdout)["stages"]]
    assert len(names) == stages
    whole = timeless(json.loads(stdout))
    for name in names:
        arguments = [sys.executable, "-c", KILL, name, "run", str(recipe), "--out", str(tmp_path / "killed"), *tuned]
        done = subprocess.run(
            arguments, capture_output=True, check=False, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        assert not (tmp_path / "killed" / "result.json").exists()
    code, stdout, _ = command("run", recipe, "--out", tmp_path / "killed", "--json", *tuned)
    assert code == 0
    assert [stage["cached"] for stage in json.loads(stdout)["stages"]] == [True] * (len(names) - 1) + [False]
    assert timeless(json.loads(stdout)) == whole
