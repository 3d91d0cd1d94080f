"""`compressor bundle`: one tar file, the same bytes every time, without the user's texts, which verifies once unpacked."""

import json
import tarfile

import pytest

from compressor.errors import UserError
from compressor.files import json_text
from compressor.release.bundle import bundle
from compressor.release.contents import licence_files, shipped_folders, without_texts
from compressor.release.verify import verify


def unpacked(tar, folder):
    with tarfile.open(tar) as opened:
        opened.extractall(folder, filter="data")
    return next(folder.iterdir())


@pytest.mark.parametrize("name", ["ship", "open"])
def test_a_bundle_is_the_same_twice_and_verifies_once_unpacked(released, tmp_path, name):
    first, second = (bundle(released / name, tmp_path / f"{number}.tar") for number in (1, 2))
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    assert first.sha256 == second.sha256
    root = unpacked(tmp_path / "1.tar", tmp_path / "there")
    done = verify(root)
    assert (done.findings, done.card, root.name) == ([], True, name)
    assert {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()} == set(first.files)
    assert {"LICENSE", "manifest.json", "model/README.md", "result.json", "report.html", "sbom.cdx.json"} <= set(
        first.files
    )


def test_entries_have_no_owner_no_time_and_sorted_names(released, tmp_path):
    bundle(released / "ship", tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as opened:
        entries = opened.getmembers()
    assert {(entry.uid, entry.gid, entry.uname, entry.mtime, entry.mode, entry.type) for entry in entries} == {
        (0, 0, "", 0, 0o644, tarfile.REGTYPE)
    }
    names = [entry.name for entry in entries]
    assert names == [*sorted(names[:-1]), "ship/manifest.json"]


def test_what_ships_is_taken_and_all_on_request(released, tmp_path):
    answer = json.loads((released / "ship/result.json").read_text())["answer"]
    done = bundle(released / "ship", tmp_path / "a.tar")
    assert {name.rpartition("/")[0] for name in done.files if name.endswith(".onnx")} == {answer["path"]}
    every = bundle(released / "ship", tmp_path / "b.tar", every=True)
    made = {
        path.parent.relative_to(released / "ship").as_posix() for path in (released / "ship").glob("*onnx/*/*.onnx")
    }
    assert {name.rpartition("/")[0] for name in every.files if name.endswith(".onnx")} == made > {answer["path"]}
    assert verify(unpacked(tmp_path / "b.tar", tmp_path / "there")).whole


def test_a_tampered_bundle_is_found(released, tmp_path):
    bundle(released / "open", tmp_path / "a.tar")
    root = unpacked(tmp_path / "a.tar", tmp_path / "there")
    (root / "LICENSE").write_text("do what you like")
    assert [entry.file for entry in verify(root).findings] == ["LICENSE"]


def test_no_text_and_no_path_of_the_user_travels(released, tmp_path):
    source = released / "private-place"
    rows = [line.partition(",")[0] for file in source.glob("*.csv") for line in file.read_text().splitlines()[1:]]
    assert [text for text in rows if f'"{text}"' in (released / "open/result.json").read_text()]

    def told(root):
        pages = [
            path.read_text(errors="replace") for path in root.rglob("*") if path.suffix in {".json", ".html", ".md"}
        ]
        return "".join(pages)

    bundle(released / "open", tmp_path / "a.tar")
    without = told(unpacked(tmp_path / "a.tar", tmp_path / "without"))
    # texts of three letters may stand anywhere by chance
    assert [text for text in rows if len(text) > 10 and text in without] == []
    assert "private-place" not in without
    bundle(released / "open", tmp_path / "b.tar", texts=True)
    with_texts = told(unpacked(tmp_path / "b.tar", tmp_path / "with"))
    assert [text for text in rows if len(text) > 10 and text in with_texts]


def test_paths_are_cut_to_their_names_wherever_they_stand():
    result = {
        "recipe": {"model": {"path": "/home/me/m"}, "data": {"train": "/home/me/m/a.csv", "validation": "C:\\x\\b.csv"}},
        "data": {"warnings": ["/home/me/m/a.csv: row 3"], "provenance": {}},
        "flipped": [1], "explain": [2], "analysis": {"errors": {"examples": [3], "count": 4}},
    }  # fmt: skip
    made = without_texts(result)
    assert made["recipe"] == {"model": {"path": "m"}, "data": {"train": "a.csv", "validation": "b.csv"}}
    assert made["data"]["warnings"] == ["a.csv: row 3"]
    assert (made["flipped"], made["explain"], made["analysis"]["errors"]) == ([], [], {"examples": [], "count": 4})
    assert result["flipped"] == [1]
    hub = {"recipe": {"model": {"path": "owner/name"}, "data": {"source": "nyu-mll/glue"}}}
    assert without_texts(hub)["recipe"] == hub["recipe"]


def test_the_licence_is_that_of_the_source(copied, tmp_path):
    root = copied("ship")
    result = json.loads((root / "result.json").read_text())
    files, licence = licence_files(root, result)
    assert licence == "apache-2.0"
    assert b"names this licence: apache-2.0" in files["LICENSE"]
    source = tmp_path / "source"
    source.mkdir()
    result["recipe"]["model"]["path"] = str(source)
    assert licence_files(root, result)[1] == "apache-2.0"
    (root / "model/README.md").unlink()
    files, licence = licence_files(root, result)
    assert (b"names no licence" in files["LICENSE"], licence) == (True, None)
    assert str(tmp_path).encode() not in files["LICENSE"]
    (source / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")
    (source / "LICENSE.txt").write_text("the text")
    (source / "NOTICE").write_text("a notice")
    texts = {name: source / name for name in ("LICENSE.txt", "NOTICE")}
    assert licence_files(root, result) == (texts, "gpl-3.0")
    result["recipe"]["model"]["path"] = str(tmp_path / "gone")
    assert licence_files(root, result)[1] is None


def test_a_bundle_of_an_unpacked_bundle_keeps_its_licence(released, tmp_path, monkeypatch):
    first = bundle(released / "ship", tmp_path / "a.tar")
    root = unpacked(tmp_path / "a.tar", tmp_path / "there")
    # a folder that happens to be called as the source was
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/LICENSE").write_text("another")
    again = bundle(root, tmp_path / "b.tar")
    assert (again.licence, again.sha256) == (first.licence, first.sha256)


def test_a_page_that_its_owner_wrote_anew_travels_and_a_changed_line_does_not(copied, tmp_path):
    root = copied("ship")
    card = root / "model/README.md"
    card.write_text(card.read_text() + "\n## Contact\n\nus\n")
    bundle(root, tmp_path / "a.tar")
    assert verify(unpacked(tmp_path / "a.tar", tmp_path / "there")).whole
    card.write_text(card.read_text().replace("Ship ", "Do not ship "))
    with pytest.raises(UserError, match="its line is not what result.json says"):
        bundle(root, tmp_path / "b.tar")
    assert not (tmp_path / "b.tar").exists()


def test_a_run_that_is_not_whole_is_refused_and_nothing_is_left(copied, tmp_path, command):
    root = copied("open")
    (root / "onnx/int8/model.onnx").write_bytes(b"x")
    code, out, error = command("bundle", root, "--out", tmp_path / "a.tar")
    assert (code, out) == (2, "")
    assert f"{root}/onnx/int8/model.onnx: is not the file of the manifest" in error
    assert [path.name for path in tmp_path.iterdir() if "tar" in path.name] == []


@pytest.mark.parametrize(
    ("out", "said"),
    [("a.zip", "give a name that ends in .tar"), ("no/where/a.tar", "is no folder that can be written to"),
     ("folder.tar", "this is a folder"), ("link.tar", "this is a link")],
)  # fmt: skip
def test_a_place_that_is_none_is_one_sentence(released, tmp_path, command, out, said):
    (tmp_path / "folder.tar").mkdir()
    (tmp_path / "link.tar").symlink_to(tmp_path / "target")
    code, _, error = command("bundle", released / "open", "--out", tmp_path / out)
    assert (code, error.count("\n")) == (2, 1)
    assert said in error


@pytest.mark.parametrize("part", ["model", "onnx/int8", "."])
def test_what_is_no_run_is_one_sentence(released, tmp_path, command, part):
    place = released / "open" / part if part != "." else tmp_path
    code, _, error = command("bundle", place, "--out", tmp_path / "a.tar")
    assert (code, error.count("\n")) == (2, 1)
    assert "holds no manifest.json" in error


def test_nothing_ships_where_today_is_kept(released, tmp_path):
    result = {"answer": {"path": None}, "shipped": None, "cascade": None}
    with pytest.raises(UserError, match="to keep what runs today, so nothing ships; `--all`"):
        shipped_folders(tmp_path, result, ["onnx/int8"])
    shipped = {"answer": None, "shipped": {"variant": "int8"}, "cascade": None}
    assert shipped_folders(tmp_path, shipped, ["onnx/int8", "onnx/optimized"]) == ["onnx/int8"]
    assert shipped_folders(tmp_path, {**shipped, "shipped": None}, ["onnx/a", "full-onnx/b"]) == ["onnx/a"]
    assert shipped_folders(tmp_path, {**result, "answer": {"path": "model"}}, ["onnx/int8"]) == []
    with pytest.raises(UserError, match="onnx/fp16 is to ship and is not there"):
        shipped_folders(tmp_path, {**shipped, "shipped": {"variant": "fp16"}}, ["onnx/int8"])


def test_the_command_prints_files_and_sha256(released, tmp_path, command):
    code, out, error = command("bundle", released / "ship", "--out", tmp_path / "a.tar")
    assert (code, "warning" in error) == (0, False)
    assert "model/model.safetensors" in out
    code, again, _ = command("bundle", released / "ship", "--out", tmp_path / "a.tar", "--json")
    found = json.loads(again)
    assert code == 0
    assert f"sha256 {found['sha256']}" in out
    assert found["bytes"] == (tmp_path / "a.tar").stat().st_size
    assert json_text(found)
