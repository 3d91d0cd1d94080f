"""Mixes for a budget: solved exactly, improved by exchanges, tried; budgets of several cells, gains, protected layers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixes import Known, additive, every_mix, meeting

from compressor.errors import UserError
from compressor.model.units import Shape, split_unit, whole_layers
from compressor.recipe.compression import SelectionSpec
from compressor.selection.budget.mixes import exchanges, find_mix, improved
from compressor.selection.budget.units import (
    cheapest_mix,
    check_budget,
    count_mixes,
    flops_savings,
    part_names,
    saved_by,
)

KINDS = [["layer"], ["layer", "ffn", "attention"], ["width"], ["heads", "width"], ["layer", "heads", "width"]]
FULL = Shape.even(3, 256, 4)


def savings_of(units, keep, layers=3):
    """Return a recipe's selection and what its parts save of a small model: two widths, two amounts of heads."""
    spec = SelectionSpec(units=units, budget={"keep": keep}, widths=[0.5, 0.125], beam_width=8)
    parts = [part for part in part_names(spec, 256, 4) if part not in ("heads:2",)]
    return spec, flops_savings(Shape.even(layers, 256, 4), 32, parts)


@pytest.mark.parametrize("units", KINDS)
@pytest.mark.parametrize("keep", [0.85, 0.7, 0.6])
def test_the_best_of_all_mixes_is_found_where_damage_adds_up(units, keep):
    spec, savings = savings_of(units, keep)
    generator = np.random.default_rng(len(units))
    weight = generator.uniform(0.1, 1, 3)
    damages = additive({key: float(weight[key[0] - 1] * saved.item() ** 1.5) for key, saved in savings.items()})
    trials = Known(3, damages)
    plan = find_mix(trials, savings, damages, spec, FULL)
    allowed = [mix for mix in every_mix(savings, 3) if saved_by(mix, savings).item() >= 1 - keep - 1e-9]
    best = min(allowed, key=damages.together)
    assert plan.chosen.kl == pytest.approx(damages.together(best))
    assert plan.mix.expected == pytest.approx(plan.chosen.kl)
    assert plan.mix.kept == pytest.approx(1 - saved_by(plan.units, savings).item())
    assert plan.mix.kept <= keep + 1e-9
    assert plan.skip == whole_layers(plan.units)
    assert plan.keep == tuple(layer for layer in range(1, 4) if layer not in plan.skip)
    without_any_layer = int("layer" in units)  # a set of layers that leaves none is counted, as of old
    assert plan.sets_total == len(every_mix(savings, 3)) - 1 + without_any_layer == count_mixes(savings)
    assert len(trials.seen) == len(set(trials.seen)) == plan.sets_evaluated
    assert all(trial.skip in allowed for trial in plan.trace)
    assert {(part.layer, part.part) for part in plan.mix.parts} == {(layer, part or "layer") for layer, part in savings}


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(0.55, 0.95), st.integers(1, 2))
def test_the_cheapest_mix_is_that_of_all_mixes(seed, units, keep, cells):
    generator = np.random.default_rng(seed)
    _, savings = savings_of(units, keep)
    savings = {key: saved * generator.uniform(0.5, 1.5, cells) for key, saved in savings.items()}
    damage = {key: float(generator.uniform(0, 1)) for key in savings}
    allowed = [mix for mix in every_mix(savings, 3) if saved_by(mix, savings).min() >= 1 - keep]
    if not allowed:
        return
    damages = additive(damage)
    found = cheapest_mix(savings, damage, 1 - keep, 3)
    assert saved_by(found, savings).min() >= 1 - keep - 1e-6
    assert damages.together(found) == pytest.approx(min(map(damages.together, allowed)), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS[1:]), st.floats(0.6, 0.9))
def test_exchanges_say_what_they_change_and_lead_to_no_more_damage(seed, units, keep):
    _, savings = savings_of(units, keep)
    damages = meeting(savings, np.random.default_rng(seed))
    if max(saved_by(mix, savings).item() for mix in every_mix(savings, 3)) < 1 - keep:
        return
    start = cheapest_mix(savings, damages.alone(), 1 - keep, 3)
    every, before = set(every_mix(savings, 3)), damages.together(start)
    last = -np.inf
    for change, mix in exchanges(start, savings, damages, 1 - keep, 3):
        assert mix in every
        assert saved_by(mix, savings).item() >= 1 - keep - 1e-9
        assert damages.together(mix) - before == pytest.approx(change, abs=1e-9)
        assert change >= last
        last = change
    found = improved(start, savings, damages, 1 - keep, 3)
    assert damages.together(found) <= before + 1e-12
    assert found in every and saved_by(found, savings).item() >= 1 - keep - 1e-9
    best = next(exchanges(found, savings, damages, 1 - keep, 3), None)
    assert best is None or best[0] >= -1e-9 * max(damages.together(found), 1e-9)


