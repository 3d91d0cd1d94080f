"""Token classifiers of every family: known by their class, read at the first token of every word, cut, folded, exported."""

import copy

import numpy as np
import pytest
import torch
from tiny import LETTERS, byte_pairs, save_model

from compressor.compensation.heads.head import Head, fold_error, fold_head, head_states, standardisation
from compressor.data.answers.kinds import TOKENS
from compressor.data.batches import encode_words, pad, read
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.measurement.predictions import predict
from compressor.measurement.runtime import predict_onnx, session
from compressor.model.capture import apply_layer, capture_calls
from compressor.model.families import FAMILIES, family_of
from compressor.model.load import find_model, load_classifier, load_model, load_tokenizer
from compressor.model.states.gradients import LEAVING, answer_gradients
from compressor.model.states.reading import head_logits, read_state, reads_first
from compressor.model.states.states import class_states, final_states
from compressor.model.surgery import drop_layers
from compressor.model.surgery import save_model as save

TEXTS = [tuple(LETTERS[(5 * row + word) % 26] * (1 + word % 2) for word in range(1 + row % 7)) for row in range(12)]
ALL = sorted(FAMILIES)


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    """Return a function: family -> (model, its row, encodings of words, directory), loaded once and never changed."""
    made = {}

    def get(model_type):
        if model_type not in made:
            folder = save_model(tmp_path_factory.mktemp("tagger") / model_type, model_type, 4, tokens=True)
            source = find_model(str(folder))
            encodings = encode_words(TEXTS, load_tokenizer(source), 30)
            made[model_type] = load_classifier(source), family_of(model_type, source.task.kind), encodings, folder
        return made[model_type]

    return get


@pytest.mark.parametrize("model_type", ALL)
def test_outputs_are_those_of_the_words_first_tokens_whatever_the_batch(tagger, model_type):
    model, _, encodings, folder = tagger(model_type)
    assert find_model(str(folder)).task.kind == TOKENS
    assert not reads_first(model.config.to_dict())
    model = copy.deepcopy(model).double()  # in float64, where padding changes no sum
    logits = predict(model, encodings, batch_size=5)
    assert logits.shape == (sum(map(len, TEXTS)), 3)
    place = 0
    for row, words in enumerate(TEXTS):  # each text alone, its words found by hand
        inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()}
        with torch.inference_mode():
            alone = model(**inputs).logits[0, encodings.words[row]].numpy()
        assert np.abs(alone - logits[place : place + len(words)]).max() < 1e-5
        place += len(words)


@pytest.mark.parametrize("model_type", ALL)
def test_the_head_reads_what_the_last_layer_leaves_at_the_words(tagger, model_type):
    model, family, encodings, _ = tagger(model_type)
    calls, logits = capture_calls(model, family, encodings, batch_size=5)
    hidden = [call.hidden for call in calls]
    for layer in model.get_submodule(family.layers):
        hidden = apply_layer(layer, calls, hidden)
    for call, state in zip(calls, hidden, strict=True):
        with torch.inference_mode():
            found = head_logits(model, family, read_state(model, family, state, call.mask, call.at))
        assert (found - logits[call.answers]).abs().max() < 1e-5
    states, own = final_states(model, family, encodings)
    assert (len(states), np.abs(own - logits.numpy()).max() < 1e-5) == (len(logits), True)


@pytest.mark.parametrize("model_type", ALL)
def test_a_shorter_tagger_is_stock_and_its_files_answer_alike(tagger, model_type, tmp_path):
    model, family, encodings, folder = tagger(model_type)
    made = drop_layers(
        model, family, {"modernbert": [2, 4], "albert": [model.config.num_hidden_layers]}.get(model_type, [2])
    )
    save(made, load_tokenizer(find_model(str(folder))), tmp_path / "model", "# card\n")
    loaded = load_model(tmp_path / "model")
    assert type(loaded).__name__.endswith("ForTokenClassification")
    wanted = predict(made, encodings)
    assert np.abs(predict(loaded, encodings) - wanted).max() < 1e-6
    files = export_variants(tmp_path / "model", tmp_path / "onnx", ["fp32", "optimized"])
    for name, file in files.items():
        assert np.abs(predict_onnx(session(file.path), encodings) - wanted).max() < 1e-4, name


