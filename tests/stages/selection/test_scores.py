"""When the scores take gradients, on how many texts, and what a dry run says of it."""

import numpy as np
import pytest

from compressor.files import read_json
from compressor.pipeline.pipeline import run_until
from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare
from compressor.selection.sensitivity import SENSITIVITIES
from compressor.stages.selection import scores


def recipe_of(tiny_task, *sets):
    return load_recipe(tiny_task / "recipe.yaml", sets)


@pytest.mark.parametrize(
    ("sets", "wanted"),
    [
        ((), True),
        (("selection.rank_by=gauss_newton",), True),
        (("selection.rank_by=cka",), False),
        (("selection.rank_by=cka", "selection.audit=true"), True),
        (("selection={search: fixed, skip: [1]}",), False),
        (("selection={budget: {keep: 0.5}}",), False),
        (("selection={}", "ship={goal: near}"), False),
    ],
)
def test_gradients_are_taken_where_a_score_that_reads_them_is_asked_for(tiny_task, sets, wanted):
    assert scores.takes_gradients(recipe_of(tiny_task, *sets)) is wanted


def test_scores_have_the_gradients_of_every_layer_and_the_dry_run_says_what_they_cost(tiny_task, tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "MOST_ROWS", 20)
    recipe = recipe_of(tiny_task)
    run = prepare(recipe, tmp_path, "cpu", silent)
    assert scores.cost(run) == "1 pass over 60 calibration rows, 1 pass forward and 2 back over 20 of them"
    rows = scores.gradient_rows(run)
    assert (len(rows), rows[0], rows[-1]) == (20, 0, 59)
    assert len(np.unique(rows)) == 20
    plain = recipe_of(tiny_task, "selection.rank_by=top_first")
    assert scores.cost(prepare(plain, tmp_path, "cpu", silent)) == "1 pass over 60 calibration rows"
    run_until(recipe, "scores", tmp_path, device="cpu")
    found = read_json(tmp_path / "scores.json")["gradients"]
    assert tuple(found) == SENSITIVITIES
    assert all(len(values) == 3 and np.isfinite(values).all() for values in found.values())
    assert scores.result(run)["scores"]["gradients"] == found
    run_until(plain, "scores", tmp_path, device="cpu")
    assert "gradients" not in read_json(tmp_path / "scores.json")
    assert "gradients" not in scores.result(run)["scores"]
