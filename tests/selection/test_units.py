"""Units of compression: their names, what they save, the walk over mixes and the search for a budget."""

import numpy as np
import pytest
import torch
from compressor.compensation.refits.blocks import build_variants
from hypothesis import given, settings
from hypothesis import strategies as st

from compressor.errors import UserError
from compressor.measurement.cost import shape_flops
from compressor.model.capture import apply_layer, capture_calls, fit_calls, recorded
from compressor.model.states.states import class_states
from compressor.model.units import Shape, ordered, parts_of, shape_left, split_unit, unit_of, unit_words, whole_layers
from compressor.recipe.compression import SelectionSpec
from compressor.selection.separability import score_layers, score_parts
from compressor.selection.trials import Trial, Trials
from compressor.selection.trie import count_applications, set_chunks, walk_sets
from compressor.selection.units import (
    check_budget,
    find_mix,
    flops_savings,
    fullest_mix,
    latency_savings,
    part_names,
    ranked_mix,
    without_surplus,
)

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


def test_widths_become_multiples_of_eight():
    spec = SelectionSpec(units=["attention", "width"], budget={"keep": 0.5}, widths=[0.1, 0.5, 0.999])
    assert part_names(spec, 64) == ["attention", "ffn:32", "ffn:8"]


class Additive:
    """Trials whose damage is known: the sum of what each unit does."""

    def __init__(self, layers, damage):
        self.layers, self.rows, self.damage, self.seen = [None] * layers, 100, damage, []

    def __call__(self, sets, _description):
        self.seen += sets
        return [self.trial(mix) for mix in sets]

    def trial(self, mix):
        kl = sum(self.damage[split_unit(unit)] for unit in mix)
        return Trial(mix, 1 - kl / 10, kl, 0.0, 0.0, None, None, None, None)

    def applications(self, sets):
        return count_applications(len(self.layers), sets)

    def seconds(self, sets):
        return float(len(sets))

    def unknown(self, sets):
        return list(sets)


def every_mix(savings, layers):
    """Return all mixes with at most one part a layer that leave a layer."""
    mixes = [{}]
    for layer in range(1, layers + 1):
        parts = [part for number, part in savings if number == layer]
        mixes = [{**mix, **new} for mix in mixes for new in ({}, *({layer: part} for part in parts))]
    return [
        ordered(unit_of(*item) for item in mix.items())
        for mix in mixes
        if sum(part == "" for part in mix.values()) < layers
    ]


@pytest.mark.parametrize("units", [["layer"], ["layer", "ffn", "attention"], ["width"], ["layer", "ffn", "width"]])
@pytest.mark.parametrize("keep", [0.85, 0.7, 0.55])
def test_the_best_mix_is_found_where_damage_adds_up(units, keep):
    spec = SelectionSpec(units=units, budget={"keep": keep}, widths=[0.5, 0.125], beam_width=64)
    savings = flops_savings(Shape.even(4, 256, 4), 32, part_names(spec, 256))
    generator = np.random.default_rng(len(units))
    layer_damage = generator.uniform(0.1, 1, 4)
    share = {"": 1.2, "ffn": 0.6, "attention": 0.5, "ffn:128": 0.15, "ffn:32": 0.3}
    damage = {key: layer_damage[key[0] - 1] * share[key[1]] for key in savings}
    trials = Additive(4, damage)
    plan = find_mix(trials, savings, spec, Shape.even(4, 256, 4))
    saved = {mix: sum(savings[split_unit(unit)].item() for unit in mix) for mix in every_mix(savings, 4)}
    meeting = [mix for mix, share in saved.items() if 1 - share <= keep + 1e-9]
    best = min(meeting, key=lambda mix: trials.trial(mix).kl)
    assert plan.units == best
    assert plan.mix.kept == pytest.approx(1 - saved[best])
    assert plan.skip == whole_layers(best)
    assert plan.keep == tuple(layer for layer in range(1, 5) if layer not in plan.skip)
    assert plan.sets_total == np.prod([1 + len(part_names(spec, 256))] * 4) - 1
    assert len(trials.seen) == len(set(trials.seen)) == plan.sets_evaluated
    assert all(trial.skip in meeting for trial in plan.trace)
    # nothing is tried from which something could be given back
    for mix in trials.seen:
        if saved[mix] >= 1 - keep - 1e-9:
            assert all(saved[mix] - savings[split_unit(unit)].item() < 1 - keep - 1e-9 for unit in mix)


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(2, 6),
    st.sampled_from([["layer"], ["ffn", "attention"], ["ffn", "attention", "width"], ["layer", "ffn", "width"]]),
    st.floats(0.05, 0.95),
    st.sampled_from([1, 2, 8]),
)
def test_a_budget_that_can_be_reached_is_always_met(seed, layers, units, keep, beam):
    generator = np.random.default_rng(seed)
    spec = SelectionSpec(units=units, budget={"keep": keep}, widths=[0.5, 0.125], beam_width=beam)
    savings = {}
    for layer in range(1, layers + 1):  # parts of any cost: a wider cut saves more, a layer what its parts do
        own = dict(zip(("attention", "ffn"), generator.uniform(0.2, 1, (2, 2)) / layers, strict=True))
        own |= {"": own["attention"] + own["ffn"], "ffn:128": own["ffn"] * 0.5, "ffn:32": own["ffn"] * 0.875}
        savings |= {(layer, part): own[part] / 2 for part in part_names(spec, 256)}
    try:
        check_budget(spec, savings, layers)
    except UserError:
        return
    damage = {key: generator.uniform(0, 1) for key in savings}
    plan = find_mix(Additive(layers, damage), savings, spec, Shape.even(layers, 256, 4))
    saved = sum(savings[split_unit(unit)] for unit in plan.units)
    assert 1 - saved.min() == pytest.approx(plan.mix.kept)
    assert plan.mix.kept <= keep + 1e-6
    assert len(whole_layers(plan.units)) < layers


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10_000),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([["", "attention"], ["ffn", "attention"], ["", "ffn", "attention", "ffn:8"]]),
)
def test_the_fullest_mix_is_that_of_all_mixes_which_saves_most_where_it_saves_least(seed, layers, cells, parts):
    generator = np.random.default_rng(seed)
    savings = {(layer, part): generator.uniform(0.01, 0.2, cells) for layer in range(1, layers + 1) for part in parts}
    found = fullest_mix(savings, layers)
    most = max(
        sum((savings[split_unit(unit)] for unit in mix), np.zeros(cells)).min() for mix in every_mix(savings, layers)
    )
    assert sum((savings[split_unit(unit)] for unit in found), np.zeros(cells)).min() == pytest.approx(most, abs=1e-6)
    assert found in every_mix(savings, layers)


