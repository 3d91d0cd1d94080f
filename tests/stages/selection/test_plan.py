"""A whole run with a budget: parts of layers go, and everything that a run makes says and holds it."""

import json
import shutil

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from compressor import load_model
from compressor.compensation import distill as distillation
from compressor.compensation.refits import amounts
from compressor.export.optimize import expected_nodes
from compressor.files import read_json
from compressor.measurement.cost import layers_saved, shape_flops
from compressor.measurement.predictions import predict
from compressor.model.families import family_of
from compressor.model.load import read_config
from compressor.model.sublayers import shape_of
from compressor.model.units import Shape
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare
from compressor.selection.budget.units import keys_of

BUDGET = "selection={units: [ffn, attention, width, heads], widths: [0.5], budget: {keep: 0.6}, beam_width: 3}"
REFIT = "compensation.refit={layers: later, blocks: both}"
QUICK = "export={variants: [fp32, optimized], cls_only_tail: reassociated}", REFIT


def sets(*values):
    return [part for value in values for part in ("--set", value)]


@pytest.fixture(scope="module")
def finished(tiny_task, tmp_path_factory):
    """Return the folder of a finished run with a budget."""
    from compressor.cli.app import main

    out = tmp_path_factory.mktemp("units") / "run"
    with pytest.raises(SystemExit) as end:
        main(["run", str(tiny_task / "recipe.yaml"), "--out", str(out), *sets(BUDGET, *QUICK)])
    assert not end.value.code
    return out


