"""Scores and many labels through the whole pipeline: fine-tuned here, shorter and with fewer heads, files, the runtime."""

import ast
import json
import re

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import spearmanr
from tiny import letter_rows, save_model

from compressor.data.answers.kinds import MANY_LABELS, SCORE
from compressor.data.batches import encode
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.runtime import Classifier

LABELS = ["early", "long", "vowel"]
MORE = {SCORE: "kind: score\n  label: score", MANY_LABELS: f"kind: many_labels\n  label: [{', '.join(LABELS)}]"}


def truth(text):
    """Return the score and the labels of a text of letters: half for an early first letter, half for length; three plain facts."""
    letters = text.split()
    score = (letters[0] < "n") / 2 + (len(letters) - 3) / 16
    return [f"{score:.4f}", int(letters[0] < "n"), int(len(letters) > 7), int(letters[0] in "aeiou")]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Return a folder with a recipe for each kind that fine-tunes a small model and compresses it."""
    folder = tmp_path_factory.mktemp("kinds")
    save_model(folder / "model", "bert", layers=3, hidden_size=32, num_labels=2)
    rows = [(text, *truth(text)) for text, _ in letter_rows(900)]
    for name, part in (("train", rows[:700]), ("validation", rows[700:])):
        lines = [",".join(["text", "score", *LABELS]), *(",".join(map(str, row)) for row in part)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for kind, more in MORE.items():
        (folder / f"{kind}.yaml").write_text(
            f"""name: {kind}
model: {{path: {folder}/model}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  text: text
  {more}
  calibration: {{split: train, size: 150}}
  selection: {{size: 100}}
  max_length: 32
finetune: {{epochs: 25, lr: 3.0e-3}}
selection: {{search: exhaustive, layers: 1}}
compensation: {{refit: closed_form}}
export: {{variants: [fp32, optimized, int8]}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: false, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
            encoding="utf-8",
        )
    return folder


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """Return a function: kind, command -> result.json and run directory of its recipe, run once."""
    made = {}

    def get(kind, command):
        if kind not in made:
            out = tmp_path_factory.mktemp("runs") / kind
            code, stdout, stderr = command("run", task / f"{kind}.yaml", "--out", out, "--json")
            assert code == 0, stderr
            made[kind] = json.loads(stdout), out
        return made[kind]

    return get


@pytest.mark.parametrize("kind", list(MORE))
def test_a_run_measures_the_answers_of_its_kind(finished, command, kind):
    result, out = finished(kind, command)
    told = result["data"]["answers"]
    assert told["kind"] == kind
    full, own = (result["variants"][name] for name in ("full", "compressed"))
    assert full["accuracy_ci95"][0] > {SCORE: 0.1, MANY_LABELS: 0.4}[kind], (
        "no figure means anything where nothing was learned"
    )
    assert own["versus_full"]["metric"] == told["metric"]
    assert {"spearman", "pearson", "mae"} == set(full["metrics"]) if kind == SCORE else "lrap" in full["metrics"]
    assert (own["versus_full"]["gained"] is None) == (kind == SCORE)
    assert 0 < own["versus_full"]["flips"] < own["versus_full"]["rows"] or own["versus_full"]["flip_rate"] == 1
    assert result["parity"]["fp32"]["max_abs"] < 1e-4
    config = json.loads((out / "model" / "config.json").read_text())
    assert config["problem_type"] == {SCORE: "regression", MANY_LABELS: "multi_label_classification"}[kind]


def test_scores_are_compared_by_rank_and_tolerance(finished, command, task):
    result, out = finished(SCORE, command)
    with np.load(out / "predictions.npz") as file:
        full, own, labels = file["full"][:, 0], file["compressed"][:, 0], file["labels"]
    versus = result["variants"]["compressed"]["versus_full"]
    tolerance = result["data"]["answers"]["tolerance"]
    assert tolerance == pytest.approx(0.01, abs=1e-3)  # 1 % of the training scores' range, which is all of 0 to 1
    assert versus["flips"] == int((np.abs(full - own) > tolerance).sum())
    delta = spearmanr(own, labels).statistic - spearmanr(full, labels).statistic
    assert versus["accuracy_delta"] == pytest.approx(delta)
    assert versus["ci95"][0] <= delta <= versus["ci95"][1]


def test_many_labels_count_a_row_as_changed_where_its_set_is_another(finished, command):
    result, out = finished(MANY_LABELS, command)
    with np.load(out / "predictions.npz") as file:
        full, own, labels = (file[name] for name in ("full", "compressed", "labels"))
    versus = result["variants"]["compressed"]["versus_full"]
    sets = [part >= 0 for part in (full, own)]
    assert versus["flips"] == int((sets[0] != sets[1]).any(1).sum())
    right = [(part == labels).all(1) for part in sets]
    assert (versus["gained"], versus["lost"]) == (int((right[1] & ~right[0]).sum()), int((right[0] & ~right[1]).sum()))
    assert all(set(row["full"]["label"].split(", ")) <= {*LABELS, "no label"} for row in result["flipped"])


@pytest.mark.parametrize("kind", list(MORE))
def test_the_runtime_gives_what_the_model_gives(finished, command, kind):
    _, out = finished(kind, command)
    texts = ["a b c d", "z y x w v u t s r"]
    source = find_model(str(out / "model"))
    outputs = predict(load_classifier(source), encode([(text,) for text in texts], load_tokenizer(source), 32))
    answers = Classifier(out / "onnx" / "fp32")(texts)
    if kind == SCORE:
        assert [answer["label"] for answer in answers] == ["score", "score"]
        assert [answer["score"] for answer in answers] == pytest.approx(outputs[:, 0].tolist(), abs=1e-4)
    else:
        for answer, found in zip(answers, outputs, strict=True):
            assert answer["scores"] == pytest.approx(dict(zip(LABELS, expit(found), strict=True)), abs=1e-4)
            assert answer["labels"] == [name for name, value in zip(LABELS, found, strict=True) if value >= 0]


@pytest.mark.parametrize("kind", list(MORE))
def test_the_lines_of_the_page_run_as_they_stand(finished, command, kind, monkeypatch, capsys):
    _, out = finished(kind, command)
    monkeypatch.chdir(out / "onnx" / "fp32")
    own, optimum = re.findall(r"```python\n(.*?)```", (out / "onnx" / "fp32" / "README.md").read_text(), re.DOTALL)
    found = []
    for code in (own, optimum):
        capsys.readouterr()
        exec(code, {})
        found.append(ast.literal_eval(capsys.readouterr().out))
    if kind == SCORE:
        assert found[0][0]["score"] == pytest.approx(found[1][0]["score"], abs=1e-5)
    else:
        assert found[0][0]["scores"] == pytest.approx({row["label"]: row["score"] for row in found[1]}, abs=1e-5)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=pytest.mark.slow) for kind in MORE])
