"""Settings of a cascade: precisions, earlier versions, and folders that are damaged."""

import json

import pytest
from cascades import TEXTS, said

from compressor.cascade.runtime import CascadeClassifier
from compressor.errors import UserError


def test_settings_say_the_precision_and_stats_name_the_full_model(exported):
    plain, eight = (CascadeClassifier(exported(precision=precision)[0]) for precision in ("float32", "int8"))
    said = [{key: made.settings[key] for key in ("precision", "full")} for made in (plain, eight)]
    assert said == [{"precision": "float32", "full": False}, {"precision": "int8", "full": True}]
    eight(TEXTS)
    assert [entry["layer"] for entry in eight.stats()["exits"]] == [1, 2, 3, 3]
    assert [entry.get("full", False) for entry in eight.stats()["exits"]] == [False, False, False, True]
    assert sum(entry["rows"] for entry in eight.stats()["exits"]) == len(TEXTS)
    assert not any("full" in entry for entry in plain.stats()["exits"])


def test_a_cascade_of_before_there_was_a_precision_opens(exported, tmp_path):
    folder, _ = exported()
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    settings = json.loads((folder / "cascade.json").read_text())
    older = {key: value for key, value in settings.items() if key not in ("precision", "full")}
    (tmp_path / "cascade.json").unlink()
    (tmp_path / "cascade.json").write_text(json.dumps(older))
    assert said(CascadeClassifier(tmp_path)(TEXTS)) == said(CascadeClassifier(folder)(TEXTS))


@pytest.mark.parametrize("missing", ["cascade.json", "back.onnx", "tokenizer.json"])
def test_a_folder_that_is_no_whole_cascade_is_refused(exported, tmp_path, missing):
    for file in exported()[0].iterdir():
        if file.name != missing:
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(UserError, match=missing):
        CascadeClassifier(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"parts": 3}', '{"parts": []}', "[" * 100_000])
def test_damaged_settings_are_refused(tmp_path, text):
    (tmp_path / "cascade.json").write_text(text)
    with pytest.raises(UserError, match="not the settings"):
        CascadeClassifier(tmp_path)


@pytest.mark.parametrize("name", ["front.onnx", "back.onnx", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"", b"{}", b"not a graph", b"\x08\x08:\x02\x0a\x00", b"[" * 100_000])
def test_damaged_files_are_refused_by_name(exported, tmp_path, name, content):
    for file in exported()[0].iterdir():
        if file.name != name:
            (tmp_path / file.name).symlink_to(file)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name}: .* copy the folder again"):
        CascadeClassifier(tmp_path)
