"""Labels of words through the whole pipeline: fine-tuned here, shorter and with fewer heads, distilled, files, the runtime."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score
from tiny import FRESH, letter_rows, save_model, sets

from compressor.cli.app import main
from compressor.data.answers.tokens import texts_of
from compressor.data.batches import encode_words, pad
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.runtime import Classifier

NAMES = ["B-A", "B-N", "I-A", "O"]


def tags(words):
    """Return the tags of letters: a begins an A, which letters up to f go on; n to q are an N each; all others are outside."""
    found = []
    for word in words:
        inside = found and found[-1] in {"B-A", "I-A"}
        found.append(
            "B-A" if word == "a" else "I-A" if inside and word <= "f" else "B-N" if "n" <= word <= "q" else "O"
        )
    return found


def conll(rows):
    return "\n\n".join(
        "\n".join(f"{word} {tag}" for word, tag in zip(words, tags(words), strict=True)) for words in rows
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """Return a folder with a recipe that fine-tunes a small tagger and compresses it."""
    folder = tmp_path_factory.mktemp("tokens")
    save_model(folder / "model", "bert", layers=3, hidden_size=32, num_labels=2)
    rows = [text.split() for text, _ in letter_rows(700)]
    rows = [["a", *words] if place % 2 else words for place, words in enumerate(rows)]
    for name, part in (("train", rows[:500]), ("validation", rows[500:])):
        (folder / f"{name}.conll").write_text(conll(part), encoding="utf-8")
    (folder / "recipe.yaml").write_text(
        f"""name: tagger
model: {{path: {folder}/model}}
data:
  kind: tokens
  train: {folder}/train.conll
  validation: {folder}/validation.conll
  text: tokens
  label: tags
  calibration: {{split: train, size: 100}}
  selection: {{size: 80}}
  max_length: 32
finetune: {{epochs: 30, lr: 2.0e-3, batch_size: 8}}
selection: {{search: exhaustive, layers: 1, protect: [2, 3]}}  # the layer that surely changes something
compensation: {{refit: closed_form}}
export: {{variants: [fp32, optimized, int8]}}
benchmark: {{batch_sizes: [1], lengths: [8], workload: true, min_seconds: 0, min_runs: 5, max_seconds: 5, footprint: false}}
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """Return result.json and run directory of the recipe."""
    out = tmp_path_factory.mktemp("runs") / "tagger"
    with pytest.raises(SystemExit) as end:
        main(["run", str(task / "recipe.yaml"), "--out", str(out)])
    assert not end.value.code
    return json.loads((out / "result.json").read_text(encoding="utf-8")), out


@pytest.fixture(scope="module")
def tagger(finished):
    """Return the directory of the full model that the run fine-tuned."""
    return finished[1] / "teacher"


def further(task, tagger, command, out, *values):
    """Return result.json of a run of the same recipe with the finished tagger and other values."""
    given = sets(f"model.path={tagger}", "finetune=null", "data.kind=null", *values)
    code, stdout, stderr = command("run", task / "recipe.yaml", "--out", out, "--json", *given)
    assert code == 0, stderr
    return json.loads(stdout)


def test_a_run_counts_texts_and_measures_entities_as_seqeval_does(finished):
    result, out = finished
    assert result["data"]["answers"] == {
        "kind": "tokens", "tolerance": 0.0, "thresholds": [], "sigmoid": False, "names": NAMES, "metric": "entity F1",
        "counted": "texts",
    }  # fmt: skip
    full, own = (result["variants"][name] for name in ("full", "compressed"))
    assert full["accuracy"] > 0.6, "no figure means anything where nothing was learned"
    with np.load(out / "predictions.npz") as file:
        answers = {name: file[name].argmax(1) for name in ("full", "compressed")}
        labels, within = file["labels"], file["within"]
    cut = {name: [[NAMES[tag] for tag in part] for part in np.split(found, np.flatnonzero(np.diff(within)) + 1)]
           for name, found in {**answers, "gold": labels}.items()}  # fmt: skip
    assert full["accuracy"] == pytest.approx(f1_score(cut["gold"], cut["full"]))
    assert own["accuracy"] == pytest.approx(f1_score(cut["gold"], cut["compressed"]))
    assert full["metrics"]["token_accuracy"] == pytest.approx((answers["full"] == labels).mean())
    versus = own["versus_full"]
    assert (versus["rows"], versus["counted"]) == (200, "texts")
    assert 0 < versus["flips"] <= sum(one != other for one, other in zip(cut["full"], cut["compressed"], strict=True))
    assert versus["accuracy_delta"] == pytest.approx(own["accuracy"] - full["accuracy"])
    assert versus["ci95"][0] < versus["accuracy_delta"] < versus["ci95"][1]
    assert all(row["outcome"] in {"gained", "lost", "both wrong"} for row in result["flipped"])


