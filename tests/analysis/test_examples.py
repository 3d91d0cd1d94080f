"""The report's examples: texts whose answer changed, and those that are wrong and sure."""

import copy
import json

import numpy as np
import pytest
import torch
from folded import folded
from report_cases import HOSTILE, built, check_figures, check_pages, pages, whole_result
from tiny import letter_rows

from compressor.analysis.explain import CONFIDENT, explain, explained_examples
from compressor.data.batches import encode
from compressor.measurement.predictions import predict
from compressor.model.load import find_model, load_tokenizer
from compressor.report.figures.charges import charges_figure, margin_charges


def examples_of(tiny, full, compressed, labels):
    model, family, _, folder = tiny("bert")
    texts = [(text,) for text, _ in letter_rows(len(full), 3)]
    encodings = encode(texts, load_tokenizer(find_model(str(folder))), 40)
    made = folded(model, family)
    ids = [f"row:{index}" for index in range(len(full))]
    logits = {"full": np.array(full), "compressed": np.array(compressed)}
    found = explained_examples(made, family, encodings, logits, labels, texts, ids, ["no", "yes", "maybe"])
    return found, predict(made, encodings), texts


def test_examples_are_the_changed_and_the_confidently_wrong(tiny):
    sure, unsure, other = [9.0, 0.0, 0.0], [0.2, 0.0, 0.1], [0.0, 5.0, 0.0]
    full = [sure, unsure, sure, sure, [2.0, 0.0, 0.0], other]
    compressed = [sure, sure, unsure, other, other, other]
    labels = np.array([1, 0, 1, 0, 0, 1])
    found, logits, texts = examples_of(tiny, full, compressed, labels)
    # 0: sure and wrong; 1, 5: right; 2: wrong, but not sure; 3, 4: changed, 3 the one the full model was surer of
    assert [(row["kind"], row["id"]) for row in found] == [
        ("flipped", "row:3"), ("flipped", "row:4"), ("confident_wrong", "row:0"),
    ]  # fmt: skip
    assert [row["label"] for row in found] == ["no", "no", "yes"]
    assert found[0]["full"]["label"] == "no"
    assert found[0]["compressed"]["label"] == "yes"
    assert found[2]["compressed"]["confidence"] > CONFIDENT
    for row in found:
        index = int(row["id"].removeprefix("row:"))
        assert row["texts"] == list(texts[index])
        np.testing.assert_allclose(row["logits"], logits[index], atol=1e-5)
        np.testing.assert_allclose(np.sum(row["charges"], axis=0) + row["bias"], row["logits"], atol=1e-6)
    assert examples_of(tiny, full, compressed, None)[0] == [{**row, "label": None} for row in found[:2]]
    assert examples_of(tiny, full, full, None)[0] == []
    many, _, _ = examples_of(tiny, [sure] * 12, [other] * 6 + [sure] * 6, np.full(12, 2))
    assert [row["kind"] for row in many] == ["flipped"] * 4 + ["confident_wrong"] * 4


def example(kind="flipped", **changes):
    return {
        "id": "validation:3", "kind": kind, "texts": [HOSTILE, "second"], "label": "$no$",
        "full": {"label": "$no$", "confidence": 0.8}, "compressed": {"label": "yes", "confidence": 0.93},
        "logits": [-1.0, 2.0, 0.5], "charges": [[-1.5, 1.0, 0.0], [0.4, 0.7, 0.9]], "bias": [0.1, 0.3, -0.4], **changes,
    }  # fmt: skip


def test_margin_charges_by_hand():
    values, bias = margin_charges(example())
    assert values.tolist() == pytest.approx([1.0, -0.2])  # to `yes` less to the runner-up, the third class
    assert bias == pytest.approx(0.7)
    assert values.sum() + bias == pytest.approx(2.0 - 0.5)


def test_figure_has_a_bar_a_node_and_says_the_margins():
    figure = charges_figure([example(), example("confident_wrong", logits=[0.0, 3.0, 0.5])])
    assert "1.5" in figure.get_suptitle()
    first, second = figure.axes
    assert (first.get_title(loc="left"), second.get_title(loc="left")) == (
        "changed predictions", "confidently wrong predictions",
    )  # fmt: skip
    bars = [(round(bar.get_x(), 6), round(bar.get_width(), 6)) for bar in first.patches]
    assert bars == [(0.0, 1.0), (0.0, -0.2), (1.0, 0.7)]
    assert [line.get_xdata()[0] for line in first.lines if line.get_marker() == "D"] == pytest.approx([1.5])
    assert len(charges_figure([example()]).axes) == 1


def test_report_shows_the_examples_and_works_without_them(tmp_path):
    explained = [example(), example("confident_wrong", id="validation:8", label="no")]
    page, markdown = built(tmp_path, {**whole_result(), "explain": explained})
    check_figures(tmp_path, page, markdown)
    assert "What the nodes say" in page
    assert "figures/charges.png" in markdown
    page, markdown = pages({**whole_result(), "explain": [example(label=None)]})
    check_pages(page, markdown)
    assert "validation:3" in page
    old = {key: value for key, value in whole_result().items() if key != "explain"}
    page, markdown = pages(old)
    check_pages(page, markdown)
    assert "What the nodes say" not in page


def test_report_says_that_a_head_was_built_forward(tmp_path):
    result = whole_result()
    result["head"] |= {"trainer": "forward", "optimizer": None, "epochs": 4, "best_epoch": 3}
    page, _ = pages(result)
    assert "built node by node, without gradients, on the full model&#39;s probabilities (4 built, 3 kept)" in page
    assert "for 4 epochs (best: 3)" in pages(whole_result())[0]


def test_a_run_with_a_forward_head_keeps_its_account(tiny_task, tmp_path, command):
    options = "compensation.head.trainer=forward", "export.variants=[]", "selection.audit=false"
    arguments = "run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json"
    arguments += tuple(word for option in options for word in ("--set", option))
    code, stdout, _ = command(*arguments)
    assert code == 0
    result = json.loads(stdout)
    head = result["head"]
    assert (head["trainer"], head["optimizer"], head["folded"]) == ("forward", None, True)
    assert head["nodes"] == head["best_epoch"] <= 4
    kinds = {row["kind"] for row in result["explain"]}
    assert "flipped" in kinds or not result["variants"]["compressed"]["versus_full"]["flips"]
    with np.load(tmp_path / "run" / "predictions.npz") as file:
        logits = file["compressed"]
    for row in result["explain"]:
        index = int(row["id"].rpartition(":")[2])
        assert np.shape(row["charges"]) == (head["nodes"], 2)
        np.testing.assert_allclose(np.sum(row["charges"], axis=0) + row["bias"], logits[index], atol=1e-5)
    # a stage that lost a file is done again as a whole
    (tmp_path / "run" / "explain.json").unlink()
    code, stdout, _ = command(*arguments)
    assert (code, json.loads(stdout)["explain"]) == (0, result["explain"])


def test_large_logits_are_explained_too(tiny):
    model, family, _, folder = tiny("bert")
    large = copy.deepcopy(model)
    with torch.no_grad():
        large.get_submodule(family.output).weight *= 1e12
    found = explain(large, load_tokenizer(find_model(str(folder))), ("a b c d",), ("x", "y", "z"))
    assert found.sum_error > 1e-5  # that is how far float64 rounds sums of such logits
    assert found.prediction == found.labels[int(np.argmax(found.logits))]
