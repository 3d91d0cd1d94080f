"""`compressor explain`: charges worked out by hand, their sum, what hiding a token does."""

import json
import re

import numpy as np
import pytest
import torch
from folded import folded
from tiny import FOLDING, save_model
from torch import nn

from compressor.analysis.explain import NODES_SHOWN, explain, explain_directory, head_charges
from compressor.cli.directories.explain import explain_tables
from compressor.data.batches import Encodings, encode
from compressor.measurement.predictions import predict
from compressor.model.families import FAMILIES, family_of
from compressor.model.load import find_model, load_tokenizer
from compressor.model.surgery import save_model as save_directory

TEXT = "k f a z q f"


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
