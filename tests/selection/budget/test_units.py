"""Units of compression: their names, what they save, the walk over mixes and the search for a budget."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mixes import every_mix

from compressor.compensation.refits.amounts import NarrowLayers, fit_amounts
from compressor.errors import UserError
from compressor.measurement.cost import shape_flops
from compressor.model.capture import apply_layer, capture_calls, recorded
from compressor.model.states.states import class_states
from compressor.model.units import Shape, ordered, parts_of, shape_left, split_unit, unit_of, unit_words, whole_layers
from compressor.recipe.compression import SelectionSpec
from compressor.selection.budget.units import (
    check_budget,
    flops_savings,
    fullest_mix,
    keys_of,
    latency_savings,
    mix_of,
    part_names,
    ranked_mix,
    saved_by,
    timed_parts,
)
from compressor.selection.separability import score_layers, score_parts
from compressor.selection.trials import Trials
from compressor.selection.trie import count_applications, set_chunks, walk_sets

UNITS = st.builds(unit_of, st.integers(1, 12), st.sampled_from(["", "attention", "ffn", "ffn:384", "ffn:8"]))


def test_units_are_named_and_counted_by_hand():
    units = [4, "5.ffn", "1.ffn:384", 2, "3.ffn", "6.attention"]
    assert ordered(units) == ("1.ffn:384", 2, "3.ffn", 4, "5.ffn", "6.attention")
    assert whole_layers(units) == (4, 2)
    assert parts_of(units) == {5: "ffn", 1: "ffn:384", 3: "ffn", 6: "attention"}
    assert shape_left(units, Shape.even(6, 1536, 12)) == Shape((384, 0, 0, 1536), (12, 12, 12, 0), 12)
    assert unit_words(units) == (
        "all but 384 FFN neurons of layer 1, layers 2 and 4, the FFN of layers 3 and 5 and the attention of layer 6"
    )
    assert unit_words([]) == "no layer"


@given(UNITS)
def test_a_unit_is_what_its_parts_say(unit):
    assert unit_of(*split_unit(unit)) == unit


def test_savings_are_those_of_the_operations_by_hand():
    # at 128 tokens and width 384: attention 128 * 8 * 384^2 + 4 * 128^2 * 384, FFN 128 * 4 * 384 * 1536
    attention, ffn = 176_160_768, 301_989_888
    found = flops_savings(Shape.even(6, 1536, 12), 384, ["", "attention", "ffn", "ffn:384"])
    assert shape_flops(Shape.even(6, 1536, 12), 384) == 6 * (attention + ffn)
    whole = 6 * (attention + ffn)
    wanted = {"": 1 / 6, "attention": attention / whole, "ffn": ffn / whole, "ffn:384": 0.75 * ffn / whole}
    assert {part: found[3, part].item() for part in wanted} == pytest.approx(wanted)


def test_time_saved_is_never_negative():
    cells = [{"layer_ms": 2.0, "parts_ms": {"ffn": 1.0, "attention": 2.5}}, {"layer_ms": 4.0, "parts_ms": {"ffn": 1.0, "attention": 3.0}}]  # fmt: skip
    found = latency_savings(cells, 5, ["", "ffn", "attention"])
    assert found[1, ""] == pytest.approx([0.2, 0.2])
    assert found[4, "ffn"] == pytest.approx([0.1, 0.15])
    assert found[5, "attention"] == pytest.approx([0.0, 0.05])


def test_amounts_that_were_not_timed_lie_on_the_line_between_their_neighbours():
    cell = {
        "layer_ms": 4.0,
        "heads": 12,
        "width": 64,
        "parts_ms": {"heads:6": 3.0, "heads:1": 2.5, "ffn:16": 2.8, "ffn:48": 3.4},
    }
    found = latency_savings([cell], 1, ["heads:9", "heads:6", "heads:3", "ffn:56", "ffn:32", "ffn:8"])
    expected = [0.5 / 4, 1 / 4, (1.5 - 0.5 * 2 / 5) / 4, 0.3 / 4, 0.9 / 4, 1.2 / 4]
    assert [saved.item() for saved in found.values()] == pytest.approx(expected)


def test_a_few_amounts_are_timed():
    spec = SelectionSpec(units=["heads", "width", "attention", "layer"], budget={"keep": 0.5})
    parts = part_names(spec, 1536, 12)
    assert len(parts) == 11 + 15 + 2
    assert parts[:3] == ["heads:11", "heads:10", "heads:9"]
    assert timed_parts(parts, 1536, 12) == [
        "heads:11", "heads:9", "heads:6", "heads:3", "heads:1", "ffn:1440", "ffn:1152", "ffn:768", "ffn:384", "ffn:96",
        "attention",
    ]  # fmt: skip
    assert [part for part in part_names(spec, 4096, 32) if part.startswith("heads")] == [
        f"heads:{left}" for left in range(30, 0, -2)
    ]


def test_mixes_and_their_pieces():
    mix = ("1.heads:4+ffn:384", 2, "3.attention")
    assert keys_of(mix) == [(1, "heads:4"), (1, "ffn:384"), (2, ""), (3, "attention")]
    assert mix_of(keys_of(mix)) == mix
    savings = {(1, "heads:4"): np.array([0.1, 0.2]), (1, "ffn:384"): np.array([0.3, 0.3]), (2, ""): np.array([0.25, 0.25]), (3, "attention"): np.array([0.1, 0.05])}  # fmt: skip
    assert saved_by(mix, savings) == pytest.approx([0.75, 0.8])
    assert saved_by((), savings).tolist() == [0.0]


def test_widths_become_multiples_of_eight():
    spec = SelectionSpec(units=["attention", "width"], budget={"keep": 0.5}, widths=[0.1, 0.5, 0.999])
    assert part_names(spec, 64, 4) == ["attention", "ffn:32", "ffn:8"]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([["", "attention"], ["ffn", "attention"], ["", "ffn", "heads:2", "ffn:8"]]),
)
def test_the_fullest_mix_is_that_of_all_mixes_which_saves_most_where_it_saves_least(seed, layers, cells, parts):
    generator = np.random.default_rng(seed)
    savings = {(layer, part): generator.uniform(0.01, 0.2, cells) for layer in range(1, layers + 1) for part in parts}
    found = fullest_mix(savings, layers)
    mixes = every_mix(savings, layers)
    most = max(saved_by(mix, savings).min() for mix in mixes)
    assert saved_by(found, savings).min() == pytest.approx(most, abs=1e-6)
    assert found in mixes


def test_the_mix_by_gain_alone_by_hand():
    savings = {(layer, part): np.array([share]) for layer in (1, 2) for part, share in (("", 0.5), ("ffn", 0.3), ("attention", 0.2))}  # fmt: skip
    gains = {(1, "attention"): 0.4, (1, "ffn"): 0.1, (2, "attention"): 0.2, (2, "ffn"): 0.9}
    assert ranked_mix(savings, gains, 0.3, 2) == ("1.ffn",)
    assert ranked_mix(savings, gains, 0.45, 2) == ("1.ffn", "2.attention")
    assert ranked_mix(savings, gains, 0.65, 2) == (1, "2.attention")  # both parts of layer 1: the whole of it
    assert ranked_mix(savings, gains, 0.9, 2) is None  # the second layer may not go as well
    layers = {key: saved for key, saved in savings.items() if not key[1]}
    assert ranked_mix(layers, gains, 0.5, 2) == (1,)


@pytest.mark.parametrize(
    ("units", "keep", "least"),
    [
        (["layer"], 0.2, "0.250"),
        (["ffn"], 0.5, "0.750"),  # width 32, FFN 64, 128 tokens: attention costs 3 * 2^20, the FFN 2^20
        (["attention"], 0.1, "0.250"),
        (["layer", "attention"], 0.05, "0.062"),
        (["width"], 0.6, "0.812"),
    ],
)
def test_impossible_budgets_are_refused(units, keep, least):
    spec = SelectionSpec(units=units, budget={"keep": keep}, widths=[0.5, 0.25])
    with pytest.raises(UserError, match=f"selection.budget.keep: {keep:g} cannot be reached .* {least} of the flops"):
        check_budget(spec, flops_savings(Shape.even(4, 64, 4), 32, part_names(spec, 64, 4)), 4)


def test_gains_of_parts_add_up_to_those_of_layers(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.arange(24) % 3
    outer = class_states(model, family, encodings, labels, 3)
    inner = class_states(model, family, encodings, labels, 3, inner=True)
    assert np.array_equal(inner.sample[::2], outer.sample)
    calls, _ = capture_calls(model, family, encodings)
    layers = list(model.get_submodule(family.layers))
    with recorded(layers[1], attended=(family.attention_norm, False)) as seen:
        apply_layer(layers[1], calls, apply_layer(layers[0], calls, [calls[0].hidden]))
    rows = [np.abs(inner.sample[3] - row.numpy()).max(axis=1).min() for row in seen["attended"][:, 0]]
    assert max(rows) < 1e-5
    for score in ("trace_ratio", "h_score"):
        gains = score_parts(inner, score)
        layers = score_layers(outer, score, "gold").layers
        assert list(gains) == [(layer, part) for layer in range(1, 5) for part in ("attention", "ffn")]
        for layer in range(1, 5):
            assert gains[layer, "attention"] + gains[layer, "ffn"] == pytest.approx(layers[layer].gain)


@torch.no_grad()
def test_the_walk_over_mixes_is_that_of_the_models(tiny):
    model, family, encodings, _ = tiny("bert")
    calls, teacher = capture_calls(model, family, encodings)
    wanted = {layer: ["ffn", "attention", "ffn:32"] for layer in range(1, 5)}
    stand_ins = NarrowLayers(model, family, fit_amounts(model, family, encodings, wanted))
    layers = list(model.get_submodule(family.layers))
    sets = [(), ("1.ffn", 3), ("1.ffn", "3.attention"), (2, "4.ffn:32"), ("1.attention", 2, "3.ffn")]
    applied = []
    found = dict(walk_sets(layers, calls, sets, lambda: applied.append(1), stand_ins))
    assert len(applied) == count_applications(4, sets)
    assert {member for chunk in set_chunks(sets, 2, 4) for member in chunk} == set(sets)
    for mix in sets:
        losses = dict(map(split_unit, mix))
        hidden = calls[0].hidden
        for number, layer in enumerate(layers, start=1):
            if losses.get(number) != "":
                module = stand_ins[number, losses[number]] if number in losses else layer
                output = module(hidden, *calls[0].args, **calls[0].kwargs)
                hidden = output if isinstance(output, torch.Tensor) else output[0]
        assert torch.allclose(found[mix][0], hidden, atol=1e-5)
    trials = Trials(model, family, calls, teacher, stand_ins=stand_ins)
    assert trials([()], "full")[0].raw_agreement == 1.0
    assert [trial.skip for trial in trials(sets, "mixes")] == sets


def test_trials_with_other_stand_ins_are_not_believed(tiny, tmp_path):
    model, family, encodings, _ = tiny("bert")
    calls, teacher = capture_calls(model, family, encodings)
    stand_ins = NarrowLayers(model, family, fit_amounts(model, family, encodings, {1: ["ffn"]}))
    options = {"cache": tmp_path / "trials.json", "stand_ins": stand_ins}
    first = Trials(model, family, calls, teacher, **options, made_from="one")
    kept = first([("1.ffn", 2)], "mix")[0]
    again = Trials(model, family, calls, teacher, **options, made_from="one")
    assert again.unknown([("1.ffn", 2)]) == []
    assert again([("1.ffn", 2)], "mix")[0] == kept
    assert Trials(model, family, calls, teacher, **options, made_from="other").unknown([("1.ffn", 2)]) != []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"units": ["ffn"]}, "budget.keep"),
        ({"budget": {"keep": 0.5}, "layers": 2}, "leave layers out"),
        ({"budget": {"keep": 0.5}, "search": "greedy"}, "search: beam"),
        ({"budget": {"keep": 0.5}, "audit": True}, "audit measures sets of whole layers"),
        ({"budget": {"keep": 1.0}}, "less than 1"),
        ({"budget": {"keep": 0.5}, "units": []}, "at least one kind"),
        ({"budget": {"keep": 0.5}, "units": ["ffn", "ffn"]}, "none twice"),
        ({"budget": {"keep": 0.5}, "units": ["width"], "widths": []}, "at least one share"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        SelectionSpec(**values)


def test_a_budget_is_searched_by_beam():
    assert SelectionSpec(budget={"keep": 0.5}).search == "beam"
    spec = SelectionSpec(budget={"keep": 0.5}, units=["layer", "ffn"])
    assert SelectionSpec(**spec.model_dump()) == spec