def test_a_budget_that_only_different_parts_of_different_layers_reach_is_met():
    spec = SelectionSpec(units=["ffn", "attention"], budget={"keep": 0.65, "of": "latency"}, beam_width=1)
    # each part saves 0.1 in one of two cells: two of a kind save 0.2 there, one of each 0.4 in both
    both = {"ffn": np.array([0.1, 0.3]), "attention": np.array([0.3, 0.1])}
    savings = {(layer, part): saved for layer in (1, 2) for part, saved in both.items()}
    plan = find_mix(Additive(2, dict.fromkeys(savings, 0.1)), savings, spec, Shape.even(2, 64, 4))
    assert plan.mix.kept == pytest.approx(0.6)


def test_what_could_be_given_back_is_given_back_by_hand():
    savings = {(1, ""): 0.5, (1, "ffn"): 0.3, (2, "ffn"): 0.3, (2, "ffn:8"): 0.2, (3, "attention"): 0.1}
    savings = {key: np.array([saved]) for key, saved in savings.items()}
    assert without_surplus((1, "2.ffn", "3.attention"), savings, 0.75) == (
        1,
        "2.ffn",
    )  # 0.9: the attention is not needed
    assert without_surplus((1, "2.ffn"), savings, 0.65) == (1, "2.ffn:8")
    assert without_surplus((1, "2.ffn"), savings, 0.55) == ("1.ffn", "2.ffn")
    assert without_surplus(("1.ffn",), savings, 0.55) == ("1.ffn",)  # saves too little: as it is
    assert fullest_mix(savings, 3) == (1, "2.ffn", "3.attention")
    assert fullest_mix({key: savings[key] for key in [(1, ""), (1, "ffn")]}, 1) == ("1.ffn",)  # one layer stays


def test_the_mix_by_gain_alone_by_hand():
    savings = {(layer, part): np.array([share]) for layer in (1, 2) for part, share in (("", 0.5), ("ffn", 0.3), ("attention", 0.2))}  # fmt: skip
    gains = {(1, "attention"): 0.4, (1, "ffn"): 0.1, (2, "attention"): 0.2, (2, "ffn"): 0.9}
    assert ranked_mix(savings, gains, 0.3, 2) == ("1.ffn",)
    assert ranked_mix(savings, gains, 0.45, 2) == ("1.ffn", "2.attention")
    assert ranked_mix(savings, gains, 0.65, 2) == (1, "2.attention")  # both parts of layer 1: the whole of it
    assert ranked_mix(savings, gains, 0.9, 2) is None  # the second layer may not go as well
    layers = {key: saved for key, saved in savings.items() if not key[1]}
    assert ranked_mix(layers, gains, 0.5, 2) == (1,)


def test_protected_layers_stay():
    spec = SelectionSpec(units=["layer", "ffn"], budget={"keep": 0.7}, protect=[1])
    savings = flops_savings(Shape.even(4, 64, 4), 32, part_names(spec, 64))
    plan = find_mix(Additive(4, dict.fromkeys(savings, 0.1)), savings, spec, Shape.even(4, 64, 4))
    assert 1 not in [split_unit(unit)[0] for unit in plan.units]


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
        check_budget(spec, flops_savings(Shape.even(4, 64, 4), 32, part_names(spec, 64)), 4)


def test_gains_of_parts_add_up_to_those_of_layers(tiny):
    model, family, encodings, _ = tiny("bert")
    labels = np.arange(24) % 3
    outer = class_states(model, family, encodings, labels, 3)
    inner = class_states(model, family, encodings, labels, 3, inner=True)
    assert np.array_equal(inner.sample[::2], outer.sample)
    calls, _ = capture_calls(model, family, encodings)
    layers = list(model.get_submodule(family.layers))
    with recorded(layers[1], outputs={"attended": family.attention_norm}) as seen:
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
    stand_ins = {
        key: variant.module
        for key, variant in build_variants(model, family, fit_calls(model, family, encodings), wanted).items()
    }
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
    stand_ins = {
        (1, "ffn"): build_variants(model, family, fit_calls(model, family, encodings), {1: ["ffn"]})[1, "ffn"].module
    }
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