def test_heads_and_neurons_go_by_the_same_budget_and_runs_compare(task, finished, command, tmp_path, kind):
    values = ["selection={units: [heads, width], widths: [0.5], budget: {keep: 0.7}}", "export.variants=[]"]
    more = [part for value in values for part in ("--set", value)]
    code, stdout, stderr = command("run", task / f"{kind}.yaml", "--out", tmp_path / "run", "--json", *more)
    assert code == 0, stderr
    plan = json.loads(stdout)["plan"]
    assert plan["units"]
    assert plan["mix"]["kept"] <= 0.7 + 1e-9
    _, other = finished(kind, command)
    code, stdout, stderr = command("compare", other, tmp_path / "run", "--json")
    assert code == 0, stderr
    paired = json.loads(stdout)["paired"][0]
    assert (paired["metric"], paired["accuracy_delta"] is None) == (
        {SCORE: "Spearman correlation", MANY_LABELS: "subset accuracy"}[kind],
        False,
    )
    code, stdout, stderr = command("compare", other, tmp_path / "run")
    assert (code, f"{paired['metric']} delta" in stdout) == (0, True)


@pytest.mark.parametrize("kind", list(MORE))
def test_an_audit_holds_the_scores_against_trials(finished, command, tmp_path, kind):
    _, out = finished(kind, command)
    code, stdout, stderr = command("audit", out / "recipe.yaml", "--out", out, "--json")
    assert code == 0, stderr
    assert json.loads(stdout)["rows"]


def test_thresholds_are_one_or_one_for_each_label(task, command, tmp_path):
    value = "data.threshold=[0.5, 0.5]"
    code, _, stderr = command("run", task / f"{MANY_LABELS}.yaml", "--out", tmp_path / "run", "--set", value)
    assert (code, "data.threshold: 2 numbers for 3 labels" in stderr) == (2, True), stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", list(MORE))
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cascade={max_flips: 0.05}", "cascade: a text leaves early where one class is far ahead"),
        ("analysis=[errors]", "analysis: errors tell classes apart"),
        ("compensation.head={trainer: forward}", r"compensation\.head\.trainer: forward learns classes"),
        ("compensation.head={targets: gold}", r"compensation\.head\.targets: gold is for classes"),
    ],
)
def test_what_needs_classes_is_refused_before_any_work(task, command, tmp_path, kind, value, words):
    code, _, stderr = command("run", task / f"{kind}.yaml", "--out", tmp_path / "run", "--set", value)
    assert code == 2
    assert re.search(words, stderr), stderr
    assert not (tmp_path / "run").exists()
