"""Links and names that lead out of a folder: nothing is written or removed through them."""

import json

import pytest

from compressor.errors import UserError
from compressor.files import lies_inside, publish, write_files
from compressor.pipeline.quick import _write
from compressor.release.manifest import accounts
from compressor.report.build import build_report
from compressor.run.rundir import RunDir, open_run_dir
from compressor.sweep.result import named_runs


@pytest.fixture
def outside(tmp_path):
    """A folder with a file of the user's that nobody may touch; checked when the test is over."""
    folder = tmp_path / "outside"
    (folder / "sub").mkdir(parents=True)
    for place in (folder / "a", folder / "sub" / "a"):
        place.write_text("mine")
    yield folder
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {"a", "sub", "sub/a"}
    assert (folder / "a").read_text() == (folder / "sub" / "a").read_text() == "mine"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/../../b", "..", "", ".", "a\0b", 3, None, ["a"]])
def test_names_that_lead_elsewhere(name):
    assert not lies_inside(name)


def test_names_that_stay():
    assert all(map(lies_inside, ["a", "a/b", "a..b", "..a/b", "./a", "ä b"]))


def test_a_folder_of_pictures_that_is_a_link(tmp_path, outside):
    (tmp_path / "out").symlink_to(outside)
    with pytest.raises(UserError, match="out: this is a link"):
        write_files(tmp_path / "out", {"a": b"new", "b": b"new"})


@pytest.mark.parametrize("written", [[], ["sub/a"]])
def test_a_folder_within_a_folder_that_is_a_link(tmp_path, outside, written):
    (tmp_path / "made" / "sub").mkdir(parents=True)
    (tmp_path / "made" / "sub" / "b").write_text("new")
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "sub").symlink_to(outside / "sub")
    with pytest.raises(UserError, match="sub: this is a link"):
        publish(tmp_path / "made", tmp_path / "target", written)


@pytest.mark.parametrize("place", ["onnx", "onnx/fp32"])
def test_outputs_of_a_stage_behind_a_link(tmp_path, outside, place):
    link = tmp_path / "run" / place
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)

    def compute(folder):
        raise AssertionError("the stage was run")

    with pytest.raises(UserError, match="this is a link"):
        RunDir(tmp_path / "run").stage("any", "key", ["onnx/fp32"], compute)


def test_the_account_of_stages_that_is_a_link(tmp_path, outside):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".stages").symlink_to(outside)
    with pytest.raises(UserError, match=r"\.stages: this is a link"), open_run_dir(tmp_path / "run", fresh=True):
        pass


def test_the_log_of_a_run_that_is_a_link(tiny_task, tmp_path, outside, command):
    (tmp_path / "run" / ".stages").mkdir(parents=True)
    (tmp_path / "run" / "log.txt").symlink_to(outside / "a")
    code, _, error = command("score", tiny_task / "recipe.yaml", "--out", tmp_path / "run")
    assert (code, "log.txt: this is a link" in error) == (2, True)


@pytest.mark.parametrize("link", ["data", "data/train.parquet"])
def test_tables_of_a_quick_run_behind_a_link(tmp_path, outside, link):
    import pandas as pd

    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(outside if link == "data" else outside / "a")
    with pytest.raises(UserError, match="this is a link"):
        _write({"train": pd.DataFrame({"text": ["a"]})}, tmp_path / "data")


def test_figures_of_a_report_behind_a_link(tmp_path, outside):
    from report_cases import whole_result

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps(whole_result()))
    (tmp_path / "run" / "figures").symlink_to(outside)
    with pytest.raises(UserError, match="figures: this is a link"):
        build_report(tmp_path / "run")


def test_what_a_link_leads_to_does_not_travel(tmp_path, outside):
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "own.json").write_text("{}")
    (tmp_path / "run" / "model" / "inner.json").symlink_to(tmp_path / "run" / "model" / "own.json")
    (tmp_path / "run" / "model" / "secret.json").symlink_to(outside / "a")
    (tmp_path / "run" / "report.md").symlink_to(outside / "a")
    assert list(accounts(tmp_path / "run")) == ["model/inner.json", "model/own.json"]


@pytest.mark.parametrize("name", ["../../outside", "/etc", None, 3])
def test_points_of_a_sweep_that_lie_elsewhere(tmp_path, name):
    (tmp_path / "sweep.json").write_text(json.dumps({"schema": 1, "points": [{"name": name, "state": "done"}]}))
    with pytest.raises(UserError, match="it names .*, which lies elsewhere"):
        named_runs([tmp_path])
