"""`compressor verify`: a run as it was written passes, changed and missing files are named, and a manifest that is none is refused."""

import json
import shutil

import pytest
from edits import edit, found

from compressor.errors import UserError
from compressor.release.manifest import account, read_manifest
from compressor.release.verify import verify


@pytest.mark.parametrize("name", ["ship", "open"])
def test_a_run_as_it_was_written_is_what_its_card_says(released, name):
    done = verify(released / name)
    assert (done.findings, done.notes, done.texts, done.card) == ([], [], 10, True)
    folders = {path.parent.relative_to(released / name).as_posix() for path in (released / name).glob("*onnx/*/*.onnx")}
    assert set(done.onnx) == folders
    assert done.files == len(read_manifest(released / name)["files"]) > 10


@pytest.mark.parametrize(
    ("part", "card"), [("model", True), ("onnx/optimized", False), ("onnx/int8", False), ("onnx/cascade", False)]
)
def test_a_part_of_a_run_is_verified_alone(copied, part, card):
    root = copied("open")
    for other in ("model", "onnx/optimized", "onnx/int8", "onnx/cascade"):
        if other != part:
            shutil.rmtree(root / other)
    done = verify(root / part)
    assert (done.findings, done.part, done.card) == ([], part, card)
    assert list(done.onnx) == [part] * (part != "model")
    assert not verify(root).whole


def test_no_text_of_the_run_is_in_the_manifest(released):
    own = {line.partition(",")[0] for line in (released / "private-place/train.csv").read_text().splitlines()[1:]}
    said = (released / "open/manifest.json").read_text()
    assert not [text for text in own if text in said]
    assert "private-place" not in said


CHANGES = {
    "a byte of the weights": ("model/model.safetensors", "sha256"),
    "a byte of an ONNX file": ("onnx/int8/model.onnx", "sha256"),
    "a byte of the tokenizer": ("model/tokenizer.json", "sha256"),
    "a byte of the result": ("result.json", "sha256"),
}


@pytest.mark.parametrize(("file", "word"), CHANGES.values(), ids=CHANGES)
def test_a_changed_file_is_found_by_its_hash(copied, file, word):
    root = copied("open")
    data = bytearray((root / file).read_bytes())
    data[-2] ^= 1
    (root / file).write_bytes(data)
    first = verify(root).findings[0]
    assert first.file == file
    assert word in first.problem


def test_a_missing_and_a_longer_file_are_named(copied):
    root = copied("open")
    (root / "onnx/int8/config.json").unlink()
    edit(root / "onnx/optimized/classifier.json", lambda text: text + "\n")
    problems = dict(found(root))
    assert problems["onnx/int8/config.json"] == "is missing"
    assert "bytes instead of" in problems["onnx/optimized/classifier.json"]


def test_a_file_that_libraries_would_read_is_found(copied):
    root = copied("open")
    (root / "model/pytorch_model.bin").write_bytes(b"x")
    (root / "model/notes.md").write_text("mine")
    assert [entry.file for entry in verify(root).findings] == ["model/pytorch_model.bin"]


def test_other_versions_are_noted_and_no_finding(copied):
    root = copied("open")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (root / "manifest.json").write_text(json.dumps(manifest))
    done = verify(root)
    assert done.whole
    assert "(made with 1.0)" in done.notes[0]


MANIFESTS = {
    "none": (None, "holds no manifest.json"),
    "no JSON": ("{", "cannot be read"),
    "another schema": ({"schema": 9}, "schema 9 is not 1"),
    "a list": ([], "schema None is not 1"),
    "a part missing": ({"onnx": 3}, "onnx is missing or of the wrong kind"),
    "a file elsewhere": ({"files": {"../x": {"bytes": 1, "sha256": "0" * 64}}}, "'../x', which lies elsewhere"),
    "no hash": ({"files": {"x": {"bytes": 1}}}, "files, answers, logits or onnx is missing"),
    "an answer of no kind": ({"answers": {"kind": 0.5}}, "files, answers, logits or onnx is missing"),
    "no tolerance": ({"answers": {"kind": "score", "tolerance": []}}, "files, answers, logits or onnx is missing"),
    "no numbers": ({"logits": {"model": [["a"]]}}, "files, answers, logits or onnx is missing"),
}


def test_what_a_later_version_says_of_answers_is_passed_over(copied):
    root = copied("open")
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["answers"]["\U0001f9ea"] = 3
    (root / "manifest.json").write_text(json.dumps(manifest))
    assert verify(root).whole


@pytest.mark.parametrize(("content", "said"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_manifest_that_is_none_is_one_sentence(copied, command, content, said):
    root = copied("open")
    if content is None:
        (root / "manifest.json").unlink()
    else:
        before = json.loads((root / "manifest.json").read_text())
        text = content if isinstance(content, str) else json.dumps({**before, **content} if content else content)
        (root / "manifest.json").write_text(text)
    code, out, error = command("verify", root)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert said in error


def test_the_command_says_what_it_looked_at(released, command):
    code, out, _ = command("verify", released / "ship")
    assert code == 0
    assert "weights, model card and result.json agree" in out
    assert f"sha256 {account(released / 'ship/manifest.json')['sha256']}" in out
    code, out, _ = command("verify", released / "ship", "--json")
    assert (code, json.loads(out)["whole"], json.loads(out)["findings"]) == (0, True, [])


def test_json_lists_every_finding_and_the_sentence_names_the_first(copied, command):
    root = copied("open")
    (root / "model/vocab.txt").unlink()
    (root / "onnx/int8/config.json").unlink()
    code, out, error = command("verify", root, "--json")
    files = [entry["file"] for entry in json.loads(out)["findings"]]
    assert code == 2
    assert files[:2] == ["model/vocab.txt", "onnx/int8/config.json"]
    assert error.startswith(f"error: {root}/model/vocab.txt: is missing (1 more finding: `compressor verify --json`")


def test_no_folder_is_one_sentence(tmp_path, command):
    code, _, error = command("verify", tmp_path / "nothing")
    assert code == 2
    assert error == (
        f"error: {tmp_path}/nothing: no such folder; name a run, its model/, one of its onnx/ folders or an unpacked bundle.\n"
    )


def test_a_report_that_was_built_anew_is_written_down_and_nothing_else(copied, command):
    root = copied("open")
    (root / "report.html").write_text("of another version")
    (root / "figures/accuracy.png").unlink()
    assert {file for file, _ in found(root)} == {"report.html", "figures/accuracy.png"}
    edit(root / "model/README.md", lambda text: text + "more\n")
    assert command("report", root)[0] == 0
    assert [file for file, _ in found(root)] == ["model/README.md"]


def test_require_names_the_first(copied):
    root = copied("open")
    (root / "report.md").unlink()
    with pytest.raises(UserError, match="report.md: is missing; copy"):
        verify(root).require()
