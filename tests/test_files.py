"""Files are whole; only what was written before goes; links and things in the way are left as they are."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.errors import UserError
from compressor.files import publish, write_files, write_text


def names_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_later_call_takes_the_place_of_an_earlier_one_and_leaves_the_rest(tmp_path):
    write_files(tmp_path, {"a.png": b"1", "b.png": b"1", "other.png": b"1"})
    (tmp_path / "mine.png").write_bytes(b"mine")
    write_files(tmp_path, {"b.png": b"2", "c.png": b"2"}, instead_of="")
    assert names_in(tmp_path) == [".written.json", "b.png", "c.png", "mine.png"]
    assert ((tmp_path / "b.png").read_bytes(), (tmp_path / "mine.png").read_bytes()) == (b"2", b"mine")
    write_files(tmp_path, {"d.png": b"3"}, instead_of="c")
    assert names_in(tmp_path) == [".written.json", "b.png", "d.png", "mine.png"]
    assert json.loads((tmp_path / ".written.json").read_text()) == ["b.png", "d.png"]


@pytest.mark.parametrize("account", ['["../mine.txt", "sub/x", 3]', "{", "3", '{"a": 1}'])
def test_an_account_that_was_changed_removes_nothing_elsewhere(tmp_path, account):
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "sub" / "x").write_text("mine")
    (tmp_path / "out" / ".written.json").write_text(account)
    write_files(tmp_path / "out", {"a": b"1"})
    assert names_in(tmp_path) == ["mine.txt", "out/.written.json", "out/a", "out/sub/x"]


def test_links_and_folders_in_the_place_of_a_file_are_left(tmp_path):
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match="link: this is a link"):
        write_text(tmp_path / "link", "new")
    with pytest.raises(UserError, match="folder: this is a folder, and a file is to be written here"):
        write_text(tmp_path / "folder", "new")
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_what_is_in_the_way_of_a_folder_is_left(tmp_path):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a").write_text("1")
    (tmp_path / "target").write_text("mine")
    with pytest.raises(UserError, match="target: this is a file, and a folder is to be written here"):
        publish(tmp_path / "made", tmp_path / "target", [])
    assert (tmp_path / "target").read_text() == "mine"


PATHS = st.sampled_from(["a", "b", "sub/a", "sub/b", "sub/deep/a", "other/a"])


@given(
    st.sets(PATHS, min_size=1), st.sets(PATHS, min_size=1), st.sets(PATHS), st.sampled_from([[], ["../outside", "/"]])
)
def test_a_folder_holds_what_is_new_and_what_is_the_users(tmp_path_factory, first, second, own, hostile):
    root = tmp_path_factory.mktemp("publish")
    (root / "outside").write_text("mine")
    own, target = own - first - second, root / "target"

    def made(names):
        for name in names:
            (root / "made" / name).parent.mkdir(parents=True, exist_ok=True)
            (root / "made" / name).write_text("new")
        return root / "made"

    written = publish(made(first), target, [])
    assert written == sorted(first)
    for name in own:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text("mine")
    (target / "empty of the user").mkdir()
    publish(made(second), target, [*written, *hostile])
    assert names_in(target) == sorted(second | own)
    assert all((target / name).read_text() == "mine" for name in own)
    assert (target / "empty of the user").is_dir()
    assert (root / "outside").read_text() == "mine"
    # no folder is left that only this tool filled
    folders = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_dir()}
    assert folders == {"empty of the user"} | {
        parent.as_posix()
        for name in second | own
        for parent in (target / name).relative_to(target).parents
        if parent.name
    }