def test_files_answer_as_the_model_at_every_word(finished):
    result, _ = finished
    assert result["parity"]["fp32"]["max_abs"] < 1e-4
    assert result["parity"]["optimized"]["max_abs"] < 1e-4
    assert result["fused_nodes"]["optimized"] == {"Attention": 2, "SkipLayerNormalization": 4, "BiasGelu": 2}
    assert result["tail"]["form"] is None, "every token of the last layer is read"
    assert {row["length"] for row in result["variants"]["onnx_optimized"]["latency"]} == {8, "workload"}


def test_the_saved_model_is_smaller_and_stock(finished, tmp_path):
    result, out = finished
    assert result["variants"]["compressed"]["parameters"] < result["variants"]["full"]["parameters"]
    source = find_model(str(out / "model"))
    tokenizer, texts = load_tokenizer(source), [("a", "b", "z"), ("n",)]
    encodings = encode_words(texts, tokenizer, 32)
    inputs = {name: values.tolist() for name, values in pad(encodings, np.arange(2)).items()}
    (tmp_path / "inputs.json").write_text(json.dumps(inputs), encoding="utf-8")
    script = FRESH.replace("SequenceClassification", "TokenClassification")
    done = subprocess.run(
        [sys.executable, "-c", script, str(out / "model"), str(tmp_path / "inputs.json")],
        capture_output=True,
        text=True,
        check=True,
    )
    fresh = json.loads(done.stdout)
    assert (fresh["class"], fresh["layers"]) == ("BertForTokenClassification", 2)
    logits = torch.tensor(fresh["logits"]).numpy()[encodings.read_at(np.arange(2))]
    assert np.abs(logits - predict(load_classifier(source), encodings)).max() < 1e-6
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: token-classification" in card
    assert "| Changed texts | |" in card


def test_the_runtime_labels_words_and_names_entities(finished):
    _, out = finished
    source = find_model(str(out / "model"))
    texts = [["a", "b", "c", "z", "n"], ["z"]]
    outputs = predict(
        load_classifier(source), encode_words([tuple(text) for text in texts], load_tokenizer(source), 32)
    )
    classify = Classifier(out / "onnx" / "fp32")
    found = classify(texts)
    wanted = [NAMES[label] for label in outputs.argmax(1)]
    assert [answer["labels"] for answer in found] == [wanted[:5], wanted[5:]]
    shares = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    assert found[0]["scores"] == pytest.approx(shares[:5].max(1).tolist(), abs=1e-4)
    for entity in found[0]["entities"]:
        assert entity["words"] == texts[0][entity["start"] : entity["end"]]
        assert found[0]["labels"][entity["start"]][2:] == entity["label"]
    assert classify("a b c z n") == found[:1], "a string is cut at white space"
    long = classify([["a"] * 40])[0]
    assert (len(long["labels"]), long["labels"][29] is None, long["labels"][30]) == (40, False, None)
    assert classify([[]])[0] == {"words": [], "labels": [], "scores": [], "entities": []}
    assert classify([["\u200b", "a"]])[0]["labels"][0] is None, "a word that becomes no token has no label"


@pytest.mark.parametrize("texts", [5, [["a", 1]], [{"a"}], [None]])
def test_the_runtime_refuses_what_is_no_words(finished, texts):
    with pytest.raises(Exception, match="labels the words of texts"):
        Classifier(finished[1] / "onnx" / "fp32")(texts)


