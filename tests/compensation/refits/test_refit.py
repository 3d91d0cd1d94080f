"""The closed-form refit: normal equations by hand, recovery of a known change, guards, and whole models."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import APART

from compressor.compensation.refits.equations import NormalEquations
from compressor.compensation.refits.refit import refit_gaps
from compressor.errors import UserError
from compressor.model.capture import capture_calls, fit_calls
from compressor.model.families import layer_list
from compressor.model.surgery import drop_layers
from compressor.recipe.training import CompensationSpec, RefitSpec


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(0, 999))
def test_streamed_sums_solve_the_weighted_ridge_regression(parts, seed):
    generator = torch.Generator().manual_seed(seed)
    phi, wanted = torch.randn(40, 3, generator=generator), torch.randn(40, 2, generator=generator)
    weight = torch.rand(40, generator=generator) + 0.1
    phi, wanted = phi.double(), wanted.double()  # products are taken in the precision of the rows
    sums = NormalEquations()
    for rows in torch.arange(40).tensor_split(parts):
        sums.add(phi[rows], wanted[rows], weight[rows])
    design = torch.cat([phi, torch.ones(40, 1)], dim=1)
    root = weight.double().sqrt()[:, None]
    exact = torch.linalg.lstsq(root * design, root * wanted).solution
    torch.testing.assert_close(sums.solve(0.0), exact, atol=1e-8, rtol=1e-6)
    for change in (exact, torch.zeros_like(exact)):
        squares = (weight.double()[:, None] * (wanted - design @ change).square()).sum() / weight.double().sum()
        assert sums.error(change) == pytest.approx(float(squares), rel=1e-9)
    assert float(sums.solve(1e6)[:-1].abs().max()) < 1e-4  # a strong penalty means no change but for the bias
    assert sums.condition(1.0) < sums.condition(1e-3)


def states(model, family, calls):
    hidden = [call.hidden for call in calls]
    from compressor.model.capture import apply_layer

    for layer in layer_list(model, family):
        hidden = apply_layer(layer, calls, hidden)
    return hidden


def distance(first, second, calls):
    parts = [(a - b)[call.mask.bool()].square().mean() for a, b, call in zip(first, second, calls, strict=True)]
    return float(torch.stack(parts).mean())


@pytest.mark.parametrize("model_type", APART)
def test_behind_a_gap_the_student_comes_nearer_to_the_teacher(tiny, model_type):
    model, family, encodings, _ = tiny(model_type)
    encodings = encodings.take(np.tile(np.arange(len(encodings)), 10))
    calls = fit_calls(model, family, encodings, batch_size=8)
    wanted = states(model, family, calls)
    plain, student = (drop_layers(model, family, [4]) for _ in range(2))
    done = refit_gaps(model, student, family, [1, 2, 3], calls, RefitSpec(cls_weight=1.0))
    assert [(refit.layer, refit.target, refit.rows) for refit in done] == [(3, 4, 240)]
    assert done[0].strength is not None
    assert done[0].error_after < 0.8 * done[0].error_before
    assert distance(states(student, family, calls), wanted, calls) < 0.8 * distance(
        states(plain, family, calls), wanted, calls
    )
    changed = [
        name
        for (name, a), b in zip(plain.state_dict().items(), student.state_dict().values(), strict=True)
        if not a.equal(b)
    ]
    leaves = [".weight"] if family.bias_keys[1] else [".weight", ".bias"]
    assert [name.rpartition(family.ffn_output)[2] for name in changed] == leaves  # one linear map, no more
    assert changed[0].startswith(f"{family.layers}.2.")


def test_a_known_change_of_the_feed_forward_output_is_undone(tiny):
    model, family, encodings, _ = tiny("bert")
    encodings = encodings.take(np.tile(np.arange(len(encodings)), 10))
    calls = fit_calls(model, family, encodings, batch_size=8)
    wanted = states(model, family, calls)
    damaged = drop_layers(model, family, [])
    with torch.no_grad():
        layer_list(damaged, family)[2].output.dense.weight += 0.05 * torch.randn(
            32, 64, generator=torch.Generator().manual_seed(0)
        )
    before = distance(states(damaged, family, calls), wanted, calls)
    # a full model has no gap, so pretend that its third layer is another second one, which should lead to state 3
    fits = refit_gaps(model, damaged, family, [1, 2, 2, 4], calls, RefitSpec(cls_weight=1.0))
    assert len(fits) == 1
    assert distance(states(damaged, family, calls), wanted, calls) < 0.1 * before


def test_gaps_and_later_layers(tiny):
    model, family, encodings, _ = tiny("bert")
    calls = fit_calls(model, family, encodings, batch_size=4)

    def layers(skip, **spec):
        keep = [layer for layer in range(1, 5) if layer not in skip]
        done = refit_gaps(model, drop_layers(model, family, skip), family, keep, calls, RefitSpec(**spec))
        return [(refit.layer, refit.target) for refit in done]

    assert layers([2]) == [(1, 2)]
    assert layers([2], layers="later") == [(1, 2), (3, 3), (4, 4)]
    assert layers([2, 3]) == [(1, 3)]
    assert layers([2, 4]) == [(1, 2), (3, 4)]
    assert layers([1]) == []  # nothing stands in front of the gap


def test_every_fifth_row_is_held_out_whatever_the_batches(tiny):
    model, family, encodings, _ = tiny("bert")
    for size in (2, 8, 32):
        calls = fit_calls(model, family, encodings, batch_size=size)
        rows = {
            held: sorted(row for call in calls if call.held == held for row in call.rows.tolist())
            for held in (True, False)
        }
        assert rows == {True: [4, 9, 14, 19], False: [row for row in range(24) if row % 5 != 4]}
        plain, _ = capture_calls(model, family, encodings, batch_size=1)
        state = {int(call.rows): call.hidden[0] for call in plain}
        for call in calls:
            for row, mask, hidden in zip(call.rows.tolist(), call.mask.bool(), call.hidden, strict=True):
                torch.testing.assert_close(hidden[mask], state[row], atol=1e-5, rtol=0)
    with pytest.raises(UserError, match=r"data.calibration: 4 texts, .* take at least 5, of which one is held out"):
        fit_calls(model, family, encodings.take(np.arange(4)))


@pytest.mark.parametrize("rows", [10, 24])
def test_few_rows_are_judged_by_rows_that_the_fit_has_not_seen(tiny, rows):
    model, family, encodings, _ = tiny("bert")
    encodings = encodings.take(np.arange(rows))
    plain, made = drop_layers(model, family, [2, 3, 4]), []
    for size in (2, 32):  # once, few rows that made a single batch judged themselves: an error of next to nothing
        student = drop_layers(model, family, [2, 3, 4])
        calls = fit_calls(model, family, encodings, batch_size=size)
        made.append(refit_gaps(model, student, family, [1], calls, RefitSpec(cls_weight=1.0))[0])
    assert made[0].error_after == pytest.approx(made[1].error_after, rel=1e-3)

    def left(held):
        part = [call for call in calls if call.held == held]
        wanted = states(model, family, part)
        after, before = (distance(states(each, family, part), wanted, part) for each in (student, plain))
        return after / before

    # what is said is what the held-out rows show (but for the norm, taken as linear), far above what the fitted ones do
    assert made[1].error_after / made[1].error_before == pytest.approx(left(held=True), rel=0.5)
    assert left(held=True) > 1.5 * left(held=False)


def test_a_refit_that_does_not_help_held_out_text_is_not_made(tiny, monkeypatch):
    model, family, encodings, _ = tiny("bert")
    calls = fit_calls(model, family, encodings, batch_size=4)
    student, plain = (drop_layers(model, family, [4]) for _ in range(2))
    monkeypatch.setattr(NormalEquations, "solve", lambda self, strength: torch.full_like(self.cross, 9.0))
    done = refit_gaps(model, student, family, [1, 2, 3], calls, RefitSpec())
    assert done[0].strength is None
    assert done[0].error_after == done[0].error_before
    for a, b in zip(plain.state_dict().values(), student.state_dict().values(), strict=True):
        assert a.equal(b)


def test_the_recipe_takes_a_name_or_a_section():
    assert CompensationSpec(refit="closed_form").refit == RefitSpec()
    assert CompensationSpec(refit={"layers": "later"}).refit.layers == "later"
    assert CompensationSpec().refit is None


def test_a_run_with_a_refit_says_what_was_done_and_stays_stock(tiny_task, tmp_path, command):
    sets = "compensation.refit=closed_form", "selection={search: fixed, skip: [2]}", "export.variants=[optimized]"
    arguments = [part for pair in (*sets, "benchmark.workload=false") for part in ("--set", pair)]
    out = tmp_path / "run"
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", out, "--json", *arguments)
    result = json.loads(stdout)
    assert code == 0
    assert [(refit["layer"], refit["target"], refit["rows"]) for refit in result["refit"]] == [(1, 2, 60)]
    assert result["refit"][0]["error_after"] <= result["refit"][0]["error_before"]
    assert "Closed-form refit" in (out / "report.html").read_text(encoding="utf-8")
    card = (out / "model" / "README.md").read_text(encoding="utf-8")
    assert ("layer 1 refitted in closed form" in card) == (result["refit"][0]["strength"] is not None)
    assert result["parity"]["optimized"]["agreement"] == 1.0
