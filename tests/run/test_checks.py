"""What is refused before anything expensive, whichever command asks for it."""

import json

import pytest
from tiny import save_model

from compressor.progress import silent
from compressor.recipe.file import load_recipe
from compressor.run.checks import prepare


@pytest.mark.parametrize(
    ("model_type", "pairs", "special"), [("bert", False, 2), ("roberta", False, 2), ("roberta", True, 4)]
)
def test_a_length_that_leaves_no_room_for_text_is_refused(tiny_task, tmp_path, command, model_type, pairs, special):
    model = save_model(tmp_path / "model", model_type, layers=3, num_labels=2)
    for name in ("train", "validation"):
        lines = (tiny_task / f"{name}.csv").read_text().splitlines()[1:]
        rows = [f"{line.rpartition(',')[0]},b,{line.rpartition(',')[2]}" for line in lines]
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,other,label", *rows]) + "\n")
    sets = [f"model.path={model}", f"data.train={tmp_path}/train.csv", f"data.validation={tmp_path}/validation.csv"]
    sets += ["data.max_length=4", f"data.text={'[text, other]' if pairs else 'text'}"]
    arguments = [word for change in sets for word in ("--set", change)]
    code, _, stderr = command("score", tiny_task / "recipe.yaml", *arguments, "--out", tmp_path / "run")
    refused = special >= 4
    assert (code, f"take {special} special tokens" in stderr) == ((2, True) if refused else (0, False)), stderr


@pytest.mark.parametrize("opset", [11, 99])
def test_options_of_commands_have_the_ranges_of_the_recipe(tiny_task, tmp_path, command, opset):
    code, _, stderr = command("export", tiny_task / "model", "--out", tmp_path / "onnx", "--opset", opset)
    assert (code, "export.opset: input should be" in stderr, f"not {opset}" in stderr) == (2, True, True)
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_seeds_of_commands_are_those_of_recipes(tiny_task, tmp_path, command, seed):
    traced = "--trace", tiny_task / "recipe.yaml", f"--seed={seed}"
    code, _, stderr = command("analyze", "roles", tiny_task / "model", *traced)
    assert (code, "--seed: input should be" in stderr, f"not {seed}" in stderr) == (2, True, True), stderr


def test_copies_to_the_tokenizer_change_nothing_that_decides(tiny_task, tmp_path, command):
    lines = (tiny_task / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text(
        "\n".join([*lines, *(line.upper().replace(" ", "  ") for line in lines[1:])]) + "\n"
    )
    cascade = ["cascade={exits: [1], max_flips: 0.5, fit_size: 100}", "data.calibration.seen_in_training=false"]
    changed = f"data.train={tmp_path}/train.csv"
    once, twice = (
        prepare(load_recipe(tiny_task / "recipe.yaml", sets), tmp_path / "run", "cpu", silent)
        for sets in (cascade, [*cascade, changed])
    )
    assert twice.data.removed_copies == {"calibration": 60, "selection": 60}
    for part in ("calibration", "selection", "guard"):
        rows = {tuple(ids) for ids in getattr(twice, part).input_ids}
        assert len(rows) == len(getattr(twice.data, part)) == 60
    rows = [tuple(ids) for ids in twice.exit_text.input_ids]  # every fourth of them judges the fit to the others
    assert len(set(rows)) == len(rows) == len(once.exit_text) == 100
    shown = [part for name in (*cascade, changed, "benchmark.workload=false") for part in ("--set", name)]
    code, stdout, _ = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", "--json", *shown)
    assert code == 0
    assert json.loads(stdout)["data"]["removed_copies"] == twice.data.removed_copies
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "since each text decides once: calibration 60, selection 60." in page


@pytest.mark.parametrize("change", ["compensation.refit=closed_form", "selection={units: [ffn], budget: {keep: 0.9}}"])
def test_too_few_rows_to_hold_one_out_are_refused(tiny_task, tmp_path, command, change):
    sets = ["--set", change, "--set", "data.calibration.size=4"]
    code, _, stderr = command("run", tiny_task / "recipe.yaml", "--out", tmp_path / "run", *sets)
    assert (code, "data.calibration: 4 texts" in stderr) == (2, True)
    assert not (tmp_path / "run").exists()
