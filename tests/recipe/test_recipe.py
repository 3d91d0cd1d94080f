"""Recipes: the shipped ones are valid, and a mistake gets one sentence with file, line, field and remedy."""

import json
from pathlib import Path
from typing import get_args

import pytest

from compressor.compensation.heads.head import OPTIMIZERS
from compressor.compensation.heads.trainers import TRAINERS
from compressor.errors import UserError
from compressor.recipe.compression import BenchmarkSpec, Recipe, SelectionSpec, SeparabilitySpec
from compressor.recipe.file import dump_recipe, load_recipe, part_of_recipe
from compressor.recipe.training import HeadSpec
from compressor.selection.search import SEARCHES
from compressor.selection.separability import SCORES

SHIPPED = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
GOOD = "name: a\nmodel: {path: m}\ndata:\n  task: sst2\n"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_survive_a_round_trip(path, tmp_path):
    recipe = load_recipe(path)
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_recipe(recipe))
    assert load_recipe(copy) == recipe


def test_recipes_are_shipped_for_the_demo_the_five_tasks_own_files_and_every_way_to_compensate():
    ways = {f"sst2_{way}" for way in ("auto", "refit", "chargeflow", "distilled", "cascade")}
    assert {"demo", "sst2", "cola", "rte", "mrpc", "qnli", "own_csv"} | ways <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("spec", "field", "table"),
    [
        (SeparabilitySpec, "score", SCORES),
        (SelectionSpec, "search", SEARCHES),
        (HeadSpec, "trainer", TRAINERS),
        (HeadSpec, "optimizer", OPTIMIZERS),
    ],
)
def test_every_choice_of_a_recipe_has_its_row_in_a_table(spec, field, table):
    annotation = spec.model_fields[field].annotation
    literals = [part for part in get_args(annotation) if get_args(part)] or [
        annotation
    ]  # one that may be null is a union
    assert {choice for part in literals for choice in get_args(part)} == set(table)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD + "selction: {layers: 2}\n", ["r.yaml:5: selction", "unknown key", "did you mean 'selection'?"]),
        (
            GOOD + "selection:\n  serch: fixed\n",
            ["r.yaml:6: selection.serch", "did you mean 'search'?", "layers, protect"],
        ),
        (GOOD + "compensation: {head: {node: 4}}\n", ["compensation.head.node", "did you mean 'nodes'?"]),
        (
            GOOD + "selection: {search: exhaustiv}\n",
            ["selection.search", "'exhaustiv' is not one of", "did you mean 'exhaustive'?"],
        ),
        (GOOD + "selection: {layers: two}\n", ["selection.layers", "valid integer", "not 'two'"]),
        (GOOD + "selection: {layers: 0}\n", ["selection.layers", "greater than or equal to 1"]),
        (GOOD + "selection: {search: fixed}\n", ["selection", "go together"]),
        (GOOD + "selection: {search: fixed, skip: [2, 2]}\n", ["none twice"]),
        (GOOD + "selection: {search: fixed, skip: [2], protect: [2]}\n", ["both skipped and protected"]),
        ("model: {path: m}\ndata: {task: sst2}\n", ["name", "missing"]),
        ("name: a\nmodel: {path: m}\ndata: {train: a.csv}\n", ["data", "validation, text"]),
        ("name: a\nmodel: {path: m}\ndata: {task: sst2, text: x}\n", ["either task or your own files"]),
        ("name: ../x\nmodel: {path: m}\ndata: {task: sst2}\n", ["name", "pattern"]),
        ("name: [a\n", ["r.yaml:2", "not valid YAML"]),
        ("- a\n", ["a recipe is a mapping"]),
        (GOOD + "finetune: {lr: -1}\n", ["finetune.lr", "greater than 0"]),
        (GOOD + "seed: true\n", ["seed", "integer"]),
    ],
)
def test_mistakes_are_told_in_one_sentence(tmp_path, text, words):
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.endswith((".", "?"))


def test_overrides_reach_every_depth_and_are_read_as_yaml(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    sets = [
        "selection.layers=3",
        "finetune.lr=5e-5",
        "selection.protect=[1, 2]",
        "compensation.head=null",
        "model.path=a=b",
    ]
    recipe = load_recipe(path, sets)
    assert recipe.selection.layers == 3
    assert recipe.finetune.lr == 5e-5
    assert recipe.selection.protect == [1, 2]
    assert recipe.compensation.head is None
    assert recipe.model.path == "a=b"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("selection.layrs=1", ["selection.layrs", "did you mean 'layers'?"]),
        ("selection.layers", ["write key.path=value"]),
        ("=1", ["write key.path=value"]),
        ("selection.layers=[", ["not valid YAML"]),
        ("selection.layers=many", ["--set selection.layers", "integer"]),
    ],
)
def test_wrong_overrides_are_told(tmp_path, override, words):
    path = tmp_path / "r.yaml"
    path.write_text(GOOD)
    with pytest.raises(UserError) as caught:
        load_recipe(path, [override])
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_missing_file_and_frozen_recipe(tmp_path):
    with pytest.raises(UserError, match="no such recipe file"):
        load_recipe(tmp_path / "none.yaml")
    recipe = load_recipe(SHIPPED[0])
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


def test_schema_describes_every_key():
    schema = Recipe.model_json_schema()
    assert schema["additionalProperties"] is False
    assert "Layers (from 1) that must stay" in json.dumps(schema)


def test_benchmark_values_from_the_command_line():
    assert part_of_recipe(BenchmarkSpec, "benchmark", {"batch_sizes": [2], "lengths": None}).batch_sizes == [2]
    with pytest.raises(UserError, match=r"benchmark\.batch_sizes\.0"):
        part_of_recipe(BenchmarkSpec, "benchmark", {"batch_sizes": [0]})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 20_000,
        "2001-13-45",
        "0x_",
        "!!int x",
        "!!timestamp x",
        "!!bool 3",
        "1" * 5000,
        "!!python/object:os.system x",
    ],
)
def test_values_that_the_yaml_library_chokes_on_are_refused(tmp_path, text):
    (tmp_path / "recipe.yaml").write_text(f"name: {text}\n")
    with pytest.raises(UserError, match=r"recipe\.yaml(:\d+)?: not valid YAML \("):
        load_recipe(tmp_path / "recipe.yaml")
    (tmp_path / "recipe.yaml").write_text("name: a\n")
    with pytest.raises(UserError, match="--set name: the value .* is not valid YAML"):
        load_recipe(tmp_path / "recipe.yaml", [f"name={text}"])


def test_a_baseline_that_pads_must_hold_every_length(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "name: x\nmodel: {path: m}\ndata: {task: sst2, source: d, max_length: 64}\n"
        "benchmark: {lengths: [32, 128], baseline: {padding: max_length}}\n"
    )
    with pytest.raises(UserError, match=r"benchmark\.lengths has 128 tokens.*data\.max_length \(64\)"):
        load_recipe(recipe)
    assert load_recipe(recipe, ["benchmark.lengths=[32,64]"]).benchmark.lengths == [32, 64]
