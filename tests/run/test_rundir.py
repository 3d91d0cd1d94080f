"""The run directory: stages are whole or absent, whatever happens to the process."""

import json
import os
import shutil
import stat

import pytest

from compressor.errors import UserError
from compressor.files import PROGRESS, stage_key, write_json
from compressor.run.rundir import CHECKPOINTS, STAGES_FOLDER, RunDir, open_run_dir


def writer(text, folder_too=True):
    def compute(folder):
        (folder / "a.json").write_text(text)
        if folder_too:
            (folder / "model").mkdir()
            (folder / "model" / "weights").write_text(text * 3)

    return compute


OUTPUTS = ["a.json", "model"]


def test_a_whole_stage_is_kept_and_another_key_computes_it_anew(tmp_path):
    with open_run_dir(tmp_path / "run") as run:
        assert not run.stage("s", "k1", OUTPUTS, writer("one")).cached
        assert run.stage("s", "k1", OUTPUTS, writer("never")).cached
        assert (run.path / "a.json").read_text() == "one"
        assert not run.stage("s", "k2", OUTPUTS, writer("two")).cached
        assert (run.path / "model" / "weights").read_text() == "two" * 3


def test_large_files_are_known_by_their_size_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("compressor.run.rundir.LARGE", 5)
    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k", OUTPUTS, writer("one"))
        (run.path / "model" / "weights").write_text("x" * 9)  # 5 bytes or more
        assert run.stage("s", "k", OUTPUTS, writer("never")).cached
        (run.path / "a.json").write_text("two")
        assert not run.stage("s", "k", OUTPUTS, writer("one")).cached


def test_the_content_of_a_stage_is_that_of_its_files(tmp_path):
    with open_run_dir(tmp_path / "run") as run:
        assert run.content("s") is None
        run.stage("s", "k1", OUTPUTS, writer("one"))
        first = run.content("s")
        run.stage("s", "k2", OUTPUTS, writer("two"))
        assert first != run.content("s")
        run.stage("s", "k3", OUTPUTS, writer("one"))
        assert first == run.content("s")


@pytest.mark.parametrize(
    "damage", ["remove", "shorten", "corrupt", "{", "[]", "{}", '{"key": "k", "files": 3}', "[" * 100_000]
)
def test_damaged_results_are_computed_anew(tmp_path, damage):
    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k", OUTPUTS, writer("one"))
        if damage == "remove":
            (run.path / "model" / "weights").unlink()
        elif damage == "shorten":
            (run.path / "model" / "weights").write_text("")
        elif damage == "corrupt":
            (run.path / "model" / "weights").write_text("x" * len("oneoneone"))
        else:
            (run.path / ".stages" / "s.json").write_text(damage)
            assert run.content("s") is None or damage.startswith('{"key"')
        assert not run.stage("s", "k", OUTPUTS, writer("one")).cached


def test_what_a_user_put_beside_a_result_stays_and_files_have_the_usual_rights(tmp_path):
    def secret(folder):
        writer("two")(folder)
        (folder / "model" / "weights").chmod(0o600)  # as safetensors writes them

    with open_run_dir(tmp_path / "run") as run:
        run.stage(
            "s", "k1", OUTPUTS, lambda folder: (writer("one")(folder), (folder / "model" / "old").write_text("x"))
        )
        (run.path / "model" / "notes.txt").write_text("mine")
        run.stage("s", "k2", OUTPUTS, secret)
        assert (run.path / "model" / "notes.txt").read_text() == "mine"
        assert not (run.path / "model" / "old").exists()
        assert (run.path / "model" / "weights").read_text() == "two" * 3
        mask = os.umask(0)
        os.umask(mask)
        assert {stat.S_IMODE((run.path / file).stat().st_mode) for file in ("a.json", "model/weights")} == {
            0o666 & ~mask
        }


@pytest.mark.parametrize("how", ["fresh", "cut off"])
def test_what_a_user_put_there_stays_when_stages_are_forgotten(tmp_path, how, monkeypatch):
    def first(folder):
        writer("one")(folder)
        (folder / "model" / "old").write_text("of the first")

    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k", OUTPUTS, first)
        (run.path / "model" / "notes.txt").write_text("mine")
        if how == "cut off":
            with monkeypatch.context() as patch:
                patch.setattr("compressor.run.rundir.publish", lambda *_: 1 / 0)
                with pytest.raises(ZeroDivisionError):
                    run.stage("s", "other", OUTPUTS, writer("lost"))
            assert run.content("s") is None
    with open_run_dir(tmp_path / "run", fresh=how == "fresh") as run:
        assert not run.stage("s", "k", OUTPUTS, writer("two")).cached
        assert sorted(path.name for path in (run.path / "model").iterdir()) == ["notes.txt", "weights"]
        assert (run.path / "model" / "weights").read_text() == "two" * 3


