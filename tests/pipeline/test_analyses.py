"""`compressor analyze` and the analyses of a run: what they read, write and refuse; tiny random models."""

import json
from pathlib import Path
from typing import get_args

import pytest
from tiny import save_model

from compressor.cli.analyze.tables import section_lines
from compressor.files import write_files
from compressor.pipeline import analyses
from compressor.pipeline.pipeline import STAGES
from compressor.recipe.compression import Recipe
from compressor.report.analyses import SECTIONS
from compressor.report.sections.section import Section, SectionTable

CPU = "--device", "cpu"
ANALYSES = [stage.name.removeprefix("analysis-") for stage in STAGES if stage.name.startswith("analysis-")]


@pytest.fixture(scope="module")
def analysed(tiny_task, tmp_path_factory):
    """Return the directory of a run with every analysis, and its result."""
    from compressor.cli.app import main

    out = tmp_path_factory.mktemp("analysed") / "run"
    sets = ["--set", "analysis=[errors, ffn, roles]", "--set", "export.variants=[fp32]"]
    with pytest.raises(SystemExit) as end:
        main(["run", str(tiny_task / "recipe.yaml"), "--out", str(out), *sets, *CPU])
    assert not end.value.code
    return out, json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_recipe_stages_and_sections_know_the_same_analyses():
    named = get_args(get_args(Recipe.model_fields["analysis"].annotation)[0])
    assert set(named) == set(ANALYSES) == set(SECTIONS) - {"placement"}  # an experiment of its own, no part of a run


def test_a_run_writes_every_analysis_into_result_and_report(analysed):
    out, result = analysed
    page = (out / "report.html").read_text(encoding="utf-8")
    for name in ANALYSES:
        assert json.loads((out / "analysis" / f"{name}.json").read_text()) == result["analysis"][name]
        section = SECTIONS[name](result["analysis"][name])
        assert section.id in page
        assert section.figures
        for figure, drawn in section.figures.items():
            assert figure.startswith(f"{name}_")
            assert (out / "figures" / f"{figure}.png").stat().st_size > 5000
            assert drawn.get_suptitle()
            assert any(axes.get_xlabel() or axes.get_ylabel() for axes in drawn.axes)
    assert [stage["name"] for stage in result["stages"]][-3:] == ["analysis-errors", "analysis-ffn", "analysis-roles"]
    assert set(result["analysis"]["errors"]["models"]) == {"full", "compressed"}


def test_figures_of_analyses_that_are_gone_are_removed(analysed, command):
    out, _result = analysed
    stale, own = out / "figures" / "ffn_old.png", out / "figures" / "ffn_own.png"
    own.write_bytes(b"the user's")
    write_files(out / "figures", {stale.name: b"of an earlier build"}, instead_of="none")
    code, _, stderr = command("report", out)
    assert (code, stale.exists(), own.exists()) == (0, False, True), stderr
    assert list((out / "figures").glob("ffn_*.png"))


