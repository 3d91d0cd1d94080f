"""Exit heads: the ridge is scikit-learn's, one pass equals one batch, and what is linear is found."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tiny import letter_rows

from compressor.cascade.exits import HELD_OUT, RidgeSums, centred, exit_features, fit_exits, model_reader
from compressor.data.batches import encode, padded_batches
from compressor.model.families import layer_list
from compressor.model.load import find_model, load_tokenizer


@pytest.fixture
def regression():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 6)) * np.array([1, 2, 0.5, 3, 1, 0.8]) + np.arange(6)
    return x, x @ generator.normal(size=(6, 3)) + generator.normal(size=(200, 3)) + 4


def sums_of(x, y, parts=1):
    sums = RidgeSums(x.shape[1], y.shape[1])
    for rows in np.array_split(np.arange(len(x)), parts):
        sums.add(torch.from_numpy(x[rows]), torch.from_numpy(y[rows]))
    return sums


@pytest.mark.parametrize("strength", [1e-4, 0.1, 1.0])
def test_solution_is_that_of_ridge_on_standardised_features(regression, strength):
    x, y = regression
    mean, deviation = x.mean(0), x.std(0)
    reference = Ridge(alpha=strength * len(x)).fit((x - mean) / deviation, y)
    weight, bias = sums_of(x, y).solve(strength)
    expected = (x - mean) / deviation @ reference.coef_.T + reference.intercept_
    np.testing.assert_allclose(x @ weight.numpy() + bias.numpy(), expected, atol=1e-9)


def test_many_batches_equal_one(regression):
    (one, offset), (many, other) = (sums_of(*regression, parts=parts).solve(0.01) for parts in (1, 7))
    torch.testing.assert_close(one, many, rtol=0, atol=1e-11)
    torch.testing.assert_close(offset, other, rtol=0, atol=1e-11)


def test_a_feature_that_hardly_varies_gets_no_large_weight(regression):
    x, y = regression
    flat = np.hstack([x, 1e-9 * np.random.default_rng(1).normal(size=(200, 1))])
    weight, _ = sums_of(flat, y).solve(1e-4)
    assert weight[-1].abs().max() < 1e-3
    assert torch.isfinite(weight).all()


def test_centred_logits_decide_alike():
    logits = torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.5, 9.0]])
    assert centred(logits).tolist() == [[-1.0, 1.0, 0.0], [-1.5, -1.0, 2.5]]


def test_what_is_linear_in_the_features_is_explained_and_the_rows_fall_where_they_belong(tiny):
    model, family, _, folder = tiny("bert")
    texts = [(text,) for text, _ in letter_rows(600)]
    many = encode(texts, load_tokenizer(find_model(str(folder))), 40)
    targets = np.zeros((len(many), 3), dtype=np.float32)
    weight = torch.randn(3 * model.config.hidden_size, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        for rows, batch in padded_batches(many, 32):
            inputs = {name: torch.from_numpy(value) for name, value in batch.items()}
            state = model(**inputs, output_hidden_states=True).hidden_states[2]
            x = exit_features(layer_list(model, family)[2], family, state, inputs["attention_mask"])
            targets[rows] = (x @ weight).numpy()
    fits, held = fit_exits(model, family, many, [1, 2], targets)
    assert [fit.head.layer for fit in fits] == [1, 2]
    assert fits[1].explained > 0.999
    assert held.rows.tolist() == list(range(HELD_OUT - 1, len(many), HELD_OUT))
    np.testing.assert_array_equal(held.wanted, targets[held.rows])
    foretold = centred(torch.from_numpy(held.wanted)).numpy()
    np.testing.assert_allclose(fits[1].logits, foretold, atol=0.05 * np.abs(foretold).max())
    own, _ = fit_exits(model, family, many, [2])
    assert own[0].explained != pytest.approx(fits[1].explained)  # the model's own logits are another target


def test_exits_are_fitted_on_the_states_that_they_will_see(tiny):
    model, family, _, folder = tiny("bert")
    many = encode([(text,) for text, _ in letter_rows(200)], load_tokenizer(find_model(str(folder))), 40)
    read = model_reader(model, family, [1])

    def rounded(inputs):
        seen, logits = read(inputs)
        return {layer: (4 * features).round() / 4 for layer, features in seen.items()}, logits + 1

    plain, held = fit_exits(model, family, many, [1])
    coarse, other = fit_exits(model, family, many, [1], held_targets(model, many), reader=rounded)
    np.testing.assert_allclose(other.own, held.own + 1, atol=1e-5)
    np.testing.assert_allclose(other.wanted, held.wanted, atol=1e-5)
    assert not np.allclose(plain[0].logits, coarse[0].logits, atol=1e-3)
    with torch.inference_mode():
        ((rows, batch),) = padded_batches(many, 200)
        x = rounded(batch)[0][1][np.argsort(rows)]
    found = x[held.rows].double() @ coarse[0].head.weight + coarse[0].head.bias
    np.testing.assert_allclose(found, coarse[0].logits, atol=1e-3)


def held_targets(model, many):
    logits = np.zeros((len(many), 3), dtype=np.float32)
    with torch.inference_mode():
        for rows, batch in padded_batches(many, 32):
            logits[rows] = model(**{name: torch.from_numpy(value) for name, value in batch.items()}).logits.numpy()
    return logits
