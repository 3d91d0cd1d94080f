"""Distillation as part of a run: killed and resumed, kept or not, reported, refused, planned."""

import json

import torch
from students import same
from transformers import AutoModelForSequenceClassification

from compressor.compensation import distill as distillation
from compressor.model.training.checkpoint import Checkpoint
from compressor.pipeline.dry_run import dry_run
from compressor.recipe.file import load_recipe
from compressor.report.build import build_report

SETS = (
    "selection={search: fixed, skip: [2]}",
    "export.variants=[]",
    "benchmark={batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 2, max_seconds: 1, footprint: false}",
)


def arguments(task, out, distill_section, *more):
    sets = (*SETS, f"compensation.distill={distill_section}", *more)
    return ("run", task / "recipe.yaml", "--out", out, "--json", *(part for value in sets for part in ("--set", value)))


def test_a_run_goes_on_where_it_was_killed_and_says_what_was_done(tiny_task, tmp_path, command, monkeypatch):
    section = "{epochs: 3, lr: 1.0e-3, batch_size: 20, logits_weight: 1, gold_weight: 0.5, patience: 100, checkpoint_minutes: 1.0e-9}"
    code, stdout, _ = command(*arguments(tiny_task, tmp_path / "whole", section))
    assert code == 0
    whole = json.loads(stdout)["distill"]
    assert whole["rows"] == whole["labelled"] > 0
    assert [set(epoch) for epoch in whole["losses"]] == [{"logits", "states", "gold"}] * 3
    assert whole["kept"]
    assert whole["kl_after"] < whole["kl_before"]

    calls = {"left": 5}
    real = distillation.logits_loss

    def dying(*values):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return real(*values)

    out = tmp_path / "killed"
    monkeypatch.setattr(distillation, "logits_loss", dying)
    assert command(*arguments(tiny_task, out, section))[0] != 0
    progress = json.loads((out / ".stages" / "checkpoints" / "distill" / "progress.json").read_text())
    assert progress["progress"]["done"] == 5
    assert not (out / "model").exists()
    calls["left"] = 10**6
    code, stdout, _ = command(*arguments(tiny_task, out, section))
    assert code == 0
    steps = 3 * -(-whole["rows"] // 20)
    assert 10**6 - calls["left"] == steps - 5
    result = json.loads(stdout)
    assert result["distill"] == whole == json.loads((out / "model.json").read_text())["distill"]
    assert not (out / ".stages" / "checkpoints" / "distill").exists()
    one, other = (
        AutoModelForSequenceClassification.from_pretrained(path / "model") for path in (tmp_path / "whole", out)
    )
    assert same(one.state_dict(), other.state_dict())
    assert type(one).__name__ == "BertForSequenceClassification"
    assert "distillation" in (out / "model" / "README.md").read_text(encoding="utf-8")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert 'id="distill"' in page
    assert "Not kept" not in page
    assert whole["held"] > 0
    assert whole["curve"][-1][0] == whole["steps"] == steps
    assert f"lowest after step {whole['kept_step']} of {steps}" in page
    assert (out / "figures" / "distill.png").is_file()


def test_a_fine_tuning_that_was_killed_in_a_new_run_goes_on(tiny_task, tmp_path, command, monkeypatch):
    out, calls = tmp_path / "run", {"left": 2}
    real = torch.nn.functional.cross_entropy

    def dying(*values):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(Checkpoint, "due", True)
    monkeypatch.setattr(torch.nn.functional, "cross_entropy", dying)
    sets = [*SETS, "finetune={epochs: 2, batch_size: 40}", "compensation.head=null"]
    run = ("finetune", tiny_task / "recipe.yaml", "--out", out, *(part for value in sets for part in ("--set", value)))
    assert command(*run)[0] != 0
    assert (out / ".stages" / "checkpoints" / "teacher" / "progress.json").is_file()
    calls["left"] = 1000
    code, _, _ = command(*run)
    assert code == 0
    assert 1000 - calls["left"] == 2 * 2 - 2  # 80 rows of train, two batches an epoch
    assert not (out / ".stages" / "checkpoints" / "teacher").exists()


def test_a_distillation_that_does_harm_is_not_kept(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    harmful = "{epochs: 1, lr: 0.5, holdout: 0, logits_weight: 0.0, states_weight: 0.0, gold_weight: 1.0}"
    code, stdout, _ = command(*arguments(tiny_task, out, harmful, "compensation.head=null"))
    assert code == 0
    assert not json.loads(stdout)["distill"]["kept"]
    plain = tmp_path / "plain"
    assert command(*arguments(tiny_task, plain, "null", "compensation.head=null"))[0] == 0
    one, other = (AutoModelForSequenceClassification.from_pretrained(path / "model") for path in (out, plain))
    assert same(one.state_dict(), other.state_dict())
    assert "Not kept" in (out / "report.html").read_text(encoding="utf-8")
    assert "distillation)" not in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_a_start_that_nothing_beats_is_said_to_stay(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    harmful = "{epochs: 1, lr: 0.5, logits_weight: 1, patience: 1}"
    code, stdout, _ = command(*arguments(tiny_task, out, harmful, "compensation.head=null"))
    assert code == 0
    made = json.loads(stdout)["distill"]
    assert (made["kept"], made["kept_step"]) == (False, 0)
    assert made["kl_before"] == made["kl_after"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert f"no step of {made['steps']} lowered the KL" in page
    assert "Not kept: nothing was nearer to the full model than the start" in page
    assert "distillation)" not in (out / "model" / "README.md").read_text(encoding="utf-8")


def test_results_of_earlier_versions_have_a_report(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    assert command(*arguments(tiny_task, out, "{epochs: 1, lr: 1.0e-3}"))[0] == 0
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    for name in ("held", "curve", "kept_step", "steps"):
        del result["distill"][name]
    (out / "result.json").write_text(json.dumps(result), encoding="utf-8")
    build_report(out)
    assert "held out" not in (out / "report.html").read_text(encoding="utf-8")
    assert not (out / "figures" / "distill.png").exists()


def test_gold_labels_without_labelled_text_are_refused_before_the_run(tiny_task, tmp_path, command):
    out = tmp_path / "run"
    section = "{gold_weight: 1.0}"
    code, _, stderr = command(*arguments(tiny_task, out, section, "data.label=null", "separability.labels=teacher"))
    assert code == 2
    assert "compensation.distill.gold_weight" in stderr
    assert not out.exists()


def test_the_dry_run_names_the_work(tiny_task, tmp_path):
    recipe = load_recipe(tiny_task / "recipe.yaml", ["compensation.distill={epochs: 2, text: [calibration]}"])
    costs = {stage.name: stage.cost for stage in dry_run(recipe, tmp_path / "run", device="cpu")}
    assert costs["model"] == "distillation: at most 2 epochs over 60 rows with both models, 4 head nodes"
