"""`compressor explain`: charges worked out by hand, their sum, what hiding a token does, the report's examples."""

import copy
import json
import re

import numpy as np
import pytest
import torch
from report_cases import HOSTILE, built, check_figures, check_pages, pages, whole_result
from tiny import FOLDING, letter_rows, save_model
from torch import nn

from compressor.analysis.explain import (
    CONFIDENT,
    NODES_SHOWN,
    explain,
    explain_directory,
    explained_examples,
    head_charges,
)
from compressor.cli.directories.explain import explain_tables
from compressor.compensation.heads.head import Head, fold_head
from compressor.data.batches import Encodings, encode
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES, family_of
from compressor.model.load import find_model, load_tokenizer
from compressor.model.surgery import save_model as save_directory
from compressor.report.figures.charges import charges_figure, margin_charges

TEXT = "k f a z q f"


def folded(model, family, nodes=4, classes=3, seed=0, labels=None):
    """A copy of the model with a random head of so many nodes."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (nodes, 32), (nodes,), (classes, nodes), (classes,)
    w1, b1, w2, b2 = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    made = copy.deepcopy(model)
    ones = torch.ones(32, dtype=torch.float64)
    fold_head(made, family, Head(0 * ones, ones, w1 / 6, b1 / 3, w2, b2))
    return made


@pytest.fixture
def account(tiny):
    """Return a function: family, head nodes (None: the stock head), text... -> (explanation, model, tokenizer)."""

    def get(model_type="bert", nodes=4, texts=(TEXT,), top=3):
        model, family, _, folder = tiny(model_type)
        model = model if nodes is None else folded(model, family, nodes)
        tokenizer = load_tokenizer(find_model(str(folder)))
        return explain(model, tokenizer, texts, ["no", "yes", "maybe"], top=top), model, tokenizer

    return get


def test_charges_by_hand():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.pre_classifier, self.classifier = nn.Linear(2, 3), nn.Linear(3, 2)

    model = Two()
    with torch.no_grad():
        model.pre_classifier.weight.copy_(torch.tensor([[1.0, 0.0], [9.0, 9.0], [0.0, -2.0]]))
        model.pre_classifier.bias.copy_(torch.tensor([0.5, 9.0, 1.0]))
        model.classifier.weight.copy_(torch.tensor([[2.0, 0.0, 4.0], [-1.0, 0.0, 0.0]]))
        model.classifier.bias.copy_(torch.tensor([0.25, -0.25]))
    found = head_charges(model, family_of("distilbert"), np.array([[1.0, 0.25], [-3.0, 2.0]], dtype=np.float32))
    assert found.nodes == (0, 2)  # node 1 meets weights of 0
    # relu(1 + 0.5) = 1.5 and relu(1 - 0.5) = 0.5; in the second row relu(-2.5) = relu(-3) = 0
    assert found.activations.tolist() == [[1.5, 0.5], [0.0, 0.0]]
    assert found.charges.tolist() == [[[3.0, -1.5], [2.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]
    assert found.logits.tolist() == [[5.25, -1.75], [0.25, -0.25]]


@pytest.mark.parametrize(
    ("model_type", "nodes"),
    [*((kind, nodes) for kind in FOLDING for nodes in (2, 8)), *((kind, None) for kind in FAMILIES)],
)
def test_charges_sum_to_the_models_own_logits(account, model_type, nodes):
    found, model, tokenizer = account(model_type, nodes)
    charges = np.array([node.charges for node in found.nodes])
    summed = charges.sum(0) + np.array(found.other_charges) + np.array(found.bias)
    np.testing.assert_allclose(summed, found.logits, atol=1e-5)
    np.testing.assert_allclose(summed, predict(model, encode([(TEXT,)], tokenizer, 40))[0], atol=1e-5)
    assert found.model_difference < 1e-5
    assert found.sum_error < 1e-5
    assert [len(found.nodes), found.other_nodes] == ([nodes, 0] if nodes else [NODES_SHOWN, 32 - NODES_SHOWN])
    for node in found.nodes:
        weights = model.get_submodule(FAMILIES[model_type].output).weight[:, node.node]
        np.testing.assert_allclose(node.charges, node.activation * weights.detach().numpy(), atol=1e-6)
    order = np.argsort(found.logits)[::-1]
    assert (found.prediction, found.runner_up) == tuple(["no", "yes", "maybe"][index] for index in order[:2])
    assert found.margin == pytest.approx(found.logits[order[0]] - found.logits[order[1]])
    assert found.confidence == pytest.approx(float(torch.tensor(found.logits).softmax(0).max()))
    assert sum(found.probabilities) == pytest.approx(1)
    charge_for = [node.charges[order[0]] - node.charges[order[1]] for node in found.nodes]
    assert [node.charge_for for node in found.nodes] == pytest.approx(charge_for)


def test_largest_charges_of_a_stock_head_are_shown(account):
    found, model, _ = account("bert", None)
    sizes = [max(map(abs, node.charges)) for node in found.nodes]
    assert sizes == sorted(sizes, reverse=True)
    assert len({node.node for node in found.nodes}) == NODES_SHOWN
    assert model.classifier.weight.shape[1] == 32


@pytest.mark.parametrize("model_type", ["bert", "roberta", "distilbert"])
def test_token_effects_are_those_of_a_masked_text(account, model_type):
    found, model, tokenizer = account(model_type, 4, top=6)
    assert found.hidden_by == "mask"
    ids = encode([(TEXT,)], tokenizer, 40).input_ids[0]
    specials = set(tokenizer.all_special_ids)
    family = family_of(model.config.model_type)
    words = [position for position, token in enumerate(ids) if token not in specials]
    if model_type != "roberta":
        assert [(effect.position, effect.token) for effect in sorted(found.tokens, key=lambda e: e.position)] == [
            (position + 1, letter) for position, letter in enumerate(TEXT.split())
        ]
    assert {effect.position for effect in found.tokens} <= set(words)
    masked = [
        [tokenizer.mask_token_id if place == hide else token for place, token in enumerate(ids)] for hide in words
    ]
    batch = torch.tensor([ids, *masked])
    with torch.inference_mode():
        encoder = model.get_submodule(family.encoder)
        state = encoder(input_ids=batch, attention_mask=torch.ones_like(batch)).last_hidden_state[:, 0]
        activations = family.activation(model.get_submodule(family.dense)(state))[:, 1]
        logits = model(input_ids=batch, attention_mask=torch.ones_like(batch)).logits
    first, second = logits[0].argsort(descending=True)[:2]
    margins = logits[:, first] - logits[:, second]
    for shown, values in ((found.nodes[1].tokens, activations), (found.tokens, margins)):
        wanted = {position: float(values[0] - values[1 + index]) for index, position in enumerate(words)}
        assert {effect.position: effect.effect for effect in shown} == pytest.approx(
            {effect.position: wanted[effect.position] for effect in shown}, abs=1e-5
        )
        sizes = [abs(effect.effect) for effect in shown]
        assert sizes == sorted(sizes, reverse=True)
        assert sizes[0] == pytest.approx(max(map(abs, wanted.values())), abs=1e-5)


def test_without_a_mask_token_the_token_is_removed(tiny):
    model, family, _, folder = tiny("bert")
    tokenizer = load_tokenizer(find_model(str(folder)))
    tokenizer.mask_token = None
    found = explain(folded(model, family), tokenizer, ("a b c",), ["no", "yes", "maybe"], top=9)
    assert found.hidden_by == "removed"
    short = explain(folded(model, family), tokenizer, ("a c",), ["no", "yes", "maybe"])
    (effect,) = (effect for effect in found.nodes[0].tokens if effect.token == "b")
    assert effect.effect == pytest.approx(found.nodes[0].activation - short.nodes[0].activation, abs=1e-6)


def test_a_pair_keeps_its_segments_and_a_long_text_is_cut(account):
    found, model, tokenizer = account("bert", 4, ("a b", "c d e"), top=9)
    assert sorted((effect.position, effect.token) for effect in found.tokens) == [
        (1, "a"), (2, "b"), (4, "c"), (5, "d"), (6, "e"),
    ]  # fmt: skip
    row = encode([("a b", "c d e")], tokenizer, 60)
    np.testing.assert_allclose(found.logits, predict(model, row)[0], atol=1e-5)
    ids = row.input_ids[0]
    masked = Encodings([[*ids[:5], tokenizer.mask_token_id, *ids[6:]]], row.token_types, row.pad_id)
    first, second = np.argsort(found.logits)[::-1][:2]
    moved = found.margin - (predict(model, masked)[0][first] - predict(model, masked)[0][second])
    assert {effect.position: effect.effect for effect in found.tokens}[5] == pytest.approx(moved, abs=1e-5)
    assert found.tokens_read == found.tokens_total == 8
    cut, _, _ = account("bert", 2, (" ".join("abcdefghij" * 9),))
    assert (cut.tokens_read, cut.tokens_total) == (60, 92)
    assert any("92 tokens" in part and "60" in part for part in explain_tables(cut) if isinstance(part, str))
    assert not any("cut" in part for part in explain_tables(found) if isinstance(part, str))


def test_many_classes_show_two_in_the_table(tmp_path):
    folder = save_model(tmp_path / "many", num_labels=9)
    found = explain_directory(folder, TEXT)
    assert len(found.logits) == 9
    _, _, made, *notes = explain_tables(found)
    assert [column.name for column in made.columns][2:4] == [f"to {found.prediction}", f"to {found.runner_up}"]
    assert len(made.columns) == 6
    assert any("9 classes" in note for note in notes)


@pytest.fixture(scope="module")
def folded_directory(tiny, tmp_path_factory):
    model, family, _, folder = tiny("bert")
    target = tmp_path_factory.mktemp("explain") / "model"
    save_directory(folded(model, family), load_tokenizer(find_model(str(folder))), target, "card")
    return target


def test_command_prints_a_table_whose_last_row_is_the_sum(folded_directory, command):
    code, stdout, _ = command("explain", folded_directory, TEXT)
    assert code == 0
    found = explain_directory(folded_directory, TEXT)
    assert stdout.startswith(f"{found.prediction}: confidence {found.confidence:.1%}")
    lines = stdout.splitlines()
    table = lines[next(index for index, line in enumerate(lines) if line.startswith("\u2500")) + 1 : lines.index("", 3)]
    rows = {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in table)}
    # the node that speaks most for the prediction first
    order = sorted(found.nodes, key=lambda node: -node.charge_for)
    assert list(rows) == [*(f"node {node.node}" for node in order), "bias", "sum = logit"]
    for column in (1, 2, 3, 4):
        # only nodes have an activation, in front of the charges
        numbers = [float(cells[column if name.startswith("node") else column - 1]) for name, cells in rows.items()]
        assert sum(numbers[:-1]) == pytest.approx(numbers[-1], abs=5e-4)
    assert "margin: " in rows["sum = logit"][-1]


def test_command_json_is_the_account_and_the_same_each_time(folded_directory, command):
    code, stdout, _ = command("explain", folded_directory, TEXT, "a b", "--json", "--top", "2")
    assert code == 0
    found = json.loads(stdout)
    assert found == json.loads(json.dumps(explain_directory(folded_directory, TEXT, "a b", top=2).to_dict()))
    assert found["texts"] == [TEXT, "a b"]
    assert all(len(node["tokens"]) == 2 for node in found["nodes"])
    np.testing.assert_allclose(
        np.sum([node["charges"] for node in found["nodes"]], axis=0) + found["bias"], found["logits"], atol=1e-5
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{model}", "  "], "TEXT: the text is empty"),
        (["{model}", "a", ""], "TEXT_PAIR: the text is empty"),
        (["{model}", "\u200b\u0007"], "finds no token"),
        (["{empty}", "a"], "holds no config.json"),
        (["{empty}/none", "a"], "no such directory"),
        (["{model}", "a", "--top", "0"], "--top 0"),
        (["{one}", "a"], "this model gives a score"),
    ],
)
def test_bad_input_is_one_sentence(folded_directory, tmp_path, command, arguments, words):
    (tmp_path / "empty").mkdir()
    if "{one}" in arguments:
        save_model(tmp_path / "one", num_labels=1)
    places = {"model": folded_directory, "empty": tmp_path / "empty", "one": tmp_path / "one"}
    code, stdout, stderr = command("explain", *(argument.format(**places) for argument in arguments))
    assert (code, stdout) == (2, "")
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1


def test_head_unlike_its_family_is_our_fault(tiny, monkeypatch):
    from dataclasses import replace

    model, family, _, folder = tiny("bert")
    monkeypatch.setattr("compressor.analysis.explain.family_of", lambda _name: replace(family, activation=torch.relu))
    with pytest.raises(RuntimeError, match="those of the model"):
        explain(model, load_tokenizer(find_model(str(folder))), (TEXT,), ["no", "yes", "maybe"])


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
