"""What runs share: taken once it is there, never half, never broken, and computed once."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from compressor.errors import UserError
from compressor.run.rundir import open_run_dir
from compressor.run.store.folder import FolderStore


def write(folder: Path, text: str = "made") -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text(text, encoding="utf-8")
    (folder / "model.json").write_text("{}", encoding="utf-8")


def stored(store: FolderStore, folder: Path, text: str = "made") -> None:
    folder.mkdir()
    write(folder, text)
    store.put("k1", folder, ["model", "model.json"], 2.5, {"stage": "model"})


def test_what_is_put_is_taken_whole(tmp_path):
    store = FolderStore.at(tmp_path / "store")
    (tmp_path / "out").mkdir()
    assert store.take("k1", tmp_path / "out") is None
    stored(store, tmp_path / "in")
    assert store.take("k1", tmp_path / "out") == 2.5
    assert (tmp_path / "out" / "model" / "weights").read_text(encoding="utf-8") == "made"
    stored(store, tmp_path / "late", "other")  # who comes later finds it there
    (tmp_path / "again").mkdir()
    store.take("k1", tmp_path / "again")
    assert (tmp_path / "again" / "model" / "weights").read_text(encoding="utf-8") == "made"
    assert not list((tmp_path / "store" / "entries").glob("*.tmp"))


@pytest.mark.parametrize("harm", ["flip", "cut", "more", "less", "account"])
def test_an_entry_that_is_not_whole_is_none(tmp_path, harm):
    store = FolderStore.at(tmp_path / "store")
    stored(store, tmp_path / "in")
    (entry,) = (tmp_path / "store" / "entries").glob("*/k1")
    weights = entry / "files" / "model" / "weights"
    if harm == "more":
        (entry / "files" / "stray").write_text("x", encoding="utf-8")
    elif harm == "less":
        weights.unlink()
    else:
        target, text = (entry / "entry.json", "{") if harm == "account" else (weights, "mad" + "!" * (harm == "flip"))
        target.write_text(text, encoding="utf-8")
    (tmp_path / "out").mkdir()
    assert store.take("k1", tmp_path / "out") is None
    assert not list((tmp_path / "out").iterdir())
    stored(store, tmp_path / "new")
    assert store.take("k1", tmp_path / "out") == 2.5


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "letters").mkdir()
    with pytest.raises(UserError, match="holds letters, which is no store's"):
        FolderStore.at(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["letters"]


def _run(folder: Path, number: int) -> None:
    def compute(made: Path) -> None:
        (folder / f"computed{number}").touch()
        time.sleep(0.5)
        write(made)

    with open_run_dir(folder / f"run{number}", store=FolderStore.at(folder / "store")) as run:
        record = run.stage("model", "key", ["model", "model.json"], compute, "shared")
    (folder / f"{'shared' if record.shared else 'made'}{number}").touch()


def test_processes_that_want_the_same_compute_it_once(tmp_path):
    started = [multiprocessing.get_context("fork").Process(target=_run, args=(tmp_path, number)) for number in range(4)]
    for process in started:
        process.start()
    for process in started:
        process.join()
    names = [file.name for file in tmp_path.iterdir()]
    assert [sum(name.startswith(word) for name in names) for word in ("computed", "made", "shared")] == [1, 1, 3]
    assert all((tmp_path / f"run{number}" / "model" / "weights").read_text() == "made" for number in range(4))


def _die(folder: Path) -> None:
    def compute(_made: Path) -> None:
        os._exit(9)

    with open_run_dir(folder / "run0", store=FolderStore.at(folder / "store")) as run:
        run.stage("model", "key", ["model"], compute, "shared")


def test_the_lock_of_who_died_is_free(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_die, args=(tmp_path,))
    process.start()
    process.join()
    _run(tmp_path, 1)
    assert (tmp_path / "made1").exists()


def test_a_stage_that_is_kept_is_not_taken_again(tmp_path):
    _run(tmp_path, 0)
    with open_run_dir(tmp_path / "run0", store=FolderStore.at(tmp_path / "store")) as run:
        record = run.stage("model", "key", ["model", "model.json"], write, "shared")
    assert (record.cached, record.shared) == (True, False)