def test_the_plan_keeps_the_budget_and_the_model_is_what_it_says(finished):
    result = json.loads((finished / "result.json").read_text())
    plan, compressed = result["plan"], result["variants"]["compressed"]
    assert plan["mix"]["kept"] <= 0.6
    assert plan["mix"]["kept"] == pytest.approx(compressed["encoder_flops"] / shape_flops(Shape.even(3, 64, 4), 32))
    assert plan["skip"] == [unit for unit in plan["units"] if isinstance(unit, int)]
    model = load_model(finished / "model")
    wanted = Shape(tuple(plan["mix"]["ffn_widths"]), tuple(plan["mix"]["heads"]), 4)
    assert shape_of(model, family_of("bert")) == wanted
    assert compressed["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    parts = sorted(keys_of(plan["units"]))
    assert [(block["layer"], block["part"]) for block in result["blocks"]] == parts
    assert len(plan["mix"]["parts"]) == 3 * 6  # attention, ffn, ffn:32, heads:1, heads:2, heads:3
    assert [part["gain"] is None for part in plan["mix"]["parts"][:6]] == [False, False, True, True, True, True]
    assert all(part["damage"] >= 0 for part in plan["mix"]["parts"])
    assert {entry["block"] for entry in result["refit"]} == {"attention", "ffn"}
    assert (
        plan["ranked"] is None
        or plan["regret"]["agreement"] == plan["chosen"]["agreement"] - plan["ranked"]["agreement"]
    )
    assert parts, "the budget was met by whole layers alone, which shows nothing here"


def test_stock_class_files_and_our_loading_agree(finished, tiny_task):
    recipe = load_recipe(finished / "recipe.yaml")
    encodings = prepare(recipe, finished, "cpu", silent).evaluation
    stock = AutoModelForSequenceClassification.from_pretrained(finished / "model").eval()
    ours = predict(load_model(finished / "model"), encodings)
    assert np.abs(predict(stock, encodings) - ours).max() < 1e-4
    result = json.loads((finished / "result.json").read_text())
    assert all(entry["agreement"] == 1.0 and entry["max_abs"] < 1e-4 for entry in result["parity"].values())
    wanted = {
        kind: count for kind, count in expected_nodes(read_config(finished / "model"), tail=True).items() if count
    }
    assert result["fused_nodes"]["optimized"] == wanted


def test_the_report_says_what_went_and_how_to_load_it(finished):
    page, card = ((finished / name).read_text() for name in ("report.html", "model/README.md"))
    plan = json.loads((finished / "result.json").read_text())["plan"]
    assert (
        "mixes of feed-forward blocks, attention blocks, FFN neurons, attention heads tried within the budget" in page
    )
    assert "What each part saves and costs alone" in page
    assert (finished / "figures" / "mix.png").exists()
    assert page.count(">goes<") == len(keys_of(plan["units"]))
    mix = plan["mix"]
    zeros = not Shape(tuple(mix["ffn_widths"]), tuple(mix["heads"]), 4).uniform()
    assert zeros, "the mix has one width for all, which shows nothing here"
    assert "time is saved by the ONNX files and by compressor.load_model alone" in page
    assert 'compressor.load_model("path/to/this/folder")' in card
    for unit in plan["units"]:
        assert f"<td>{', '.join(map(str, plan['units']))}</td>" in page, unit


def test_times_of_parts_predict_the_speed(finished):
    result = json.loads((finished / "result.json").read_text())
    (cell,) = result["timing"]["cells"]
    assert set(cell["parts_ms"]) == {"ffn", "attention", "ffn:32", "heads:1", "heads:2", "heads:3"}
    assert (cell["width"], cell["heads"]) == (64, 4)
    assert all(value >= 0 for value in cell["parts_ms"].values())
    saved = layers_saved(cell, result["plan"]["units"], result["plan"]["layers"])
    predicted = max(cell["full_ms"] - saved * cell["layer_ms"], 0.1 * cell["full_ms"])
    assert result["prediction"][0]["predicted_speedup"] == pytest.approx(cell["full_ms"] / predicted)


def test_a_second_run_keeps_every_stage_and_compare_reads_it(finished, tiny_task, command):
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", finished, "--json", *sets(BUDGET, *QUICK))
    assert code == 0
    assert all(stage["cached"] for stage in json.loads(stdout)["stages"])
    code, stdout, _ = command("plan", tiny_task / "recipe.yaml", "--out", finished, *sets(BUDGET, *QUICK))
    assert code == 0
    assert "within the budget" in " ".join(stdout.replace("│", " ").split())


def test_a_second_budget_takes_the_fits_of_the_first(finished, tiny_task, tmp_path, command, monkeypatch):
    def never(*_):
        raise AssertionError("the order of a block was looked for again")

    plans = []
    for changed in (False, True):
        out = tmp_path / f"run-{changed}"
        if changed:
            shutil.copytree(finished, out)
            for name in ("ranked_neurons", "ranked_heads"):
                monkeypatch.setattr(amounts, name, never)
        other = BUDGET.replace("0.6", "0.7")
        code, _, stderr = command("plan", tiny_task / "recipe.yaml", "--out", out, "--json", *sets(other))
        assert code == 0, stderr
        plan = read_json(out / "plan.json")
        plans.append({name: value for name, value in plan.items() if name != "sets_known" and "seconds" not in name})
    assert plans[0] == plans[1]


def test_a_budget_of_time_is_planned_from_timed_parts(tiny_task, tmp_path, command):
    budget = "selection={units: [layer, ffn], budget: {keep: 0.8, of: latency}}"
    code, stdout, _ = command("plan", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json", *sets(budget))
    assert code == 0
    found = json.loads(stdout)
    (cell,) = found["timing"]["cells"]
    saved = layers_saved(cell, found["plan"]["units"], 3)
    assert found["plan"]["mix"]["kept"] == pytest.approx(1 - saved / 3)
    assert found["plan"]["mix"]["kept"] <= 0.8


def test_a_mix_is_distilled_from_a_checkpoint_of_its_own(tiny_task, tmp_path, command, monkeypatch):
    timed = "benchmark={batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 2, max_seconds: 1, footprint: false}"
    trained = "compensation={refit: closed_form, distill: {epochs: 1, lr: 1.0e-3, logits_weight: 1, batch_size: 20, checkpoint_minutes: 1.0e-9}}"

    def run(share):
        mix = f"selection={{units: [width], widths: [0.5, 0.25], budget: {{keep: {share}}}, beam_width: 3}}"
        values = sets(mix, trained, "export.variants=[]", timed)
        return command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json", *values)

    real, calls = distillation.logits_loss, []

    def counted(*values):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*values)

    monkeypatch.setattr(distillation, "logits_loss", counted)
    assert run(0.95)[0] != 0
    assert (tmp_path / "run" / ".stages" / "checkpoints" / "distill").exists()
    calls[:] = [1] * 4
    code, stdout, _ = run(0.85)  # other neurons go: what was learned before is of no use
    assert code == 0
    result = json.loads(stdout)
    assert len(calls) - 4 == -(-result["distill"]["rows"] // 20)
    assert result["plan"]["skip"] == []
    model = load_model(tmp_path / "run" / "model")
    widths = shape_of(model, family_of("bert")).ffn_widths
    assert widths == tuple(result["plan"]["mix"]["ffn_widths"])
    assert min(widths) < 64
    assert not (tmp_path / "run" / ".stages" / "checkpoints" / "distill").exists()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ("selection={budget: {keep: 0.1}}", "selection.budget.keep: 0.1 cannot be reached with units layer"),
        ("selection={units: [ffn], budget: {keep: 0.1}}", "the least that can remain is"),
        ("selection={units: [ffn]}", "say with budget.keep how much may remain"),
        ("selection={units: [head], budget: {keep: 0.5}}", "selection.units"),
        ("selection={units: [width], widths: [-0.5], budget: {keep: 0.5}}", "selection.widths"),
    ],
)
def test_bad_budgets_end_with_one_sentence(tiny_task, tmp_path, command, values, words):
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *sets(values))
    assert code == 2
    assert words in stderr.replace("\n", " ")
    assert "Traceback" not in stderr
    assert not (tmp_path / "run").exists()


def with_widths(tiny_task, folder, widths):
    """Return a copy of the task's model whose configuration announces `widths`."""
    shutil.copytree(tiny_task / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "compressor": {"ffn_widths": widths}}))
    return f"model.path={folder}"


@pytest.mark.parametrize(
    ("widths", "words"),
    [
        ("64", "give a list with one width for each of the 3 layers"),
        ([8], "1 widths for 3 layers"),
        ([64, -8, 64], "layer 2 has width -8"),
    ],
)
def test_widths_in_a_config_are_read_before_anything_else(tiny_task, tmp_path, command, widths, words):
    model = with_widths(tiny_task, tmp_path / "model", widths)
    code, _, stderr = command("plan", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *sets(BUDGET, model))
    assert code == 2
    assert words in " ".join(stderr.split())
    assert not (tmp_path / "run").exists()
