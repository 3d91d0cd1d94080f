"""A full model whose classes are swapped, or that knows less than the larger class does, is called out."""

import json

import pytest
import yaml
from tiny import letter_rows, save_model, save_rows

from compressor.data.batches import encode
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_classifier, load_tokenizer
from compressor.report.build import build_report

NAMES = {0: "negative", 1: "positive"}


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """Return a folder with a model, files in which 0 and 1 mean the other class, and a recipe."""
    folder = tmp_path_factory.mktemp("swapped")
    save_model(
        folder / "model", "bert", layers=3, num_labels=2, id2label=NAMES, label2id={"negative": 0, "positive": 1}
    )
    source = find_model(str(folder / "model"))
    texts = [(text,) for text, _ in letter_rows(600)]
    logits = predict(load_classifier(source), encode(texts, load_tokenizer(source), 32))
    margin = logits[:, 1] - logits[:, 0]
    upper = margin > sorted(margin)[len(texts) // 2]
    # the classifier's bias is moved so that half of the texts are of each class
    model = load_classifier(source)
    model.classifier.bias.data[1] -= float(sorted(margin)[len(texts) // 2])
    model.save_pretrained(folder / "model")
    rows = [(text, int(not up)) for (text,), up in zip(texts, upper, strict=True)]
    save_rows(folder, rows, 400)
    recipe = {
        "name": "swapped",
        "model": {"path": str(folder / "model")},
        "data": {
            "train": str(folder / "train.csv"),
            "validation": str(folder / "validation.csv"),
            "text": "text",
            "label": "label",
            "calibration": {"size": 60},
            "selection": {"size": 100},
            "max_length": 32,
        },
        "export": {"variants": []},
        "benchmark": {
            **{"batch_sizes": [1], "lengths": [8], "workload": False, "footprint": False},
            **{"min_seconds": 0, "min_runs": 5, "max_seconds": 5},
        },
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return folder


@pytest.mark.parametrize("more", [(), ("--set", "selection={units: [ffn], budget: {keep: 0.8}}")])
def test_swapped_classes_are_refused_before_the_search(swapped, tmp_path, command, more):
    code, _, stderr = command("run", swapped / "recipe.yaml", "--out", tmp_path / "run", *more)
    assert code == 2
    message = " ".join(stderr.split("the full model", 1)[1].split())
    assert "swapped" in message
    assert "confusion matrix" in message
    assert "data.labels: {'0': positive, '1': negative}" in message
    assert not (tmp_path / "run" / "plan.json").exists()
    assert not (tmp_path / "run" / "stages" / "trials.json").exists()


def test_the_named_remedy_works(swapped, tmp_path, command):
    out = tmp_path / "run"
    mapping = "data.labels={'0': positive, '1': negative}"
    code, stdout, _ = command("run", swapped / "recipe.yaml", "--out", out, "--set", mapping, "--json")
    assert code == 0
    result = json.loads(stdout)
    assert result["variants"]["full"]["accuracy"] > 0.95
    assert result["data"]["warnings"] == []
    assert result["data"]["skipped_rows"] == {"train": 0, "validation": 0}


def test_fewer_right_answers_than_the_larger_class_are_a_warning(swapped, tmp_path, command):
    rows = [line.rpartition(",") for line in (swapped / "train.csv").read_text().splitlines()[1:]]
    # every second label is wrong: half of the answers are right, and one class is the larger by far
    labels = [row[2] if place % 2 else "0" for place, row in enumerate(rows)]
    lines = ["text,label", ",0", *(f"{row[0]},{label}" for row, label in zip(rows, labels, strict=True))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    sets = f"data.train={tmp_path / 'train.csv'}", "data.on_bad_row=skip"
    out = tmp_path / "run"
    arguments = [part for value in sets for part in ("--set", value)]
    code, stdout, stderr = command("run", swapped / "recipe.yaml", "--out", out, *arguments, "--json")
    assert code == 0
    data = json.loads(stdout)["data"]
    assert data["skipped_rows"] == {"train": 1, "validation": 0}
    left_out, worse = data["warnings"]
    assert "1 of 401 rows are left out" in left_out
    assert "less than always 'negative'" in worse
    assert "confusion matrix" in worse
    for warning in data["warnings"]:
        assert f"warning: {warning}" in stderr
        assert f"warning: {warning}" in (out / "log.txt").read_text(encoding="utf-8")
    build_report(out)
    for name in ("report.md", "report.html"):
        text = (out / name).read_text(encoding="utf-8")
        assert "rows are left out" in text
        assert "less than always" in text