def test_heads_and_neurons_go_by_a_budget_and_runs_compare(task, finished, tagger, command, tmp_path):
    values = ["selection={units: [heads, width], widths: [0.5], budget: {keep: 0.7}}", "export.variants=[]"]
    plan = further(task, tagger, command, tmp_path / "run", *values)["plan"]
    assert plan["units"]
    assert plan["mix"]["kept"] <= 0.7 + 1e-9
    code, stdout, stderr = command("compare", finished[1], tmp_path / "run", "--json")
    assert code == 0, stderr
    paired = json.loads(stdout)["paired"][0]
    assert (paired["metric"], paired["accuracy_delta"] is None) == ("entity F1", False)


def test_a_distilled_tagger_comes_nearer(task, tagger, command, tmp_path):
    more = "{distill: {epochs: 8, lr: 2.0e-3, text: [train], logits_weight: 1.0}, refit: null, head: null}"
    result = further(task, tagger, command, tmp_path / "run", f"compensation={more}", "export.variants=[]")
    assert result["distill"]["kl_after"] < result["distill"]["kl_before"]
    assert result["distill"]["kept"]


def test_layers_by_goals_and_an_audit(task, tagger, command, tmp_path):
    out = tmp_path / "run"
    values = ["selection.layers=auto", "goals={max_drop: 0.9}", "export.variants=[]"]
    result = further(task, tagger, command, out, *values)
    assert result["plan"]["goals"]["rows"] == 80
    code, stdout, stderr = command("audit", out / "recipe.yaml", "--out", out, "--json")
    assert code == 0, stderr
    assert json.loads(stdout)["rows"] == 80


@pytest.mark.slow
def test_what_to_ship_is_decided_by_texts(task, tagger, command, tmp_path):
    ship = "ship={goal: near, max_drop: 0.5, keep: [0.8], engines: [onnx]}"
    result = further(
        task, tagger, command, tmp_path / "run", ship, "data.calibration={split: train, size: 100, seen_in_training: false}",
        "separability.labels=teacher", "selection={}", "compensation={}", "export={}",
    )  # fmt: skip
    assert result["ship"]["candidates"]
    assert all(entry["rows"] <= 180 for entry in result["ship"]["candidates"]), "texts are counted, not words"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("cascade={max_flips: 0.05}", "cascade: a text leaves early where one class is far ahead, and this model gives a label a word"),
        ("analysis=[errors]", "analysis: errors tell classes apart"),
        ("analysis=[ffn]", "analysis: ffn tell classes apart"),
        ("compensation.head={trainer: forward}", r"compensation\.head\.trainer: forward learns classes"),
        ("compensation.head={targets: gold}", r"compensation\.head\.targets: gold is for classes"),
        ("data.text=[tokens, tags]", r"text names two columns"),
        ("data.kind=single_label", r"validation\.conll|no known kind of data"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_any_work(task, command, tmp_path, value, words):
    code, _, stderr = command("run", task / "recipe.yaml", "--out", tmp_path / "run", "--set", value)
    assert code == 2
    assert re.search(words, stderr), stderr
    assert not (tmp_path / "run").exists()


def test_commands_for_classes_of_texts_are_refused_with_their_reason(task, tagger, command, tmp_path):
    for arguments, words in (
        (("quick", tagger, task / "train.conll"), "columns are found by the classes in them"),
        (
            ("explain", tagger, "a b"),
            "explain shows which classes the nodes speak for, and this model gives a label a word",
        ),
    ):
        code, _, stderr = command(*arguments)
        assert code == 2
        assert words in " ".join(stderr.split()), stderr


def test_a_directory_is_exported_with_parity(tagger, command, tmp_path):
    code, stdout, stderr = command(
        "export", tagger, "--out", tmp_path / "onnx", "--variant", "fp32", "--variant", "optimized", "--json"
    )
    assert code == 0, stderr
    found = json.loads(stdout)
    assert {entry["tail"] for entry in found.values()} == {None}
    assert all(entry["parity"]["max_abs"] < 1e-4 * entry["parity"]["scale"] for entry in found.values())
    assert Classifier(tmp_path / "onnx" / "optimized")([["a", "b"]])[0]["words"] == ["a", "b"]


def test_words_of_a_text_lie_together():
    assert texts_of([2, 1, 3]).tolist() == [0, 0, 1, 2, 2, 2]


def test_a_finished_tagger_is_verified(finished, command):
    code, stdout, stderr = command("verify", finished[1])
    assert code == 0, stdout + stderr
