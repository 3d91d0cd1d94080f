"""A store behind a URL: whole entries or none, nothing outside of the folder, one sentence for whatever a file system raises."""

import json

import fsspec
import pytest

from compressor.errors import UserError
from compressor.run.rundir import open_run_dir
from compressor.run.store.folder import FolderStore
from compressor.run.store.remote import RemoteStore
from compressor.run.store.store import open_store


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    """Return the URL of an empty place."""
    place = f"{request.param}://{tmp_path}/bucket"
    if request.param == "memory":
        fsspec.filesystem("memory").makedirs(str(tmp_path), exist_ok=True)
    yield place
    system, root = fsspec.url_to_fs(place)
    if system.exists(root):
        system.rm(root, recursive=True)


@pytest.fixture
def made(tmp_path):
    """Return a folder with the outputs of a stage, and a file that is none of them."""
    folder = tmp_path / "made"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_text("made", encoding="utf-8")
    (folder / "model" / "copy").write_text("made", encoding="utf-8")
    (folder / "model.json").write_text("{}", encoding="utf-8")
    (folder / "stray").touch()
    return folder


def put(store, folder, seconds=2.5):
    store.put("k1", folder, ["model", "model.json"], seconds, {"stage": "model"})


def files(url, part):
    system, root = fsspec.url_to_fs(url)
    return system, [file for file in system.find(root) if f"/{part}/" in file]


def test_what_is_put_is_taken_whole_by_another(url, made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    assert open_store(url).take("k1", out) is None
    put(open_store(url), made)
    assert open_store(url).take("k1", out) == 2.5
    found = {path.relative_to(out).as_posix(): path.read_text() for path in out.rglob("*") if path.is_file()}
    assert found == {"model/weights": "made", "model/copy": "made", "model.json": "{}"}
    assert len(files(url, "files")[1]) == 2  # what is the same lies there once


def test_a_later_entry_takes_the_place_of_an_earlier_one(url, made, tmp_path):
    store = open_store(url)
    put(store, made)
    (made / "model" / "weights").write_text("later", encoding="utf-8")
    put(store, made, 3.0)
    (tmp_path / "out").mkdir()
    assert store.take("k1", tmp_path / "out") == 3.0
    assert (tmp_path / "out" / "model" / "weights").read_text(encoding="utf-8") == "later"


@pytest.mark.parametrize("harm", ["flip", "cut", "less", "account", "no files"])
def test_an_entry_that_is_not_whole_is_none_and_is_made_anew(url, made, tmp_path, harm):
    store, out = open_store(url), tmp_path / "out"
    out.mkdir()
    put(store, made)
    system, blobs = files(url, "files")
    (entry,) = files(url, "entries")[1]
    weights = next(file for file in blobs if system.cat_file(file) == b"made")
    if harm == "less":
        system.rm_file(weights)
    elif harm in {"account", "no files"}:
        system.pipe_file(entry, b"{" if harm == "account" else b'{"seconds": 1}')
    else:
        system.pipe_file(weights, b"mad" + b"!" * (harm == "flip"))
    assert open_store(url).take("k1", out) is None
    assert not list(out.iterdir())
    put(open_store(url), made)
    assert open_store(url).take("k1", out) == 2.5


@pytest.mark.parametrize("name", ["../escaped", "/escaped", "model/../../escaped"])
def test_nothing_lands_outside_of_the_folder(url, made, tmp_path, name):
    store, out = open_store(url), tmp_path / "out"
    out.mkdir()
    put(store, made)
    system, (entry,) = files(url, "entries")
    account = json.loads(system.cat_file(entry))
    account["files"] = {name: account["files"]["model/weights"]}
    system.pipe_file(entry, json.dumps(account).encode())
    assert store.take("k1", out) is None
    assert not (tmp_path / "escaped").exists()
    assert not list(out.iterdir())


def test_a_place_of_something_else_is_refused(url):
    system, root = fsspec.url_to_fs(url)
    system.makedirs(root)
    system.pipe_file(f"{root}/letters", b"dear")
    with pytest.raises(UserError, match="holds something else than a store; name an empty one"):
        open_store(url)
    assert [file.rsplit("/", 1)[1] for file in system.find(root)] == ["letters"]


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (
            b'{"schema": 2}',
            "schema 2 is not 1, the one that this version reads; use the version of compressor that wrote",
        ),
        (b'{"schema": true}', "schema True is not 1, the one that this version reads; name an empty place"),
        (b"[1]", "schema None is not 1, the one that this version reads; name an empty place"),
        (b"{", "schema None is not 1, the one that this version reads; name an empty place"),
    ],
)
def test_a_store_of_another_version_is_refused_and_left_as_it_is(url, made, mark, said):
    put(open_store(url), made)
    system, root = fsspec.url_to_fs(url)
    before = sorted(system.find(root))
    system.pipe_file(f"{root}/store.json", mark)
    with pytest.raises(UserError, match=rf": its store\.json: {said}"):
        open_store(url)
    assert (sorted(system.find(root)), system.cat_file(f"{root}/store.json")) == (before, mark)


def test_only_the_last_folder_of_a_place_is_made(tmp_path):
    """As no bucket is: its name may be a typing error."""
    with pytest.raises(UserError, match="the store cannot be used"):
        open_store(f"file://{tmp_path}/bukcet/runs")
    assert not list(tmp_path.iterdir())


def test_urls_that_no_package_knows_are_refused_in_one_sentence():
    with pytest.raises(UserError, match=r"nonsense://a/b: the store cannot be used \(Protocol not known: nonsense\)"):
        open_store("nonsense://a/b")


def test_whatever_a_file_system_raises_is_one_sentence(made, tmp_path, monkeypatch):
    class Gone(Exception):
        pass

    def fail(*_args, **_more):
        raise Gone("no route to the bucket\nand much more")

    store = open_store(f"file://{tmp_path}/bucket")
    monkeypatch.setattr(type(store.system), "put_file", fail)
    with pytest.raises(UserError, match=r"the store cannot be used \(no route to the bucket\)"):
        put(store, made)


def test_a_path_is_a_folder(tmp_path):
    assert isinstance(open_store(tmp_path / "a"), FolderStore)
    assert isinstance(open_store(str(tmp_path / "b")), FolderStore)
    assert isinstance(open_store(f"file://{tmp_path}/c"), RemoteStore)


def test_runs_share_stages_through_it(url, made, tmp_path):
    def compute(folder):
        (folder / "model").mkdir()
        (folder / "model" / "weights").write_text("made", encoding="utf-8")

    records = []
    for number in range(2):
        with open_run_dir(tmp_path / f"run{number}", store=open_store(url)) as run:
            records.append(run.stage("model", "key", ["model"], compute, "k2"))
    assert [record.shared for record in records] == [False, True]
    assert (tmp_path / "run1" / "model" / "weights").read_text(encoding="utf-8") == "made"
