"""A model and texts in memory go through to an answer, as files do; what is wrong is one sentence in Python's words."""

import json
import re
import subprocess
import sys

import pandas as pd
import pytest
from tiny import letter_rows, save_model
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification

from compressor import UserError, compress, open_run, run_recipe
from compressor.model.families import family_of
from compressor.model.sublayers import cut_ffn
from compressor.pipeline.compress import in_python

FAST = {"batch_sizes": [1], "lengths": [8], "workload": False, "min_seconds": 0, "min_runs": 5, "footprint": False}
NAMES = "late", "early"
ROWS = [(text, NAMES[label]) for text, label in letter_rows(400)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_model(
        tmp_path_factory.mktemp("compress") / "model", layers=2, num_labels=2, id2label=dict(enumerate(NAMES))
    )


def test_a_model_and_texts_in_memory_go_through_and_can_be_repeated(model, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    given = AutoModelForSequenceClassification.from_pretrained(model)
    tokenizer = AutoTokenizer.from_pretrained(model)
    done = compress(given, ROWS, goal="exact", tokenizer=tokenizer, device="cpu", benchmark=FAST, name="mine")
    assert capfd.readouterr().out == ""
    assert str(done.path) == "runs/mine"
    assert done.result["data"]["splits"]["evaluation"]["rows"] == 200
    assert done.result["recipe"]["model"]["path"] == str(tmp_path / "runs/mine/given")
    assert {*pd.read_parquet(done.path / "data/validation.parquet")["label"]} == {*NAMES}
    again = run_recipe(done.path / "recipe.yaml", device="cpu")
    assert (again.path, {stage.cached for stage in again.stages}) == (done.path, {True})
    assert open_run("runs/mine").result == json.loads(json.dumps(again.result))
    assert run_recipe(str(done.path / "recipe.yaml"), "elsewhere", device="cpu").path.is_dir()
    changed = compress(given, ROWS, goal="exact", tokenizer=tokenizer, device="cpu", benchmark=FAST, name="mine")
    assert {stage.cached for stage in changed.stages} == {True}


def test_a_file_gives_the_run_that_the_command_gives(model, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame(ROWS, columns=["review", "when"]).to_csv("reviews.csv", index=False)
    sets = [word for key, value in FAST.items() for word in ("--set", f"benchmark.{key}={value}")]
    code, _, error = command("quick", model, "reviews.csv", "--goal", "exact", "--device", "cpu", *sets)
    assert code == 0, error
    done = compress(model, train="reviews.csv", goal="exact", device="cpu", benchmark=FAST)
    assert str(done.path) == "runs/model-reviews"
    assert {stage.cached for stage in done.stages} == {True}


def test_progress_is_on_stderr_and_only_where_it_is_wanted(model, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = {"goal": "exact", "device": "cpu", "benchmark": FAST, "out": "run"}
    compress(model, ROWS, **arguments)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    compress(model, ROWS, **arguments, progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "label: label (by its name; values are the model's classes)" in captured.err
    assert "say seen=False if the model was not trained on them" in captured.err
    assert "plan: kept from before" in captured.err
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    compress(model, ROWS, **arguments)
    assert "plan: kept from before" in capsys.readouterr().err
    compress(model, ROWS, **arguments, progress=False)
    assert capsys.readouterr().err == ""


class Other(BertForSequenceClassification):
    """Computes what its files do not say."""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"train": None}, "train: there are no texts"),
        ({"lable": "x"}, "lable: compress has no such argument; did you mean 'label'?"),
        ({"goal": "loss"}, "goal='loss': there is no such goal; did you mean 'lossless'?"),
        ({"labels": {"late": "soon"}}, "labels={'late': 'soon'}: the model has no such class"),
        ({"labels": "late"}, "labels: give Mapping | None, not a str."),
        ({"text": 3}, "text: give str | list | tuple | None, not a int."),
        ({"out": 5}, "out: give str | Path | None, not a int."),
        ({"device": None}, "device: give str, not a NoneType."),
        ({"label": "text"}, "label='none'"),
        ({"text": "txt"}, "train (list): there is no column 'txt'; did you mean 'text'?"),
        ({"benchmark": {"min_secs": 1}}, "benchmark.min_secs: unknown key; did you mean 'min_seconds'?"),
        ({"data.max_length": 512}, "data.max_length: 512 is more than the 60 tokens"),
        ({"train": ROWS[:9]}, "there are 9 different texts"),
        ({"device": "gpu"}, "device"),
        ({"name": "a/b"}, "name"),
        ({"model": 5}, "model: a int is no path and no transformers model"),
        ({"model": "./nowhere"}, "model './nowhere': no such directory"),
    ],
)
def test_wrong_input_is_one_sentence_and_writes_nothing(model, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        compress(**{"model": model, "train": ROWS, **arguments})
    message = str(caught.value)
    assert words in message
    assert "\n" not in message
    assert "--" not in message
    assert list(tmp_path.iterdir()) == []


def test_models_in_memory_that_their_files_do_not_say(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given, tokenizer = AutoModelForSequenceClassification.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    with pytest.raises(UserError, match="tokenizer: a model in memory needs its tokenizer"):
        compress(given, ROWS)
    with pytest.raises(UserError, match="tokenizer: the one beside the model is taken"):
        compress(model, ROWS, tokenizer=tokenizer)
    with pytest.raises(UserError, match="a Other is not BertForSequenceClassification"):
        compress(Other.from_pretrained(model), ROWS, tokenizer=tokenizer)
    with pytest.raises(UserError, match="a BertModel is not BertForSequenceClassification"):
        compress(AutoModel.from_pretrained(model), ROWS, tokenizer=tokenizer)
    narrow = AutoModelForSequenceClassification.from_pretrained(model)
    cut_ffn(narrow.bert.encoder.layer[0], family_of("bert"), range(20))
    with pytest.raises(UserError, match="layers of it have lost parts"):
        compress(narrow, ROWS, tokenizer=tokenizer)
    tokenizer.add_tokens([f"new{number}" for number in range(60)])
    with pytest.raises(UserError, match=re.escape("model in memory: the tokenizer has 91 tokens, the model embeds 64")):
        compress(given, ROWS, tokenizer=tokenizer)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("for example --labels a=b,c=d,..., name another", "for example labels={'a': 'b', 'c': 'd'}, name another"),
        ("go without labels with --label none.", "go without labels with label='none'."),
        ("--text COL for another, --text COL --text COL2 for a pair", "text='COL' for another, text=['COL', 'COL2'] for a pair"),
        ("--out runs/a: this folder holds other files; name another.", "out=runs/a: this folder holds other files; name another."),
        ("--text: name one column", "text: name one column"),
        ("DATA: some files", "data: some files"),
        ("set --device cpu.", "set device='cpu'."),
    ],
)  # fmt: skip
def test_options_are_said_as_arguments(typed, said):
    assert in_python(typed) == said


def test_importing_is_instant():
    code = "import sys, compressor; dir(compressor); sys.exit(sum(name in sys.modules for name in ('torch', 'pandas', 'pydantic')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
