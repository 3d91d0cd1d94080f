"""Points of a sweep: what they are called, what they replace, and what is refused."""

import pytest

from compressor.errors import UserError
from compressor.recipe.file import dump_recipe, load_any, load_spec
from compressor.recipe.sweep import SweepRecipe
from compressor.sweep.points import points_of

BASE = {"name": "base", "model": {"path": "m"}, "data": {"train": "t.csv", "validation": "v.csv", "text": "text"}}


def sweep(**more):
    return SweepRecipe(**{"name": "s", "base": BASE, **more})


def test_every_combination_is_a_point_and_the_last_part_is_the_fastest():
    found = points_of(
        sweep(models={"a": "./a", "b": {"model.path": "./b", "data": {"max_length": 64}}},
              data={"x": {"train": "x.csv"}}, grid={"selection.layers": [1, 2]}, seeds=[0, 7])
    )  # fmt: skip
    assert [point.name for point in found][:3] == ["a_x_layers-1_seed0", "a_x_layers-1_seed7", "a_x_layers-2_seed0"]
    assert len(found) == 8
    last = found[-1]
    assert (last.recipe.model.path, last.recipe.data.max_length, last.recipe.data.train) == ("./b", 64, "x.csv")
    assert (last.recipe.selection.layers, last.recipe.seed, last.recipe.name) == (2, 7, last.name)
    assert last.place == {"model": "b", "data": "x", "selection.layers": 2, "seed": 7}
    assert found[0].recipe.data.validation == "v.csv"  # of data only what is named is replaced


def test_names_stand_for_parts_in_texts():
    (point,) = points_of(
        sweep(models={"a": "models/${model}"}, data={"x": {"train": "${data}/${model}.csv", "text": ["${sweep}", "b"]}},
              seeds=[3])
    )  # fmt: skip
    assert point.recipe.model.path == "models/a"
    assert point.recipe.data.train == "x/a.csv"
    assert point.recipe.data.text == ["s", "b"]


def test_a_list_names_its_points_or_numbers_them():
    found = points_of(sweep(list=[{"name": "small", "selection.layers": 2}, {"benchmark": {"lengths": [8]}}]))
    assert [point.name for point in found] == ["small", "2"]
    assert found[0].recipe.selection.layers == 2
    assert found[1].recipe.benchmark.lengths == [8]


def test_names_are_folders():
    found = points_of(sweep(models={"a/b c": "m"}, grid={"benchmark.lengths": [[8, 16]]}))
    assert [point.name for point in found] == ["a-b-c_lengths-8-16"]
    assert points_of(sweep())[0].name == "s"


def test_the_base_is_found_beside_the_sweep(tmp_path, monkeypatch):
    (recipe,) = points_of(sweep())
    (tmp_path / "base.yaml").write_text(dump_recipe(recipe.recipe), encoding="utf-8")
    (tmp_path / "sweep.yaml").write_text("name: s\nbase: base.yaml\nseeds: [1, 2]\n", encoding="utf-8")
    monkeypatch.chdir("/")
    loaded = load_spec(tmp_path / "sweep.yaml", SweepRecipe)
    assert [point.recipe.seed for point in points_of(loaded, tmp_path / "sweep.yaml")] == [1, 2]
    assert isinstance(load_any(tmp_path / "sweep.yaml"), SweepRecipe)
    with pytest.raises(UserError, match=r"base: base\.yaml: no such recipe, neither from here nor beside the sweep"):
        points_of(loaded)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"data": {"x": {"train": "${what}.csv"}}},
            r"point x: \$\{what\} in .* is not known; known here are sweep, data",
        ),
        ({"data": {"x": {"train": "${model}.csv"}}}, r"\$\{model\} .* is not known; known here are sweep, data"),
        ({"grid": {"selection.layer": [1]}}, r"point layer-1.*selection\.layer: unknown key; did you mean 'layers'"),
        ({"list": [{"name": "a"}, {"name": "a"}]}, "two points are called 'a'"),
        ({"grid": {"seed": [0]}, "models": {"a": {"model..path": "b"}}}, "is no key of a recipe"),
    ],
)
def test_what_is_no_point_is_named(more, words):
    with pytest.raises(UserError, match=words):
        points_of(sweep(**more))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"grid": {"seed": [1]}, "list": [{"seed": 1}]}, "either grid or list"),
        ({"grid": {"seed": []}}, r"grid\.seed has no values"),
        ({"engine": {"address": "auto"}}, r"engine\.address and engine\.memory_gb are for engine\.kind: ray"),
        ({"seeds": [1, 1]}, "each seed may be named once"),
        ({"engine": {"kind": "slurm"}}, "'local' or 'ray'"),
    ],
)
def test_sweeps_that_contradict_themselves_are_refused(more, words):
    with pytest.raises(ValueError, match=words):
        sweep(**more)