@pytest.mark.parametrize("name", ["errors", "ffn"])
def test_a_recipe_is_analysed_alone_and_a_run_with_its_compressed_model(analysed, tiny_task, tmp_path, command, name):
    code, stdout, stderr = command("analyze", name, tiny_task / "recipe.yaml", "--json", *CPU)
    assert code == 0, stderr
    alone = json.loads(stdout)
    code, stdout, stderr = command("analyze", name, analysed[0], "--json", "--out", tmp_path / "page", *CPU)
    assert code == 0, stderr
    of_run = json.loads(stdout)
    assert json.loads((tmp_path / "page" / f"{name}.json").read_text()) == of_run
    page = (tmp_path / "page" / f"{name}.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert SECTIONS[name](of_run).title in page
    assert list((tmp_path / "page" / "figures").glob(f"{name}_*.png"))
    if name == "errors":
        assert (set(alone["models"]), set(of_run["models"])) == ({"full"}, {"full", "compressed"})
        assert alone["models"]["full"]["errors"] == of_run["models"]["full"]["errors"]


def test_the_terminal_shows_reading_and_tables(analysed, command):
    code, stdout, stderr = command("analyze", "roles", analysed[0] / "model", "--draws", 5)
    assert code == 0, stderr
    assert "layer" in stdout


def test_roles_of_one_checkpoint_beside_another_and_along_steps(tmp_path, command):
    first, second = (save_model(tmp_path / name, "bert", 3, seed=seed) for name, seed in (("a", 1), ("b", 2)))
    code, stdout, stderr = command(
        "analyze", "roles", first, "--against", second, "--steps", second, "--draws", 5, "--json"
    )
    assert code == 0, stderr
    found = json.loads(stdout)
    assert found["against"]
    assert found["steps"]
    assert len(found["roles"]) == 3


def test_an_alarm_ends_with_3(tmp_path, command):
    from safetensors.torch import load_file, save_file

    broken = save_model(tmp_path / "broken", "bert", 3)
    weights = load_file(broken / "model.safetensors")
    weights["bert.encoder.layer.1.output.dense.weight"] *= 1000
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    code, stdout, stderr = command("analyze", "roles", broken, "--draws", 5, "--json")
    assert code == 3
    assert "alarm" in stderr
    assert json.loads(stdout)["alarms"]


def test_a_trace_fine_tunes_a_copy(analysed, tiny_task, command):
    code, stdout, stderr = command(
        "analyze", "roles", tiny_task / "model", "--trace", tiny_task / "recipe.yaml", "--draws", 5, "--json", *CPU
    )
    assert code == 0, stderr
    assert json.loads(stdout)["trace"]


def test_a_column_of_the_validation_file_makes_slices(tiny_task, tmp_path, command):
    rows = (tiny_task / "validation.csv").read_text(encoding="utf-8").splitlines()
    parts = [f"{row},{'odd' if index % 2 else 'even'}" for index, row in enumerate(rows[1:])]
    (tmp_path / "validation.csv").write_text("\n".join(["text,label,source", *parts]) + "\n", encoding="utf-8")
    own = "--set", f"data.validation={tmp_path}/validation.csv"
    code, stdout, stderr = command(
        "analyze", "errors", tiny_task / "recipe.yaml", *own, "--column", "source", "--json", *CPU
    )
    assert code == 0, stderr
    assert "source" in json.dumps(json.loads(stdout)["slices"])
    code, _, stderr = command("analyze", "errors", tiny_task / "recipe.yaml", *own, "--column", "sourc", *CPU)
    assert code == 2
    assert "--column sourc: " in stderr
    assert "no column 'sourc'; did you mean 'source'?" in stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ffn", "{empty}"], ["neither a recipe nor a run directory"]),
        (["ffn", "{task}/none.yaml"], ["no such recipe"]),
        (["errors", "{unfinished}"], ["no compressed model yet"]),
        (["errors", "{task}/recipe.yaml", "--set", "data.label=null"], ["labels"]),
        (["roles", "{empty}"], ["config.json"]),
        (["roles", "{task}/model", "--set", "seed=1"], ["--trace"]),
        (["roles", "{task}/model", "--against", "{empty}"], ["config.json"]),
    ],
)
def test_wrong_input_is_one_sentence(tiny_task, tmp_path, command, arguments, words):
    unfinished = tmp_path / "unfinished"
    (unfinished).mkdir()
    (unfinished / "recipe.yaml").write_text((tiny_task / "recipe.yaml").read_text())
    (tmp_path / "empty").mkdir()
    places = {"empty": tmp_path / "empty", "task": tiny_task, "unfinished": unfinished}
    made = [
        argument.replace("{", "{0[").replace("}", "]}").format(places) if "{" in argument else argument
        for argument in arguments
    ]
    code, stdout, stderr = command("analyze", *made)
    assert (code, stdout) == (2, ""), stderr
    assert "Traceback" not in stderr
    assert len(stderr.strip().splitlines()) == 1
    for word in words:
        assert word in stderr


def test_words_stand_left_and_numbers_right():
    table = SectionTable("t", ["word", "number"], [["a", "1"]])
    folded = SectionTable("f", ["word"], [["b"]], folded=True)
    lines = section_lines(Section("ffn", "FFN", "One. Two.", tables=[table, folded]))
    assert lines[:2] == ["One. Two.", ""]
    assert [column.words for column in lines[2].columns] == [True, False]
    assert len(lines) == 3


def test_page_needs_a_place(tiny_task, tmp_path, command, monkeypatch):
    monkeypatch.setattr(analyses, "analyze_roles", None)  # would fail with another exit code
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    code, _, stderr = command("analyze", "roles", tiny_task / "model", "--draws", 2, "--out", blocked / "page")
    assert code == 2
    assert f"{blocked} is no folder that can be written to" in stderr
    assert Path(blocked).read_text() == "in the way"