def test_a_page_of_the_user_s_stays_and_is_not_amended(tmp_path):
    run = RunDir(tmp_path)
    made = {"out/a/README.md": "ours", "out/b/README.md": "ours", "out/b/x": "x"}

    def compute(folder):
        for name, text in made.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)

    (tmp_path / "out/a").mkdir(parents=True)
    (tmp_path / "out/a/README.md").write_text("mine")
    for key in ("1", "2"):
        assert not run.stage("s", key, ["out"], compute).cached
        for name in ("a", "b"):
            run.amend("s", f"out/{name}/README.md", lambda text, key=key: f"{text}, amended {key}")
        texts = [(tmp_path / f"out/{name}/README.md").read_text() for name in ("a", "b")]
        assert texts == ["mine", f"ours, amended {key}"]
        assert RunDir(tmp_path).stage("s", key, ["out"], compute).cached
    (tmp_path / "out/a/README.md").write_text("mine, again")
    assert RunDir(tmp_path).stage("s", "2", ["out"], compute).cached


def test_a_link_in_place_of_an_output_is_not_written_through(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "notes.txt").write_text("mine")
    with open_run_dir(tmp_path / "run") as run:
        (run.path / "model").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match="model: this is a link"):
            run.stage("s", "k", OUTPUTS, writer("one"))
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["notes.txt"]


def test_a_stage_that_fails_leaves_the_earlier_result_and_nothing_half_written(tmp_path):
    def fail(folder):
        writer("half")(folder)
        raise RuntimeError("no")

    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k1", OUTPUTS, writer("one"))
        with pytest.raises(RuntimeError, match="no"):
            run.stage("s", "k2", OUTPUTS, fail)
        assert (run.path / "a.json").read_text() == "one"
        assert not list(run.path.rglob("*.tmp"))
        assert run.stage("s", "k1", OUTPUTS, fail).cached


def test_a_stage_must_write_what_it_promised(tmp_path):
    with open_run_dir(tmp_path / "run") as run, pytest.raises(RuntimeError, match="did not write model"):
        run.stage("s", "k", OUTPUTS, writer("one", folder_too=False))


def test_left_overs_of_a_killed_process_are_cleared(tmp_path):
    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k", OUTPUTS, writer("one"))
    (tmp_path / "run" / ".stages" / "t.tmp").mkdir()
    with open_run_dir(tmp_path / "run") as run:
        assert not list(run.path.rglob("*.tmp"))
        assert run.stage("s", "k", OUTPUTS, writer("never")).cached


def test_one_run_at_a_time(tmp_path):
    with open_run_dir(tmp_path / "run"), pytest.raises(UserError, match="another run"), open_run_dir(tmp_path / "run"):
        pass
    with open_run_dir(tmp_path / "run"):
        pass


def test_foreign_folders_and_unwritable_places_are_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds other files"), open_run_dir(tmp_path / "mine"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), open_run_dir(tmp_path / "file" / "run"):
        pass
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_directory_without_any_result_is_removed_again(tmp_path):
    with pytest.raises(RuntimeError), open_run_dir(tmp_path / "a" / "b" / "run"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with open_run_dir(tmp_path / "a" / "run") as run:
        run.stage("s", "k", OUTPUTS, writer("one"))
    assert (tmp_path / "a" / "run" / "a.json").is_file()


def test_a_run_that_fails_early_leaves_its_neighbours_alone(tmp_path):
    with pytest.raises(RuntimeError), open_run_dir(tmp_path / "runs" / "a"):
        with open_run_dir(tmp_path / "runs" / "b") as other:
            other.stage("s", "k", OUTPUTS, writer("one"))
        raise RuntimeError
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["b"]


def test_fresh_forgets_every_stage(tmp_path):
    with open_run_dir(tmp_path / "run") as run:
        run.stage("s", "k", OUTPUTS, writer("one"))
    with open_run_dir(tmp_path / "run", fresh=True) as run:
        assert not run.stage("s", "k", OUTPUTS, writer("two")).cached
        assert (run.path / "a.json").read_text() == "two"


def test_a_checkpoint_keeps_a_directory_without_results_and_fresh_forgets_it(tmp_path):
    with pytest.raises(RuntimeError), open_run_dir(tmp_path / "run") as run:
        folder = run.path / STAGES_FOLDER / CHECKPOINTS / "teacher"
        folder.mkdir(parents=True)
        write_json(folder / PROGRESS, {})
        raise RuntimeError
    with open_run_dir(tmp_path / "run"):
        assert (folder / PROGRESS).is_file()
    with open_run_dir(tmp_path / "run", fresh=True):
        assert not folder.exists()
    assert not (tmp_path / "run" / STAGES_FOLDER).exists()


def test_keys_depend_on_inputs_not_on_their_order():
    assert stage_key("s", {"a": 1, "b": [2]}) == stage_key("s", {"b": [2], "a": 1})
    assert stage_key("s", {"a": 1}) != stage_key("s", {"a": 2})
    assert stage_key("s", {"a": 1}) != stage_key("t", {"a": 1})


def test_json_files_hold_no_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not (tmp_path / "x.json").exists()
    write_json(tmp_path / "x.json", {"a": "é"})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "é"}


def test_a_folder_that_is_taken_away_is_said_to_be_gone(tmp_path):
    out = tmp_path / "run"

    def lose(_folder):
        shutil.rmtree(out)
        (out / "arrays" / "a.npy").read_bytes()

    with (
        pytest.raises(UserError, match="the folder was taken away while the run was at work"),
        open_run_dir(out) as run,
    ):
        run.stage("s", "k1", OUTPUTS, lose)
    assert not out.exists()
