"""The scores that others use, worked by hand, and the geometry that one pass keeps for them."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.data.batches import pad
from compressor.model.states.geometry import Geometry, linear_cka
from compressor.model.states.states import class_states
from compressor.recipe.compression import SelectionSpec
from compressor.selection.baselines import RANKINGS, Evidence, drop_order, importances, ranked_set
from compressor.selection.sensitivity import SENSITIVITIES
from compressor.selection.separability import SCORES

RIGHT, UP, DIAGONAL = [1.0, 0.0], [0.0, 2.0], [3.0, 3.0]


def evidence(seed=0, **pairs):
    """Evidence on four layers whose gains are 3, 1, 2 and -1."""
    states = {name: np.array([0.0, 3.0, 4.0, 6.0, 5.0]) for name in ("separability", *SCORES)}
    alike = 1 - np.abs(np.arange(5)[:, None] - np.arange(5)) / 10
    return Evidence(
        states,
        {"token_cosine": alike, "cls_cosine": alike, "cka": alike, "cls_angle": 1 - alike} | pairs,
        seed,
        np.array([0.5, 0.75, 0.25, 1.0]),
        {name: np.array([4.0, 1.0, 2.0, 0.5]) for name in SENSITIVITIES},
    )


def test_geometry_by_hand():
    # one text of two tokens and padding; the [CLS] turns right -> up -> diagonal, the other token stays as it is
    states = [torch.tensor([[cls, RIGHT, [9.0, -9.0]]]) for cls in (RIGHT, UP, DIAGONAL)]
    geometry = Geometry(3)
    geometry.add(states, [state[:, 0] for state in states], torch.tensor([[1, 1, 0]]))
    assert geometry.cls_cosine[0, 1] == pytest.approx(0)
    assert geometry.cls_cosine[1, 2] == pytest.approx(0.5**0.5)
    assert geometry.cls_angle[0, 1] == pytest.approx(0.5)
    assert geometry.cls_angle[0, 2] == pytest.approx(0.25)
    assert geometry.token_cosine[0, 1] == pytest.approx(0.5)  # block influence of layer 1: 1 - (0 + 1) / 2
    assert (geometry.rows, geometry.tokens) == (1, 2)
    np.testing.assert_allclose(np.diag(geometry.cls_angle), 0)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 9), st.integers(2, 12), st.integers(0, 999))
def test_batches_of_geometry_merge_to_the_whole(parts, rows, seed):
    generator = torch.Generator().manual_seed(seed)
    states = [torch.randn(rows, 3, 4, generator=generator) for _ in range(3)]
    mask = torch.ones(rows, 3, dtype=torch.long)
    mask[::2, 2] = 0
    whole, merged = Geometry(3), Geometry(3)
    whole.add(states, [state[:, 0] for state in states], mask)
    for part in torch.arange(rows).tensor_split(parts):
        if len(part):
            own = [state[part] for state in states]
            merged.add(own, [state[:, 0] for state in own], mask[part])
    for name in ("token_cosine", "cls_cosine", "cls_angle"):
        np.testing.assert_allclose(getattr(merged, name), getattr(whole, name), atol=1e-6)


@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_geometry_of_a_model_is_that_of_its_hidden_states(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    found = class_states(model, family, encodings, None, 3, batch_size=5).geometry
    cosines, tokens = torch.zeros(4, dtype=torch.float64), 0
    for row in range(len(encodings)):
        inputs = {name: torch.from_numpy(value) for name, value in pad(encodings, np.array([row])).items()}
        with torch.inference_mode():
            states = model(**inputs, output_hidden_states=True).hidden_states
        pairs = [torch.nn.functional.cosine_similarity(a[0], b[0], dim=-1) for a, b in pairwise(states)]
        cosines += torch.stack(pairs).double().sum(1)
        tokens += states[0].shape[1]
    assert found.tokens == tokens
    np.testing.assert_allclose(np.diag(found.token_cosine, 1), (cosines / tokens).numpy(), atol=1e-5)


def test_cka_by_hand_and_by_its_invariances():
    generator = np.random.default_rng(0)
    first = generator.normal(size=(200, 5)).astype(np.float32)
    turned = 7 * first @ np.linalg.qr(generator.normal(size=(5, 5)))[0].astype(np.float32) + 3
    other = generator.normal(size=(200, 5)).astype(np.float32)
    alike = linear_cka(np.stack([first, turned, other, np.ones_like(first)]))
    assert alike[0, 1] == pytest.approx(1, abs=1e-4)  # rotation, scale and shift do not count
    gram = [state - state.mean(0) for state in (first.astype(float), other.astype(float))]
    gram = [state @ state.T for state in gram]
    by_kernels = (gram[0] * gram[1]).sum() / np.sqrt((gram[0] ** 2).sum() * (gram[1] ** 2).sum())
    assert alike[0, 2] == pytest.approx(by_kernels, abs=1e-5)
    assert alike[0, 3] == 0  # a state that is one point is like no other
    np.testing.assert_allclose(np.diag(alike), 1)


def test_importance_of_single_layers():
    found = {name: importances(name, evidence()) for name in RANKINGS}
    assert found["separability"] == found["trace_ratio"] == [3.0, 1.0, 2.0, -1.0]
    for name in ("block_influence", "cls_cosine", "angular_distance", "cka"):
        assert found[name] == pytest.approx([0.1] * 4)
    assert found["negative_gain"] == [0.0, 0.0, 0.0, -1.0]
    assert found["downstream_separability"] == [4.0, 1.0, 2.0, 0.5]
    assert found["passthrough"] == [0.5, 0.25, 0.75, 0.0]
    assert found["top_first"] == [4.0, 3.0, 2.0, 1.0]
    assert found["every_other"] == [2.0, 4.0, 1.0, 3.0]  # 3, 1, then 4, 2
    assert sorted(found["random"]) == [1.0, 2.0, 3.0, 4.0]
    assert importances("random", evidence(seed=1)) != found["random"] == importances("random", evidence())


def test_blocks_telescope_for_gains_and_are_measured_for_pairs():
    assert RANKINGS["separability"](evidence(), 2, 4) == pytest.approx(2.0)
    assert RANKINGS["block_influence"](evidence(), 2, 4) == pytest.approx(0.3)
    assert RANKINGS["negative_gain"](evidence(), 2, 4) == -1
    assert RANKINGS["gauss_newton"](evidence(), 2, 4) == 3.5
    assert RANKINGS["passthrough"](evidence(), 2, 4) == 0.25 + 0.75 + 0.0
    assert RANKINGS["top_first"](evidence(), 2, 4) == 3 + 2 + 1


def test_plans_of_scores():
    assert ranked_set("separability", evidence(), 2) == (2, 4)
    assert ranked_set("separability", evidence(), 2, protect=[4]) == (2, 3)
    assert ranked_set("negative_gain", evidence(), 2) == (3, 4)  # the harmful one, then from the top
    assert ranked_set("token_gradient", evidence(), 2) == (2, 4)
    assert ranked_set("top_first", evidence(), 3) == (2, 3, 4)
    assert ranked_set("every_other", evidence(), 2) == (1, 3)
    assert ranked_set("passthrough", evidence(), 2) == (2, 4)  # those that hand their input on
    assert drop_order("block_influence", evidence()) == [4, 3, 2, 1]  # equal scores drop the later layer first
    assert ranked_set("cka", evidence(), 0) == ()


def test_angular_distance_drops_one_block():
    angle = 1 - np.eye(5)
    angle[1, 3] = angle[3, 1] = 0.01  # skipping layers 2 and 3 hardly turns the state
    assert ranked_set("angular_distance", evidence(cls_angle=angle), 2) == (2, 3)
    assert ranked_set("angular_distance", evidence(cls_angle=angle), 2, protect=[3]) == (1, 2)
    assert ranked_set("angular_distance", evidence(cls_angle=angle), 2, protect=[2, 3]) == (1, 4)  # no block is free


def test_every_score_can_rank_the_plan():
    assert set(RANKINGS) == set(get_args(SelectionSpec.model_fields["rank_by"].annotation))


def test_scores_that_are_missing_say_so():
    without = Evidence({"separability": np.zeros(3)}, {}, 0)
    with pytest.raises(ValueError, match="the score gauss_newton needs gradients"):
        importances("gauss_newton", without)
