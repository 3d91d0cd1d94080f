"""What version 0.2.0 left: its runs are read and carried on, or refused with what to do; so are those of versions to come."""

import json
import shutil
from pathlib import Path

import pytest
from tiny import sets

from compressor.errors import UserError
from compressor.model.load import load_model
from compressor.pipeline.finished import open_run
from compressor.release.manifest import read_manifest
from compressor.report.build import SCHEMA, read_result
from compressor.sweep.result import open_sweep

OLD = Path(__file__).parents[1] / "support" / "v020"
"""A run of version 0.2.0 as that version wrote it, without figures and page, with its model, data and recipe."""
SHORT = sets("benchmark.footprint=false", "export.variants=[optimized]")


@pytest.fixture
def old(tmp_path, monkeypatch):
    shutil.copytree(OLD, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")  # its recipe has paths relative to it
    return tmp_path / "old" / "run"


def test_its_result_is_of_a_schema_that_is_read(old, command):
    result = read_result(old / "result.json")
    assert (result["schema"], result["answer"], result["cascade"]) == (SCHEMA, None, None)
    done = open_run(old)
    assert (done.goals_met, len(done.to_frame())) == (True, 6)
    assert done.line.startswith("Lossy: 1 of 2 layers removed")
    code, _, error = command("report", old)
    assert (code, error) == (0, "")
    page = (old / "report.html").read_text(encoding="utf-8")
    assert "1 of 2 layers" in page
    shutil.copytree(old, old.parent / "other")
    code, _, error = command("compare", old, old.parent / "other")
    assert (code, error) == (0, "")


def test_its_model_and_its_files_are_read(old, command):
    assert load_model(old / "model").config.num_hidden_layers == 1
    code, out, _ = command("explain", old / "model", "a b c", "--json")
    assert (code, len(json.loads(out)["classes"]) if "classes" in out else 2) == (0, 2)
    bench = "--batch", "1", "--length", "8", "--min-seconds", "0", "--min-runs", "3"
    code, out, _ = command("bench", old / "onnx" / "optimized", *bench, "--json")
    assert code == 0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (["verify", "run"], "holds no manifest.json; run the recipe again"),
        (["bundle", "run", "--out", "b.tar"], "holds no manifest.json; run the recipe again"),
        (["push", "run", "--to", "me/mine", "--dry-run"], "holds no manifest.json; run the recipe again"),
    ],
)
def test_what_it_has_not_is_said_with_the_remedy(old, command, arguments, remedy):
    code, _, error = command(*arguments)
    assert (code, remedy in error, error.count("\n")) == (2, True, 1)
    assert not Path("b.tar").exists()


def test_the_classifier_of_an_export_without_settings_says_to_export_again(old):
    from compressor.runtime.classifier import Classifier

    with pytest.raises(UserError, match=r"holds no classifier\.json, as exports of earlier versions; export it again"):
        Classifier(old / "onnx" / "optimized")


def test_its_recipe_is_run_into_its_directory_and_everything_is_made_anew(old, command):
    before = (old / "result.json").read_text(encoding="utf-8")
    code, _, error = command("run", "recipe.yaml", "--out", old, *SHORT)
    assert code == 0, error
    assert "kept from before" not in error
    assert (old / "result.json").read_text(encoding="utf-8") != before
    assert command("verify", old)[0] == 0
    assert (old / "recipe.yaml").is_file()
    assert command("validate", old / "recipe.yaml")[0] == 0


@pytest.mark.parametrize("schema", [SCHEMA + 1, 0, None, "1", 1.5, [], True])
def test_a_result_of_another_schema_is_refused_with_the_remedy(old, schema, command):
    content = json.loads((old / "result.json").read_text(encoding="utf-8"))
    (old / "result.json").write_text(json.dumps({**content, "schema": schema}), encoding="utf-8")
    later = schema == SCHEMA + 1
    remedy = "use the version of compressor that wrote it, or a later one" if later else "run the recipe again"
    shutil.copytree(old, old.parent / "other")
    for arguments in (["report", old], ["compare", old, old.parent / "other"]):
        code, _, error = command(*arguments)
        assert (code, error.count("\n")) == (2, 1)
        assert f"schema {schema!r} is not {SCHEMA}, the one that this version reads; {remedy}" in error
    with pytest.raises(UserError, match=remedy):
        open_run(old)


@pytest.mark.parametrize(("name", "read"), [("manifest.json", read_manifest), ("sweep.json", open_sweep)])
def test_other_files_of_a_later_schema_are_refused_likewise(tmp_path, name, read):
    for schema in (2, 0, None):
        (tmp_path / name).write_text(json.dumps({"schema": schema, "points": []}), encoding="utf-8")
        with pytest.raises(
            UserError, match=rf"{name}: schema {schema} is not 1, the one that this version reads; (use|run)"
        ):
            read(tmp_path)
