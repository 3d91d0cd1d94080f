"""`compressor validate`: what costs nothing is looked at, hubs are not asked."""

import pytest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.path=./nowhere", "no such directory"),
        ("data.train=nowhere.csv", "no such file; correct data.train"),
        ("data.text=body", "body"),
        ("data.label=stars", "stars"),
    ],
)
def test_what_is_not_there_is_refused_unless_only_the_syntax_counts(tiny_task, command, change, words):
    recipe = tiny_task / "recipe.yaml"
    assert command("validate", recipe)[0] == 0
    code, stdout, stderr = command("validate", recipe, "--set", change)
    assert (code, stdout, words in stderr) == (2, "", True), stderr
    code, stdout, _ = command("validate", recipe, "--set", change, "--syntax-only")
    assert (code, stdout.startswith("name: tiny")) == (0, True)


def test_a_task_s_local_folder_and_a_broken_config_are_looked_at(tiny_task, tmp_path, command):
    sets = "--set", "data={task: sst2, source: ./no-such-folder}"
    code, _, stderr = command("validate", tiny_task / "recipe.yaml", *sets)
    assert (code, "sst2/train.parquet: no such file" in stderr) == (2, True), stderr
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{")
    code, _, stderr = command("validate", tiny_task / "recipe.yaml", "--set", f"model.path={tmp_path / 'model'}")
    assert (code, "config.json cannot be read" in stderr) == (2, True), stderr


def test_hub_names_are_not_asked_for(tiny_task, command):
    sets = "--set", "model.path=someone/some-model", "--set", "data={task: sst2}"
    assert command("validate", tiny_task / "recipe.yaml", *sets)[0] == 0
