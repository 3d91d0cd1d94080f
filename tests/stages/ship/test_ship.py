"""A run that decides what to ship, whole, on a tiny random model."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import ModelCard

from compressor.recipe.compression import Recipe
from compressor.recipe.file import load_recipe
from compressor.recipe.ship import BaselineSpec
from compressor.report.formats import percent, with_interval
from compressor.report.wording.answer import answer_line
from compressor.runtime import Classifier
from compressor.stages.ship.built import built
from compressor.stages.ship.factors import answer_times, steps

SETS = [
    *("--set", "ship.goal=exact", "--set", "data.calibration.seen_in_training=false"),
    *("--set", "compensation.head=null"),
]


@pytest.fixture(scope="module")
def shipped(tiny_task, tmp_path_factory):
    """Return a finished run that may ship what changes nothing, as (folder, result)."""
    from compressor.cli.app import main

    out = tmp_path_factory.mktemp("shipped") / "run"
    with pytest.raises(SystemExit) as end:
        main(["run", str(tiny_task / "recipe.yaml"), "--out", str(out), "--device", "cpu", *SETS])
    assert not end.value.code
    return out, json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_the_answer_names_a_file_that_opens_and_answers_like_the_full_model(shipped):
    out, result = shipped
    answer = result["answer"]
    if answer["path"] is None:  # a model this small may not be faster anywhere
        assert answer["variant"] == "today"
        assert answer["flips"] == 0
    else:
        assert (out / answer["path"]).is_dir()
        assert answer["tier"] == "exact"
    assert answer["met"] is True
    assert {entry["variant"] for entry in result["ship"]["candidates"]} >= {"onnx/optimized"}
    assert result["ship"]["part"] == "guard"


def test_a_plan_says_what_was_searched(shipped, tiny_task, tmp_path, command):
    plan = shipped[1]["plan"]
    assert (plan["search"], plan["sets_evaluated"], plan["units"]) == ("none", 1, [])
    recipe, exact = tiny_task / "recipe.yaml", ("--out", shipped[0], *SETS)
    stages = json.loads(command("plan", recipe, *exact, "--json")[1])["stages"]
    work = {stage["name"]: stage["cost"] for stage in stages}
    assert work["plan"] == "no search, the full model alone over 60 selection rows"
    assert "nothing was searched, all 3 layers stay" in command("plan", recipe, *exact)[1]
    # a goal that no set keeps to: all layers stay, after a search
    near = "--out", tmp_path, *SETS, "--set", "ship={goal: near, max_flips: 0.0001, max_drop: 0.0001, keep: [0.9]}"
    code, stdout, stderr = command("plan", recipe, *near, "--json")
    assert code == 0, stderr
    plan, work = json.loads(stdout)["plan"], {stage["name"]: stage["cost"] for stage in json.loads(stdout)["stages"]}
    assert (plan["search"], plan["units"], plan["sets_evaluated"] > 1) == ("beam", [], True)
    assert work["plan"].startswith(
        "mixes of layer, ffn, attention, width, heads solved for, then at most 27 trials for each budget"
    )
    assert "none that leaves out a part keeps to the goal" in " ".join(command("plan", recipe, *near)[1].split())


def test_the_factors_multiply_to_the_speed_up(shipped):
    answer = shipped[1]["answer"]
    product = np.prod([factor["ratio"] for factor in answer["factors"]]) if answer["factors"] else 1.0
    assert product == pytest.approx(answer["speedup"])
    assert answer["speedup"] == pytest.approx(answer["baseline_mean_ms"] / answer["mean_ms"])


def test_only_what_was_named_is_measured_on_the_evaluation_rows(shipped):
    _, result = shipped
    key = result["answer"]["key"]
    assert set(result["variants"]) <= {"full", "compressed", "full_onnx_optimized", key}


def test_the_line_is_the_same_everywhere(shipped):
    out, result = shipped
    line = answer_line(result["answer"])
    for file in ("report.html", "report.md", "model/README.md"):
        text = (out / file).read_text(encoding="utf-8").replace("\u00a0", " ").replace("\\[", "[")
        assert line in text, file


def test_the_folders_know_their_threads_and_classify_with_them(shipped):
    out, result = shipped
    best = {entry["path"]: entry["threads"] for entry in result["ship"]["candidates"]}
    found = sorted(out.glob("*/*/classifier.json"))
    assert {file.parts[-3] for file in found} == {"onnx", "full-onnx"}
    for file in found:
        threads = best.get(f"{file.parts[-3]}/{file.parts[-2]}")
        settings = json.loads(file.read_text())
        assert (settings["threads"], settings["max_length"], settings["texts"]) == (threads, 32, 1)
        assert (f"It takes {threads} thread" in (file.parent / "README.md").read_text()) == (threads is not None)
        classify = Classifier(file.parent)
        assert (classify.threads, len(classify("a b c"))) == (threads, 1)
    assert any(file.parts[-2] == "alltokens" for file in found)  # what no one timed with several numbers
    assert best["onnx/optimized"] >= 1


def test_the_card_has_what_was_measured_in_words_and_as_metadata(shipped):
    out, result = shipped
    card = ModelCard.load(out / "model" / "README.md")
    own = result["variants"]["compressed"]
    assert {found.metric_type: found.metric_value for found in card.data.eval_results} == {
        "accuracy": own["accuracy"], "f1": own["f1"], "matthews_correlation": own["mcc"]
    }  # fmt: skip
    assert (card.data.pipeline_tag, card.data.library_name) == ("text-classification", "transformers")
    assert (card.data.base_model, card.data.license, card.data.language) == (None, None, None)
    assert f"| Accuracy | {with_interval(percent, own['accuracy'], own['accuracy_ci95'], ' %')} |" in card.text
    assert card.text.count("## Results") == card.text.count(answer_line(result["answer"])) == 1
    assert "max_length=32" in card.text


def test_a_second_run_keeps_everything_with_the_line_in_the_card(shipped, tiny_task, command):
    out, _ = shipped
    pages = sorted([*out.glob("*/*/README.md"), *out.glob("*/*/classifier.json"), out / "model" / "README.md"])
    before = {page: page.read_text(encoding="utf-8") for page in pages}
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", out, "--device", "cpu", *SETS)
    assert code == 0
    for stage in ("model", "full-onnx", "onnx", "ship"):
        assert f"{stage}: kept from before" in stderr
    assert {page: page.read_text(encoding="utf-8") for page in pages} == before


@pytest.mark.parametrize(
    ("sets", "named"),
    [
        ("cascade.max_flips=0.1", "cascade"),
        ("goals.max_drop=0.1", "goals"),
        ("selection.layers=2", "selection"),
        ("export.variants=[fp32]", "export.variants"),
    ],
)
def test_ship_decides_alone(tiny_task, command, sets, named):
    code, _, stderr = command("validate", tiny_task / "recipe.yaml", "--set", "ship.goal=near", "--set", sets)
    assert code == 2
    assert f"leave {named} out" in stderr


def test_a_resolved_recipe_is_a_recipe(tiny_task):
    recipe = load_recipe(tiny_task / "recipe.yaml", ["ship.goal=near"])
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_times_are_those_of_real_lengths_and_the_smallest_batch():
    raw = [
        {"batch": 1, "length": 32, "values_ms": {"full": [9.0] * 8, "a": [9.0] * 8, "b": [9.0] * 8}},
        {"batch": 8, "length": "workload", "values_ms": {"full": [7.0] * 8, "a": [7.0] * 8, "b": [7.0] * 8}},
        {"batch": 1, "length": "workload", "values_ms": {"full": [8.0] * 8, "a": [4.0] * 8, "b": [1.0, 3.0] * 4}},
    ]
    found = answer_times(raw, "full", ["runtime", "8 bits"], ["a", "b"], seed=0)
    assert (found["batch"], found["length"], found["baseline_mean_ms"], found["mean_ms"]) == (1, "workload", 8.0, 2.0)
    assert [factor["ratio"] for factor in found["factors"]] == [2.0, 2.0]
    assert found["speedup"] == 4.0
    alone = answer_times(raw, "full", [], [], seed=0)
    assert (alone["speedup"], alone["factors"]) == (1.0, [])


def test_where_the_goal_allows_it_parts_of_the_model_go(tiny_task, tmp_path, command):
    sets = ["ship.goal=near", "ship.max_drop=0.9", "ship.max_flips=0.95", "ship.keep=[0.7]", "compensation.head=null"]
    sets += ["data.calibration.seen_in_training=false"]
    flags = [part for item in sets for part in ("--set", item)]
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--device", "cpu", "--json", *flags
    )
    assert code in {0, 3}, stderr
    result = json.loads(stdout)
    assert result["plan"]["units"]
    assert result["plan"]["search"] == "beam"
    assert result["plan"]["mix"]["kept"] <= 0.7
    named = {entry["variant"]: entry for entry in result["ship"]["candidates"]}
    assert {"onnx/optimized", "full-onnx/optimized"} <= set(named)
    assert named["full-onnx/optimized"]["flips"] == 0
    exits = result["ship"]["exits"]
    assert exits["model"] == "compressed"
    # part of what may change is left to the rows to come, at a level corrected for the three branches
    assert exits["certificate"]["max_flips"] == pytest.approx(0.57)
    assert exits["certificate"]["confidence"] == pytest.approx(1 - 0.05 / 3)
    assert exits["certificate"]["confidence"] == pytest.approx(named["onnx/optimized"]["confidence"])
    assert ("onnx/cascade" in named) == exits["certificate"]["met"]
    if exits["certificate"]["met"]:
        classify = Classifier(tmp_path / "run" / "onnx" / "cascade")
        assert classify.threads == named["onnx/cascade"]["threads"] is not None
        assert f"It takes {classify.threads} thread" in (tmp_path / "run/onnx/cascade/README.md").read_text()
    answer = result["answer"]
    assert len(result["flipped"]) == min(50, answer["flips"]), "the changed texts are those of what is shipped"
    if answer["variant"].startswith("onnx/"):
        assert "layers and neurons" in [factor["name"] for factor in answer["factors"]]


def test_without_text_that_can_certify_anything_no_exit_is_tried_and_selection_decides(tiny_task, tmp_path, command):
    sets = [
        "ship.goal=lossless",
        "ship.units=[]",
        "compensation.head=null",
    ]  # the model may have seen the calibration rows
    flags = [part for item in sets for part in ("--set", item)]
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--device", "cpu", "--json", *flags
    )
    assert code in {0, 3}, stderr
    result = json.loads(stdout)
    assert result["ship"]["part"] == "selection"
    assert {entry["rows"] for entry in result["ship"]["candidates"]} == {60}
    assert result["ship"]["exits"] == {
        "left_out": "no text is there that nothing was fitted to, so none can certify it"
    }
    named = {entry["variant"]: entry for entry in result["ship"]["candidates"]}
    assert named["onnx/optimized"]["why_not"] is None  # it computes the same
    # 60 rows of which none changes leave room for 5 % and more
    others = [entry for entry in named.values() if entry["flips"] == 0 and entry["max_abs_logit"] > 1e-3]
    assert all(entry["few_rows"] for entry in others)
    assert result["answer"]["tier"] == "exact"
    assert result["answer"]["met"] is True


def test_a_baseline_that_pads_is_a_factor_of_its_own(tiny_task, tmp_path, command):
    sets = ["ship.goal=exact", "benchmark.baseline.padding=max_length", "compensation.head=null"]
    flags = [part for item in sets for part in ("--set", item)]
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--device", "cpu", "--json", *flags
    )
    assert code in {0, 3}, stderr
    answer = json.loads(stdout)["answer"]
    assert answer["baseline"]["padding"] == "max_length"
    if answer["path"]:
        assert answer["factors"][0]["name"] == "set-up"


def test_a_fast_enough_file_is_asked_for_by_the_lower_end(tiny_task, tmp_path, command):
    sets = ["ship.goal=exact", "ship.min_speedup=1000", "compensation.head=null"]
    flags = [part for item in sets for part in ("--set", item)]
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--device", "cpu", *flags
    )
    assert code == 3
    assert "goal missed: ship.min_speedup" in stderr
    assert "goal exact missed" in " ".join(stdout.split()) or "Keep what runs today" in stdout


@pytest.mark.parametrize("more", [["ship.engines=[pytorch]"], ["export.cls_only_tail=false", "ship.engines=[onnx]"]])
def test_other_engines_and_files_without_the_exact_tail(tiny_task, tmp_path, command, more):
    sets = [
        "ship.goal=near",
        "ship.max_drop=0.9",
        "ship.max_flips=0.9",
        "ship.units=[]",
        "compensation.head=null",
        *more,
    ]
    flags = [part for item in sets for part in ("--set", item)]
    code, stdout, stderr = command(
        "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--device", "cpu", "--json", *flags
    )
    assert code in {0, 3}, stderr
    result = json.loads(stdout)
    engine = "pytorch" if "pytorch" in more[0] else "onnx"
    assert {entry["engine"] for entry in result["ship"]["candidates"]} <= {engine}
    assert "exact tail" not in [factor["name"] for factor in result["answer"]["factors"]]
    assert np.prod([factor["ratio"] for factor in result["answer"]["factors"]] or [1.0]) == pytest.approx(
        result["answer"]["speedup"]
    )


def test_off_the_cpu_the_file_without_the_tail_is_a_candidate_and_its_own_factor(tmp_path, monkeypatch):
    monkeypatch.setattr("compressor.stages.ship.built.certified", lambda run: False)
    spec = SimpleNamespace(engines=["onnx"])
    run = SimpleNamespace(
        recipe=SimpleNamespace(ship=spec, benchmark=SimpleNamespace(baseline=BaselineSpec())),
        lost_units=[], variants=["optimized", "fp16"], tail="reassociated", device="cuda",
    )  # fmt: skip
    found = built(run)
    assert [entry.variant for entry in found] == ["full-onnx/alltokens", "onnx/optimized", "onnx/fp16"]
    assert [name for name, _ in steps(run, found[0])] == ["runtime"]
    assert [name for name, _ in steps(run, found[1])] == ["runtime", "exact tail"]
    assert [name for name, _ in steps(run, found[2])] == ["runtime", "exact tail", "16 bits"]
    assert [entry.variant for entry in built(SimpleNamespace(**{**vars(run), "device": "cpu"}))] == [
        "onnx/optimized",
        "onnx/fp16",
    ]
