"""The guarded early exit through the command line: result, report, bench, resume."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from cascade_runs import evaluation, read
from report_cases import check_pages

import compressor.run.rundir
import compressor.stages.cascade.build
from compressor.cascade.runtime import CascadeClassifier
from compressor.cascade.thresholds import allowed_flips
from compressor.cli.recipes.tables import verdict
from compressor.measurement.statistics import share_interval
from compressor.pipeline.pipeline import stage_keys
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.report.wording.cascade import cascade_line
from compressor.run.checks import prepare

CHECKED = "report.html", "report.md", "result.json", "cascade.json", "figures/cascade.png", "onnx/cascade/front.onnx"


def test_a_run_with_a_cascade_writes_everything(full):
    assert all((full / name).is_file() for name in CHECKED)
    page, markdown = ((full / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    check_pages(page, markdown, 135)
    for text in (page, markdown):
        assert "Guarded early exit" in text
        assert "drawn like the calibration texts" in text
    assert "Classifier(&#34;onnx/cascade&#34;)" in page
    assert "onnx/cascade," not in page  # opens with the runtime, not with Optimum


def test_a_run_is_judged_by_its_cascade(full):
    result = read(full)
    versus = result["variants"]["onnx_cascade"]["versus_full"]
    page, markdown = ((full / name).read_text(encoding="utf-8") for name in ("report.html", "report.md"))
    head = f"{versus['tier'].capitalize()}: guarded early exit, all 3 layers kept, "
    assert f"<h1>{head}" in page
    assert head in markdown
    changed = f"{versus['flips']} of {versus['rows']} predictions changed"
    assert changed in markdown
    assert verdict(result).startswith(f"onnx_cascade: {versus['tier']} (")
    assert changed in verdict(result)
    for text in (page, markdown):
        assert "which the recipe says the model was not trained on" in text


def test_result_equals_what_the_files_say(full):
    result, made = read(full), read(full, "cascade.json")
    cascade, variant = result["cascade"], result["variants"]["onnx_cascade"]
    assert {key: cascade[key] for key in made} == made
    source = "cut out of the training file, which the recipe says the model was not trained on"
    assert cascade["certificate"]["source"] == result["data"]["provenance"]["guard"] == source
    assert read(full, "onnx/cascade/cascade.json")["certified_on"] == f"150 texts {source}"
    with np.load(full / "cascade_evaluation.npz") as file:
        logits, left = file["logits"], file["exits"]
    with np.load(full / "predictions.npz") as file:
        flips = int((logits.argmax(1) != file["full"].argmax(1)).sum())
        assert variant["accuracy"] == pytest.approx((logits.argmax(1) == file["labels"]).mean())
    measured, rows = cascade["evaluation"], len(left)
    assert (measured["rows"], measured["flips"], variant["versus_full"]["flips"]) == (rows, flips, flips)
    assert tuple(measured["flip_ci95"]) == pytest.approx(share_interval(flips, rows))
    assert measured["shares"] == [np.mean(left == part) for part in range(3)]
    # work by hand: width 32, FFN 64, 4 heads; a token is a letter, between [CLS] and [SEP]
    lengths = np.array([len(row.ids) for row in CascadeClassifier(full / "onnx/cascade").tokenize(evaluation(result))])
    layer = lengths * (8 * 32**2 + 4 * 32 * 64) + 4 * lengths**2 * 32
    tried = 8 * 32**2 + 4 * 32 * 64 + 4 * 4 * lengths * 32
    # the last layer computes one row, which costs what an exit costs that reads it, in the opponent as well
    spent = np.choose(left, [layer + tried, 2 * layer + 2 * tried, 2 * layer + 3 * tried])
    assert measured["work"] == pytest.approx(spent.sum() / (2 * layer + tried).sum())
    assert measured["compute_ratio"] == pytest.approx(1 / measured["work"])
    low, high = measured["compute_ratio_ci95"]
    assert low <= measured["compute_ratio"] <= high
    spared = result["variants"]["full_onnx_optimized"]["encoder_flops"]
    if result["tail"]["form"] == "reassociated":
        assert variant["encoder_flops"] == round(measured["work"] * spared)
    assert variant["bytes"] == sum((full / "onnx/cascade" / f"{name}.onnx").stat().st_size for name in PARTS)
    assert variant["parameters"] > result["variants"]["full"]["parameters"]  # two layers stand there twice
    assert {row["length"] for row in variant["latency"]} == {"workload"}
    assert {row["against"] for row in variant["latency"]} == {"full_onnx_optimized"}


PARTS = "front", "middle", "back"


def test_the_certificate_is_that_of_the_finished_files(full):
    certificate, path = (read(full, "cascade.json")[key] for key in ("certificate", "path"))
    assert certificate["met"]
    assert certificate["rows"] == 150
    assert certificate["bound"] <= 0.1
    assert certificate["flips"] <= allowed_flips(150, 0.1, 0.95)
    passed = path[certificate["tested"] - 2] if path[certificate["tested"] - 1]["bound"] > 0.1 else path[-1]
    assert passed["flips"] == pytest.approx(certificate["flips"] / 150)
    assert passed["work"] == pytest.approx(certificate["work"])
    settings = read(full / "onnx/cascade", "cascade.json")
    assert (
        settings["thresholds"]
        == certificate["thresholds"]
        == [exit["threshold"] for exit in read(full)["cascade"]["exits"]]
    )


def test_answers_of_the_runtime_are_those_of_the_evaluation(full):
    classify = CascadeClassifier(full / "onnx/cascade")
    answers = classify(evaluation(read(full)))
    with np.load(full / "cascade_evaluation.npz") as file:
        names = read(full)["data"]["label_names"]
        assert [answer.label for answer in answers] == [names[label] for label in file["logits"].argmax(1)]
        assert [answer.layer for answer in answers] == [[1, 2, 3][part] for part in file["exits"]]


def test_a_second_run_computes_nothing_and_says_the_line(full, task, command):
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", full, "--device", "cpu")
    assert code == 0
    assert "cascade: kept from before" in stdout + stderr
    assert cascade_line(read(full)["cascade"]) in " ".join(stdout.split())
    code, stdout, _ = command("plan", task / "recipe.yaml", "--out", full, "--device", "cpu", "--json")
    costs = {stage["name"]: stage["cost"] for stage in json.loads(stdout)["stages"]}
    assert costs["cascade"] == "exits behind layers 1 and 2 fitted on 330 texts, certified on 150 calibration rows"
    assert costs["cascade-evaluation"].startswith("60 evaluation rows, 2 cells")


def test_a_killed_cascade_stage_is_made_again_alone(full, task, tmp_path, command, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(full, out)
    sets = "--set", "cascade.exits=[2]"

    def killed(*_):
        (parts,) = (out / compressor.run.rundir.STAGES_FOLDER).glob("cascade.tmp")
        assert parts.is_dir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(compressor.stages.cascade.build, "write_parts", killed)
        code, _, _ = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
        assert code == 130
    assert not (out / "result.json").exists()
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *sets)
    assert code == 0
    assert "latency: kept from before" in stdout + stderr  # the cascade is no part of what made the model
    assert [entry["layer"] for entry in read(out)["cascade"]["exits"]] == [2]
    assert not (out / "onnx/cascade/middle.onnx").exists()


def test_bench_replays_texts_through_cascades_and_leaves_them_out_without(full, task, tmp_path, command):
    limits = "--batch", 2, "--min-seconds", 0, "--min-runs", 5, "--max-seconds", 5, "--device", "cpu", "--no-footprint"
    parts = str(full / "onnx/cascade")
    code, stdout, stderr = command("bench", full, *limits, "--texts", task / "validation.csv", "--json")
    assert code == 0, stderr
    measured = json.loads(stdout)
    assert measured["left_out"] == []
    assert {row["length"] for rows in measured["latency"].values() for row in rows} == {"workload"}
    assert measured["latency"][parts][0]["against"] == str(full / "full-onnx/optimized")
    assert [entry["layer"] for entry in measured["cascades"][parts]["exits"]] == [1, 2, 3]
    code, stdout, stderr = command("bench", full, *limits, "--length", 8, "--json")
    assert (code, json.loads(stdout)["left_out"]) == (0, [parts])
    assert "left out, a cascade is timed on real texts alone; give some with --texts FILE" in stderr
    (tmp_path / "texts.txt").write_text("a b c\n\nc d\n", encoding="utf-8")
    code, stdout, stderr = command("bench", parts, *limits, "--texts", tmp_path / "texts.txt")
    assert (code, "answered" in stdout) == (0, True)
    for arguments, words in (
        ((parts,), "--texts FILE"),
        ((parts, "--texts", tmp_path / "none.txt"), "none.txt"),
        ((parts, "--texts", task / "validation.csv", "--text-column", "txt"), "did you mean 'text'"),
        ((parts, "--text-column", "text"), "not given"),
        ((parts, "--texts", task / "validation.csv", "--length", 8), "give one of the two"),
    ):
        code, _, stderr = command("bench", *arguments, *limits)
        assert (code, words in stderr) == (2, True), stderr


def test_cascades_of_two_runs_can_be_compared(full, tmp_path, command):
    other = tmp_path / "other"
    shutil.copytree(full, other)
    code, stdout, stderr = command("compare", full, other, "--variant", "onnx_cascade", "--json")
    assert code == 0, stderr
    compared = json.loads(stdout)
    assert [run["skip"] for run in compared["runs"]] == [[], []]
    assert compared["paired"][0]["flips"] == 0


def test_goals_can_be_judged_on_real_lengths_alone(full, task, tmp_path, command):
    sets = "benchmark.lengths=[]", "goals.max_flips=0.2", "goals.min_speedup=0.01", "benchmark.batch_sizes=[1]"
    arguments = [part for name in sets for part in ("--set", name)]
    out = tmp_path / "run"
    shutil.copytree(full, out)
    code, _, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *arguments)
    assert (code, stderr.count("goal missed")) == (0, 0), stderr


def test_stages_are_computed_anew_where_their_text_or_device_changed(task, tmp_path):
    distilled = load_recipe(task / "recipe.yaml", ["compensation.distill={epochs: 1}"])
    run = prepare(distilled, tmp_path / "run", "cpu", silent)
    keys = stage_keys(run)
    often = prepare(distilled.model_copy(update={"compensation": distilled.compensation.model_copy(update={
        "distill": distilled.compensation.distill.model_copy(update={"checkpoint_minutes": 9.0})})}),
        tmp_path / "run", "cpu", silent)  # fmt: skip
    assert stage_keys(often)["model"] == keys["model"]
    run.data = replace(run.data, train=run.data.train.take(list(range(10))))
    assert stage_keys(run)["model"] != keys["model"]
    run = prepare(distilled, tmp_path / "run", "cpu", silent)
    run.device = "cuda"
    changed = stage_keys(run)
    assert changed["cascade"] != keys["cascade"]
    assert changed["plan"] == keys["plan"]


def test_without_labels_the_cascade_is_certified_all_the_same(task, tmp_path, command):
    for name in ("train", "validation"):
        lines = (task / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        (tmp_path / f"{name}.csv").write_text("\n".join(line.split(",")[0] for line in lines) + "\n", encoding="utf-8")
    sets = [f"data.{name}={tmp_path}/{name}.csv" for name in ("train", "validation")]
    sets += ["data.label=null", "separability.labels=teacher", "benchmark.workload=false"]
    arguments = [part for name in sets for part in ("--set", name)]
    out = tmp_path / "run"
    code, _, stderr = command("run", task / "recipe.yaml", "--out", out, "--device", "cpu", *arguments)
    assert code == 0, stderr
    result = read(out)
    assert result["variants"]["onnx_cascade"]["accuracy"] is None
    assert result["variants"]["onnx_cascade"]["latency"] == []
    assert result["cascade"]["certificate"]["met"]
    check_pages(*((out / name).read_text(encoding="utf-8") for name in ("report.html", "report.md")), 110)