def test_every_single_and_double_exchange_is_there():
    _, savings = savings_of(["layer", "heads", "width"], 0.9, layers=2)
    damages, start = additive({key: float(saved.item()) for key, saved in savings.items()}), ("1.heads:1",)

    def blocks(mix):
        losses = dict(map(split_unit, mix))
        whole = {layer for layer, part in losses.items() if not part}
        return [
            "whole"
            if layer in whole
            else next((piece for piece in losses.get(layer, "").split("+") if piece[:1] == name), "")
            for layer in (1, 2)
            for name in ("h", "f")
        ]

    def steps(mix):
        """Count the blocks that differ, a layer that goes or comes back for one exchange."""
        pairs = list(zip(blocks(mix), blocks(start), strict=True))
        changed = [own != other for own, other in pairs]
        whole = [any("whole" in pair for pair in pairs[place : place + 2]) for place in (0, 2)]
        return sum(bool(any(changed[place : place + 2])) if whole[place // 2] else sum(changed[place : place + 2]) for place in (0, 2))  # fmt: skip

    found = {mix for _, mix in exchanges(start, savings, damages, 0.0, 2)}
    assert found == {mix for mix in every_mix(savings, 2) if 1 <= steps(mix) <= 2}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.floats(0.05, 0.95), st.sampled_from([1, 8]))
def test_a_budget_that_can_be_reached_is_always_met(seed, units, keep, beam):
    generator = np.random.default_rng(seed)
    spec, savings = savings_of(units, keep)
    spec = spec.model_copy(update={"beam_width": beam})
    savings = {key: saved * generator.uniform(0.5, 1.0, 2) for key, saved in savings.items()}  # two cells
    try:
        check_budget(spec, savings, 3)
    except UserError:
        return
    damages = meeting(savings, generator)
    plan = find_mix(Known(3, damages), savings, damages, spec, FULL)
    assert 1 - saved_by(plan.units, savings).min() == pytest.approx(plan.mix.kept)
    assert plan.mix.kept <= keep + 1e-6
    assert len(whole_layers(plan.units)) < 3


def test_a_budget_that_only_different_parts_of_different_layers_reach_is_met():
    spec = SelectionSpec(units=["ffn", "attention"], budget={"keep": 0.65, "of": "latency"}, beam_width=1)
    # each part saves 0.1 in one of two cells: two of a kind save 0.2 there, one of each 0.4 in both
    both = {"ffn": np.array([0.1, 0.3]), "attention": np.array([0.3, 0.1])}
    savings = {(layer, part): saved for layer in (1, 2) for part, saved in both.items()}
    damages = additive(dict.fromkeys(savings, 0.1))
    plan = find_mix(Known(2, damages), savings, damages, spec, Shape.even(2, 64, 4))
    assert plan.mix.kept == pytest.approx(0.6)


def test_real_trials_have_the_last_word():
    spec, savings = savings_of(["layer"], 0.7)
    expected, real = (
        additive({(1, ""): 0.1, (2, ""): 0.2, (3, ""): 0.3}),
        additive({(1, ""): 0.3, (2, ""): 0.2, (3, ""): 0.1}),
    )
    plan = find_mix(Known(3, real), savings, expected, spec, FULL)
    assert plan.units == (3,)
    assert plan.mix.expected == pytest.approx(0.3)


def test_the_mix_that_gains_name_is_tried_beside():
    spec, savings = savings_of(["layer", "ffn", "attention"], 0.7)
    damages = additive({key: float(saved.item()) for key, saved in savings.items()})
    gains = {(layer, part): 0.1 * layer for layer in (1, 2, 3) for part in ("ffn", "attention")}
    plan = find_mix(Known(3, damages), savings, damages, spec, FULL, gains)
    assert plan.ranked.skip == (1,)
    assert plan.mix.gain_rho is not None
    assert [part.gain for part in plan.mix.parts if part.part == "layer"] == pytest.approx([0.2, 0.4, 0.6])


def test_protected_layers_stay():
    spec, savings = savings_of(["layer", "heads", "width"], 0.7)
    spec, damages = spec.model_copy(update={"protect": [1]}), additive(dict.fromkeys(savings, 0.1))
    plan = find_mix(Known(3, damages), savings, damages, spec, FULL)
    assert 1 not in [split_unit(unit)[0] for unit in plan.units]