@pytest.mark.parametrize("model_type", ALL)
def test_a_head_folds_into_the_classifier_alone(tagger, model_type):
    model, family, encodings, _ = tagger(model_type)
    made = drop_layers(model, family, [])
    states = torch.from_numpy(final_states(made, family, encodings)[0])
    read_by, activation = head_states(made, family, states)
    generator = torch.Generator().manual_seed(0)
    mean, deviation = standardisation(read_by)
    parts = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, read_by.shape[1]), 3, (3, 3), 3)
    )
    head = Head(mean, deviation, *parts)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    fold_head(made, family, head)
    assert fold_error(made, family, head, states) < 1e-4
    changed = {name for name, value in made.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert np.abs(predict(made, encodings) - head.logits(read_by, activation).numpy()).max() < 1e-4


def test_moments_are_those_of_words_by_their_labels(tagger):
    model, family, encodings, _ = tagger("bert")
    labels = np.arange(encodings.answers) % 3
    found = class_states(model, family, encodings, labels, 3, batch_size=5)
    states, logits = final_states(model, family, encodings)
    assert found.moments.count.tolist() == [(labels == label).sum() for label in range(3)]
    means = np.stack([states[labels == label].mean(0) for label in range(3)])
    assert np.abs(found.moments.mean[-1] - means).max() < 1e-5
    assert np.abs(found.logits - logits).max() < 1e-5


def test_gradients_with_random_signs_have_the_squares_of_the_words_in_the_mean(tagger, monkeypatch):
    """The square of a shift along the drawn sum of a text's words is, over all signs, the sum of the squares of each word."""
    model, family, encodings, _ = tagger("bert")
    one = encodings.take(np.array([2]))  # three words
    update = torch.randn(*pad(one, np.array([0]))["input_ids"].shape, 32, generator=torch.Generator().manual_seed(1))
    number, found = len(model.get_submodule(family.layers)), []
    for signs in range(8):
        drawn = torch.tensor([[[(signs >> word) & 1]] for word in range(3)])
        monkeypatch.setattr(torch, "randint", lambda *_args, drawn=drawn, **_more: drawn)
        (batch,) = answer_gradients(model, family, one)
        found.append(torch.einsum("kbsh,bsh->kb", batch.gradients[number, LEAVING], update).square().sum())
    logits = torch.from_numpy(predict(model, one)).double()
    shift = model.classifier(update[read_places(one)]).detach().double() - model.classifier.bias.detach().double()
    shares = logits.softmax(1)
    wanted = (shares * shift.square()).sum(1) - (shares * shift).sum(1).square()  # dz' (diag(p) - p p') dz of each word
    assert torch.stack(found).mean().item() == pytest.approx(wanted.mean().item(), rel=1e-4)


def read_places(encodings):
    return encodings.read_at(np.arange(len(encodings)))


def test_byte_level_tokenizers_get_a_space_in_front_of_words(tmp_path):
    folder = save_model(tmp_path / "roberta", "roberta", tokens=True)
    tokenizer = load_tokenizer(find_model(str(folder)))
    assert encode_words([("ab", "c")], tokenizer, 16).words == [[1, 4]]
    assert not byte_pairs(tmp_path).add_prefix_space, "a plain one puts none"


def test_a_checkpoint_without_the_head_for_tokens_is_refused(tmp_path):
    folder = save_model(tmp_path / "model", "roberta")
    config = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(config.replace("ForSequenceClass", "ForTokenClass"), encoding="utf-8")
    with pytest.raises(UserError, match=r"no classification head \(classifier\.bias is missing\)"):
        load_classifier(find_model(str(folder)))


def test_outputs_of_rows_stay_as_they_are():
    values = np.arange(6).reshape(3, 2)
    assert read(values, None) is values
