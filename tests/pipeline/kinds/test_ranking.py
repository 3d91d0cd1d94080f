"""Documents ranked for a query: fine-tuned here, shorter and with fewer heads, files, the runtime, runs compared."""

import json
import random

import numpy as np
import pytest
from scipy.special import expit
from sklearn.metrics import ndcg_score
from tiny import letter_rows, save_model

from compressor.errors import UserError
from compressor.runtime import Classifier

DOCUMENTS = 4
"""Documents of a query."""


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Return a folder with a recipe that fine-tunes a small model to find documents that begin with an early letter."""
    folder, chance = tmp_path_factory.mktemp("ranking"), random.Random(0)
    save_model(folder / "model", "bert", layers=3, hidden_size=32, num_labels=2)
    texts = [text for text, _ in letter_rows(1000)]
    rows = []
    for query in range(250):
        few = texts[DOCUMENTS * query : DOCUMENTS * (query + 1)]
        rows += [(f"query {query}", text, int(text[0] < "i")) for text in few]
    cut = 150 * DOCUMENTS
    for name, part in (("train", rows[:cut]), ("validation", rows[cut:])):
        chance.shuffle(part)
        lines = ["query,document,relevance", *(",".join(map(str, row)) for row in part)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"""name: ranking
model: {{path: {folder}/model}}
data:
  train: {folder}/train.csv
  validation: {folder}/validation.csv
  kind: ranking
  group: query
  text: document
  label: relevance
  calibration: {{split: train, size: 150}}
  selection: {{size: 100}}
  max_length: 32
finetune: {{epochs: 50, lr: 3.0e-3}}
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
    """Return a function: command -> result.json and run directory of the recipe, run once."""
    made = []

    def get(command):
        if not made:
            out = tmp_path_factory.mktemp("runs") / "ranking"
            code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--json")
            assert code == 0, stderr
            made.append((json.loads(stdout), out))
        return made[0]

    return get


def by_query(folder):
    """Return the rows of the evaluation file of every query."""
    lines = (folder / "validation.csv").read_text(encoding="utf-8").splitlines()[1:]
    found = {}
    for row, line in enumerate(lines):
        found.setdefault(line.split(",")[0], []).append(row)
    return list(found.values())


def test_a_run_counts_queries_and_compares_their_order(finished, command, task):
    result, out = finished(command)
    versus, full = result["variants"]["compressed"]["versus_full"], result["variants"]["full"]
    with np.load(out / "predictions.npz") as file:
        outputs, own, labels = file["full"][:, 0], file["compressed"][:, 0], file["labels"]
    queries = by_query(task)
    tops = [[rows[values[rows].argmax()] for rows in queries] for values in (outputs, own)]
    assert result["data"]["answers"]["kind"] == "ranking"
    assert (versus["rows"], versus["counted"], versus["metric"]) == (100, "queries", "NDCG@10")
    assert versus["flips"] == sum(one != other for one, other in zip(*tops, strict=True))
    told = [rows for rows in queries if labels[rows].any()]
    measured = [
        np.mean([ndcg_score([labels[rows]], [values[rows]], k=10) for rows in told]) for values in (outputs, own)
    ]
    assert full["accuracy"] == pytest.approx(measured[0])
    assert full["accuracy"] > 0.85, "no figure means anything where nothing was learned"
    assert versus["accuracy_delta"] == pytest.approx(measured[1] - measured[0])
    assert versus["ci95"][0] < versus["accuracy_delta"] < versus["ci95"][1]
    assert full["metrics"]["queries"] == len(told)
    assert result["parity"]["fp32"]["max_abs"] < 1e-4
    assert len(result["flipped"]) == versus["flips"]


def test_no_query_lies_in_two_parts(finished, command):
    result, _ = finished(command)
    rows = {name: part["rows"] for name, part in result["data"]["splits"].items()}
    assert rows == {"train": 352, "calibration": 148, "selection": 100, "evaluation": 400}
    assert all(count % DOCUMENTS == 0 for count in rows.values())


def test_the_report_and_the_card_speak_of_queries(finished, command):
    _, out = finished(command)
    report, card = ((out / name).read_text(encoding="utf-8") for name in ("report.html", "model/README.md"))
    assert "of 100 queries changed" in report
    assert "the order of the documents of a query" in report
    assert "NDCG@10" in card
    assert "Changed queries" in card


def test_the_runtime_ranks_documents(finished, command, task):
    _, out = finished(command)
    found = Classifier(out / "onnx" / "fp32")(["a b c d", "z y x w"])
    assert found[0]["score"] > found[1]["score"]
    assert 0 < found[1]["score"] < found[0]["score"] < 1  # relevance is 0 or 1, so the score is its probability
    with pytest.raises(UserError, match="ranked by a score of pairs"):
        Classifier(out / "onnx" / "fp32").rank("query", ["a b", "z y"])
    with np.load(out / "predictions.npz") as file:
        logits = file["compressed"][:, 0]
    lines = (task / "validation.csv").read_text(encoding="utf-8").splitlines()[1:]
    scores = Classifier(out / "onnx" / "fp32")([line.split(",")[1] for line in lines[:5]])
    assert [answer["score"] for answer in scores] == pytest.approx(expit(logits[:5]).tolist(), abs=1e-4)


@pytest.mark.slow
def test_heads_and_neurons_go_by_the_same_budget_and_runs_compare(task, finished, command, tmp_path):
    values = ["selection={units: [heads, width], widths: [0.5], budget: {keep: 0.7}}", "export.variants=[]"]
    more = [part for value in values for part in ("--set", value)]
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", tmp_path / "run", "--json", *more)
    assert code == 0, stderr
    assert json.loads(stdout)["plan"]["mix"]["kept"] <= 0.7 + 1e-9
    _, other = finished(command)
    code, stdout, stderr = command("compare", other, tmp_path / "run", "--json")
    assert code == 0, stderr
    paired = json.loads(stdout)["paired"][0]
    assert (paired["metric"], paired["accuracy_delta"] is None) == ("NDCG@10", False)
    kept = dict(np.load(tmp_path / "run" / "predictions.npz"))
    np.savez(tmp_path / "run" / "predictions.npz", **{name: kept[name] for name in kept if name != "within"})
    code, _, stderr = command("compare", other, tmp_path / "run", "--json")
    assert code == 2
    assert "are not those that result.json speaks of" in stderr


def test_the_run_decides_what_to_ship_by_queries(task, command, tmp_path):
    recipe = (task / "recipe.yaml").read_text(encoding="utf-8")
    lines = [line for line in recipe.splitlines() if line.split(":")[0] not in {"selection", "export", "compensation"}]
    (tmp_path / "ship.yaml").write_text("\n".join([*lines, "ship: {goal: near}", ""]), encoding="utf-8")
    code, stdout, stderr = command("run", tmp_path / "ship.yaml", "--out", tmp_path / "run", "--json")
    assert code == 0, stderr
    answer = json.loads(stdout)["answer"]
    assert (answer["rows"], answer["counted"]) == (100, "queries")
    assert "queries" in answer["why"]
