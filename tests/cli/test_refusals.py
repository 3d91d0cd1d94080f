"""Bad input on the command line: one sentence, exit code 2, and nothing left behind."""

import pytest
from filelock import FileLock

BAD = {
    "unknown key": (["--set", "selection.layrs=1"], ["selection.layrs", "did you mean 'layers'?"]),
    "wrong type": (["--set", "seed=many"], ["seed", "integer"]),
    "as many layers as there are": (["--set", "selection.layers=3"], ["cannot skip 3 of the model's 3 layers"]),
    "a layer that is not there": (
        ["--set", "selection={search: fixed, skip: [4]}"],
        ["layer 4 does not exist", "1..3"],
    ),
    "missing file": (["--set", "data.train=none.csv"], ["data.train", "none.csv"]),
    "missing column": (["--set", "data.text=txt"], ["txt", "train.csv", "did you mean 'text'?"]),
    "model that is not there": (["--set", "model.path=./nothing"], ["./nothing", "no such directory"]),
    "hub out of reach": (["--set", "model.path=some/model"], ["some/model", "--set model.path="]),
    "data hub out of reach": (["--set", "data={task: sst2, max_length: 32}"], ["data.source"]),
    "unknown task": (["--set", "data={task: sst3, max_length: 32}"], ["sst3", "sst2"]),
    "calibration without labels": (["--set", "data.label=null"], ["separability.labels", "teacher"]),
    "longer than the positions": (["--set", "data.max_length=128"], ["data.max_length", "60 tokens"]),
    "a cell that cannot be measured": (["--set", "benchmark.lengths=[512]"], ["benchmark.lengths", "512"]),
    "too many nodes": (["--set", "compensation.head.nodes=64"], ["64 nodes"]),
    "wrong device": (["--device", "tpu"], ["--device 'tpu'"]),
}


@pytest.mark.parametrize("case", list(BAD))
def test_bad_input_is_one_sentence_with_exit_code_2_and_leaves_nothing(tiny_task, tmp_path, command, monkeypatch, case):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    arguments, words = BAD[case]
    code, stdout, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *arguments)
    assert (code, stdout) == (2, "")
    assert all(word in stderr for word in words), stderr
    assert len(stderr.strip().splitlines()) == 1
    assert stderr.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text,label\n", ["no rows", "own.csv"]),
        ("text,label\n" + "".join(f"a {letter},1\n" for letter in "bcdefghijk"), ["single class", "own.csv"]),
        ("text,label\na b,1\nc d,7\n", ["7", "own.csv", "label"]),
    ],
)
def test_bad_training_files_are_told(tiny_task, tmp_path, command, text, words):
    (tmp_path / "own.csv").write_text(text)
    recipe, out = tiny_task / "recipe.yaml", tmp_path / "run"
    code, _, stderr = command("run", recipe, "--out", out, "--set", f"data.train={tmp_path}/own.csv")
    assert code == 2
    assert all(word in stderr for word in words), stderr
    assert not out.exists()


def test_output_in_use_or_foreign_is_refused(tiny_task, tmp_path, command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("x")
    assert "holds other files" in command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "mine")[2]
    (tmp_path / "busy" / ".stages").mkdir(parents=True)
    with FileLock(tmp_path / "busy" / ".stages" / "lock"):
        code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "busy")
    assert code == 2
    assert "another run is using this folder" in stderr


def test_export_and_bench_refuse_nonsense(tiny_task, tmp_path, command):
    (tmp_path / "file").write_text("x")
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "model.onnx").write_bytes(b"no graph")
    for arguments, words in (
        (("export", tiny_task / "model", "--out", tmp_path / "file", "--variant", "fp32"), "cannot be written"),
        (("export", tmp_path, "--out", tmp_path / "o"), "no config.json"),
        (("export", tiny_task / "model", "--out", tmp_path / "o", "--variant", "fp64"), "fp64"),
        (("bench", tmp_path / "nothing"), "neither a model directory"),
        (("bench", tmp_path / "bare"), "no config.json"),
        (("bench", tiny_task / "model", "--length", "512"), "longest input"),
        (("bench", tiny_task / "model", "--batch", "0"), "batch_sizes"),
        (("report", tmp_path), "result.json"),
    ):
        code, _, stderr = command(*arguments)
        assert code == 2, stderr
        assert words in stderr
    assert not list(tmp_path.glob("o/*"))


LONG = "a" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["explain", LONG, "x"],
        ["validate", LONG],
        ["validate", "RECIPE", "--set", f"model.path={LONG}"],
        ["validate", "RECIPE", "--set", f"data.train={LONG}.csv"],
        ["validate", "RECIPE", "--set", f"data={{task: sst2, source: {LONG}}}"],
        ["plan", "RECIPE", "--out", LONG],
        ["report", LONG],
        ["compare", LONG, "other"],
        ["bench", LONG],
        ["export", "MODEL", "--out", LONG],
        ["analyze", "roles", LONG],
        ["analyze", "roles", "MODEL", "--out", LONG],
    ],
)
def test_a_place_that_the_system_refuses_is_told(tiny_task, command, arguments):
    names = {"RECIPE": tiny_task / "recipe.yaml", "MODEL": tiny_task / "model"}
    code, _, stderr = command(*(names.get(word, word) for word in arguments))
    assert (code, stderr.count("\n"), "our fault" in stderr) == (2, 1, False), stderr
