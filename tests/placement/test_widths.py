"""Widths of equal parameters: by hand, for any depth, and as counted in built models."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertConfig, BertForMaskedLM

from compressor.errors import UserError
from compressor.model.sublayers import shaped_model
from compressor.placement.widths import STARTS, equal_widths, placed_layers, placements_of
from compressor.recipe.placement import EncoderSpec, Place, PlacementsSpec


def test_twelve_layers_70_percent_in_the_middle():
    assert placed_layers(12, 70, "middle") == [3, 4, 5, 6, 7, 8, 9, 10]
    assert equal_widths(12, 3072, placed_layers(12, 70, "middle")) == (0, 0, *[4608] * 8, 0, 0)


@pytest.mark.parametrize(
    ("layers", "ratio", "place", "chosen"),
    [
        (12, 10, "first", [1]),  # 1.2 layers
        (12, 10, "last", [12]),
        (12, 30, "middle", [5, 6, 7, 8]),  # 3.6 layers
        (12, 50, "middle", [4, 5, 6, 7, 8, 9]),
        (12, 90, "middle", list(range(1, 12))),  # 10.8 layers; the odd one without a block is the last
        (24, 70, "middle", list(range(4, 21))),  # 16.8 layers: 3 below, 4 above
        (40, 70, "last", list(range(13, 41))),
        (5, 10, "first", [1]),  # a half is rounded up
        (4, 1, "middle", [2]),  # at least one
    ],
)
def test_layers_with_a_block(layers, ratio, place, chosen):
    assert placed_layers(layers, ratio, place) == chosen


def test_what_cannot_be_shared_evenly_goes_to_the_middle_in_units_of_eight():
    # 3 x 16 = 48 = 6 units of 8 over 2 layers; 5 x 16 = 10 units over 4: 3 + 3 for the middlemost, 2 + 2
    assert equal_widths(3, 16, [1, 3]) == (24, 0, 24)
    assert equal_widths(5, 16, [1, 2, 4, 5]) == (16, 24, 0, 24, 16)
    assert equal_widths(3, 7, [2, 3]) == (0, 11, 10)  # no multiple of 8: units of 1


@given(st.sampled_from([12, 24, 40]), st.integers(1, 512), st.integers(1, 100), st.sampled_from(list(STARTS)))
def test_widths_sum_to_those_of_the_uniform_model(layers, width, ratio, place):
    widths = equal_widths(layers, width, placed_layers(layers, ratio, place))
    on = [each for each in widths if each]
    assert sum(widths) == layers * width
    assert max(on) - min(on) <= 8
    if width % 8 == 0:
        assert all(each % 8 == 0 for each in widths)


@given(st.sets(st.integers(1, 12), min_size=1), st.sampled_from([8, 12, 20]))
def test_built_models_have_equally_many_parameters(chosen, width):
    def parameters(widths):
        config = BertConfig(vocab_size=16, hidden_size=8, num_attention_heads=2, num_hidden_layers=12, intermediate_size=width,
                            max_position_embeddings=8, compressor={"ffn_widths": list(widths)})  # fmt: skip
        return sum(parameter.numel() for parameter in shaped_model(BertForMaskedLM, config).parameters())

    assert parameters(equal_widths(12, width, chosen)) == parameters([width] * 12)


def test_the_full_grid_has_the_uniform_model_once():
    found = placements_of(PlacementsSpec(), EncoderSpec(layers=12, hidden=16, ffn=64))
    assert [placement.name for placement in found] == [
        "uniform",
        *(f"{place}-{ratio}" for ratio in (10, 30, 50, 70, 90) for place in ("first", "middle", "last") if (place, ratio) != ("middle", 90)),
    ]  # fmt: skip
    assert found[0].ratio == 100
    assert found[0].off == ()


def test_places_that_coincide_are_there_once_and_explicit_lists_are_taken():
    spec = PlacementsSpec.model_validate({
        "ratios": [70, 100],
        "explicit": [{"name": "four-to-eleven", "layers": list(range(4, 12))}, {"name": "again", "layers": list(range(3, 11))},
                     {"name": "by-hand", "widths": [64, 0] * 6 + []}],
    })  # fmt: skip
    with pytest.raises(UserError, match=r"explicit.2.widths: the widths sum to 384, those of the uniform model to 768"):
        placements_of(spec, EncoderSpec(layers=12, hidden=16))
    kept = PlacementsSpec(ratios=spec.ratios, explicit=spec.explicit[:2])
    found = {placement.name: placement for placement in placements_of(kept, EncoderSpec(layers=12, hidden=16))}
    assert found["four-to-eleven"].widths == (0, 0, 0, *[96] * 8, 0)
    assert found["four-to-eleven"].off == (1, 2, 3, 12)
    assert "again" not in found  # the same as middle-70


@pytest.mark.parametrize(
    ("explicit", "words"),
    [
        ({"layers": [13]}, "layer 13 does not exist"),
        ({"layers": []}, "no layer is named"),
        ({"layers": [2, 2]}, "named twice"),
        ({"widths": [64] * 11}, "11 widths for 12 layers"),
        ({"widths": [64] * 11 + [72]}, "sum to 776"),
    ],
)
def test_impossible_placements_are_refused(explicit, words):
    spec = PlacementsSpec.model_validate({"explicit": [{"name": "odd", **explicit}]})
    with pytest.raises(UserError, match=words):
        placements_of(spec, EncoderSpec(layers=12, hidden=16))


def test_unknown_places_and_names_given_twice_are_refused():
    with pytest.raises(UserError, match="did you mean 'middle'"):
        placed_layers(12, 50, "midle")
    with pytest.raises(UserError, match="0 % of the layers is impossible"):
        placed_layers(12, 0, "first")
    spec = PlacementsSpec.model_validate({"explicit": [{"name": "first-50", "layers": [1, 12]}]})
    with pytest.raises(UserError, match="'first-50' stands for two"):
        placements_of(spec, EncoderSpec(layers=12, hidden=16))


def test_the_table_of_places_is_the_recipes():
    assert set(STARTS) == set(Place.__args__)
