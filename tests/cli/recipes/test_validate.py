"""`compressor validate`: what costs nothing is looked at, hubs are not asked."""

import shutil

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


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("text.files=nowhere.txt", "no such file; correct text.files"),
        ("text={files: FOLDER/train.csv, column: body}", "there is no column 'body'"),
        ("encoder.tokenizer=nowhere", "encoder.tokenizer: nowhere: no such directory"),
        ("tasks=[{train: FOLDER/train.csv, validation: no.csv, text: text, label: label}]", "correct tasks.0.validation"),
        ("tasks=[{train: FOLDER/train.csv, validation: FOLDER/train.csv, text: body, label: label}]", "no column 'body'"),
    ],
)  # fmt: skip
def test_an_experiment_is_looked_at_alike(tiny_task, tmp_path, command, change, words):
    (tmp_path / "p.yaml").write_text(f"name: p\ntext: {{files: {tiny_task}/train.csv}}\npretrain: {{steps: 9}}\n")
    assert command("validate", tmp_path / "p.yaml")[0] == 0
    change = change.replace("FOLDER", str(tiny_task))
    code, stdout, stderr = command("validate", tmp_path / "p.yaml", "--set", change)
    assert (code, stdout, words in stderr) == (2, "", True), stderr
    assert command("validate", tmp_path / "p.yaml", "--set", change, "--syntax-only")[0] == 0


@pytest.mark.parametrize(("gone", "words"), [("model.safetensors", "no weights"), ("tokenizer.json", "no tokenizer")])
def test_a_model_folder_without_its_files_is_refused(tiny_task, tmp_path, command, gone, words):
    shutil.copytree(tiny_task / "model", tmp_path / "model")
    for name in (gone, *(["vocab.txt"] if gone == "tokenizer.json" else [])):
        (tmp_path / "model" / name).unlink(missing_ok=True)
    code, _, stderr = command("validate", tiny_task / "recipe.yaml", "--set", f"model.path={tmp_path / 'model'}")
    assert (code, words in stderr) == (2, True), stderr


def test_hub_names_are_not_asked_for(tiny_task, command):
    sets = "--set", "model.path=someone/some-model", "--set", "data={task: sst2}"
    assert command("validate", tiny_task / "recipe.yaml", *sets)[0] == 0
