"""A run without a recipe, from a model and a file: what is found, the recipe, the whole run, and what is refused."""

import json
import re

import pandas as pd
import pytest
from tiny import letter_rows, save_model

from compressor.pipeline.quick import Options, default_name, plan_quick, quick_recipe
from compressor.recipe.compression import Recipe
from compressor.recipe.file import dump_recipe, load_recipe
from compressor.recipe.quick import GOALS, labels_mapping
from compressor.recipe.ship import ShipSpec

FAST = ("benchmark={batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, footprint: false}",)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    names = {0: "late", 1: "early"}
    return save_model(tmp_path_factory.mktemp("quick") / "model", layers=2, num_labels=2, id2label=names)


@pytest.fixture
def reviews(tmp_path):
    rows = letter_rows(400)
    frame = pd.DataFrame(
        {"review": [text for text, _ in rows], "when": [("Late", "Early")[label] for _, label in rows]}
    )
    frame.to_csv(tmp_path / "reviews.csv", index=False)
    return tmp_path / "reviews.csv"


def test_the_recipe_validates_and_reads_back(model, reviews, tmp_path):
    made = quick_recipe(str(model), reviews, tmp_path / "run", Options(goal="near", seen=False, overrides=("seed=3",)))
    (tmp_path / "r.yaml").write_text(dump_recipe(made.recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml") == made.recipe
    data = made.recipe.data
    assert (data.text, data.label, data.calibration.seen_in_training) == ("review", "when", False)
    assert (made.recipe.ship, made.recipe.seed, made.recipe.name) == (ShipSpec(goal="near"), 3, "model-reviews")
    assert data.max_length == 16  # letters and two special tokens: at most 13
    assert made.recipe.benchmark.lengths == []
    found = {finding.what: finding.found for finding in made.findings}
    assert found == {
        **{"model": "bert, 2 layers", "text": "review", "label": "when", "evaluation": "200 rows"},
        **{"selection": "66 rows", "calibration": "67 rows", "max length": "16 tokens", "goal": "near"},
    }
    stages = plan_quick(made)
    assert {"scores", "plan", "onnx"} <= {stage.name for stage in stages}
    assert not (tmp_path / "run").exists()


def test_text_without_labels_and_pairs_are_taken(model, tmp_path):
    texts = [text for text, _ in letter_rows(120)]
    (tmp_path / "plain.txt").write_text("\n".join(texts))
    made = quick_recipe(str(model), tmp_path / "plain.txt", tmp_path / "run")
    assert (made.recipe.data.label, made.recipe.separability.labels) == (None, "teacher")
    plan_quick(made)
    pairs = pd.DataFrame({"premise": texts, "hypothesis": texts[::-1], "label": [0, 1] * 60})
    (tmp_path / "folder").mkdir()
    pairs[:80].to_parquet(tmp_path / "folder" / "train.parquet")
    pairs[80:].to_parquet(tmp_path / "folder" / "dev.parquet")
    pairs.assign(label=-1, premise="z").to_parquet(tmp_path / "folder" / "test.parquet")
    made = quick_recipe(str(model), tmp_path / "folder", tmp_path / "run")
    assert (made.recipe.data.text, made.recipe.data.calibration.split) == (["premise", "hypothesis"], "test")
    plan_quick(made)


def test_a_file_goes_through_to_the_report_and_a_second_call_finds_all_done(model, reviews, tmp_path, command):
    arguments = ("quick", model, reviews, "--out", tmp_path / "run", "--device", "cpu")
    sets = [word for value in FAST for word in ("--set", value)]
    code, stdout, stderr = command(*arguments, *sets, "--dry-run", "--json")
    dry = json.loads(stdout)
    assert code == 0, stderr
    assert Recipe.model_validate(dry["recipe"]).ship == ShipSpec()
    assert sorted(tmp_path.iterdir()) == [reviews]
    code, stdout, stderr = command(*arguments, *sets)
    assert code == 0, stderr
    assert re.search(r"^label +when +a guess, since", stdout, re.MULTILINE), stdout
    assert "report: " in stdout
    parts = {name: pd.read_parquet(tmp_path / "run" / "data" / f"{name}.parquet") for name in ("train", "validation")}
    assert [*parts["train"].columns] == ["review", "when"]
    assert set(parts["validation"]["when"]) == {"late", "early"}
    assert set(parts["train"]["review"]).isdisjoint(parts["validation"]["review"])
    assert (tmp_path / "run" / "recipe.yaml").is_file()
    code, stdout, stderr = command(*arguments, *sets, "--json")
    result = json.loads(stdout)
    assert code == 0
    assert {stage["name"] for stage in result["stages"] if not stage["cached"]} == set()
    assert "calibration  67 rows" in stderr


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (("--label", "review"), "has the"),
        (("--labels", "late"), "write VALUE=CLASS"),
        (("--labels", "Late=late,Early=soon"), "--labels Early=soon: the model has no such class"),
        (("--goal", "loss"), "--goal loss: there is no such goal"),
        (("--text", "reviews"), "did you mean 'review'?"),
        (("--set", "data.max_length=512"), "data.max_length: 512 is more than the 60 tokens"),
        (("--set", "selectoin.layers=1"), "unknown key; did you mean 'selection'?"),
        (("--name", "a/b"), "name"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(model, reviews, tmp_path, command, monkeypatch, extra, words):
    monkeypatch.chdir(tmp_path)
    code, _, stderr = command("quick", model, reviews, *extra)
    assert (code, words in stderr, stderr.count("\n")) == (2, True, 1), stderr
    assert sorted(tmp_path.iterdir()) == [reviews]


def test_the_run_folder_may_not_hold_the_data(model, reviews, command):
    code, _, stderr = command("quick", model, reviews, "--out", reviews.parent)
    assert (code, "the data lies in the run directory" in stderr) == (2, True), stderr


def test_names_of_runs_and_mappings_of_labels():
    assert default_name("owner/bert base", "some/my réviews.csv") == "bert_base-my_r_views"
    assert labels_mapping(["a=x, b = y", "c=x"]) == {"a": "x", "b": "y", "c": "x"}
    assert GOALS == ("exact", "lossless", "near")
