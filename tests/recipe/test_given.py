"""Recipes and overrides as Python holds them."""

from pathlib import Path

import pytest

from compressor.errors import UserError
from compressor.recipe.file import load_recipe

VALUES = {"name": "a", "model": {"path": Path("m")}, "data": {"train": "a.csv", "validation": "b.csv", "text": "t"}}
RECIPE = {**VALUES, "separability": {"labels": "teacher"}, "compensation": {"head": {"targets": "teacher"}}}


def test_a_dict_is_a_recipe_and_stays_as_it_was():
    before = repr(RECIPE)
    recipe = load_recipe(RECIPE, {"seed": 3, "data.text": ("t", "u")})
    assert (recipe.model.path, recipe.seed, recipe.data.text) == ("m", 3, ["t", "u"])
    assert repr(RECIPE) == before
    assert load_recipe(recipe) is recipe
    assert load_recipe(recipe, ["seed=3"]) == recipe


def test_a_dict_of_overrides_leaves_what_it_does_not_name():
    recipe = load_recipe({**RECIPE, "benchmark": {"batch_sizes": [7], "lengths": [9]}})
    changed = load_recipe(recipe, {"benchmark": {"lengths": [8]}, "cascade": {}, "compensation.head": None})
    assert (changed.benchmark.batch_sizes, changed.benchmark.lengths) == ([7], [8])
    assert changed.cascade is not None
    assert changed.compensation.head is None
    assert load_recipe(recipe, "benchmark.lengths=[8]").benchmark == changed.benchmark


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        (5, (), "recipe: a int is no recipe; give the path of a YAML file, a dict of its keys or a Recipe."),
        ({**RECIPE, "sed": 1}, (), "the recipe: sed: unknown key; did you mean 'seed'?"),
        (RECIPE, {"benchmark": {"min_secs": 1}}, "benchmark.min_secs: unknown key; did you mean 'min_seconds'?"),
        (RECIPE, {"seed": "x"}, "seed: input should be a valid integer, not 'x'."),
        (RECIPE, ["seed=x"], "--set seed: input should be a valid integer, not 'x'."),
        (RECIPE, {"benchmark..lengths": 1}, "overrides: 'benchmark..lengths' is no key of a recipe"),
        (RECIPE, {1: 1}, "overrides: 1 is no key of a recipe"),
        (RECIPE, ["seed"], "write key.path=value"),
    ],
)
def test_mistakes_are_one_sentence(recipe, overrides, words):
    with pytest.raises(UserError) as caught:
        load_recipe(recipe, overrides)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
