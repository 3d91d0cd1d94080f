"""Tokenizers from anyone: a text never ends the program, never takes long, and never becomes many times longer."""

import json
import re
import shutil
import time

import pytest
from tiny import save_model

from compressor.data.batches import encode, same_tokens
from compressor.data.tokenizer import PANIC, check_tokenizer, no_panic, probe, tokenizing
from compressor.errors import UserError
from compressor.model.load import find_model, load_tokenizer

CATASTROPHIC = "(a+)+$", "(a|aa)+$", "^(([a-z])+.)+[A-Z]([a-z])+$"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("hostile") / "model", layers=2, num_labels=2)


def changed(made, folder, **changes):
    shutil.copytree(made, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, **changes}))
    return folder


def split_by(pattern):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def replacing(times, content):
    part = {"type": "Replace", "pattern": {"String": "a"}, "content": content}
    return {"type": "Sequence", "normalizers": [part] * times}


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_regular_expressions_that_backtrack_are_refused(made, tmp_path, pattern):
    folder = changed(made, tmp_path / "m", pre_tokenizer=split_by(pattern))
    started = time.process_time()
    with pytest.raises(UserError, match="the tokenizer (breaks off at a text|takes .* a regular expression)"):
        load_tokenizer(find_model(str(folder)))
    assert time.process_time() - started < 5


def test_one_that_a_text_of_the_data_meets_first_is_refused_there(made, tmp_path, command, tiny_task):
    folder = changed(made, tmp_path / "m", pre_tokenizer=split_by("(q+)+$"))
    tokenizer = load_tokenizer(find_model(str(folder)))
    text = "q" * 60 + "!"
    for use in (lambda: encode([(text,)], tokenizer, 16), lambda: same_tokens(tokenizer)((text,))):
        with pytest.raises(UserError, match="the tokenizer breaks off at a text"):
            use()
    code, _, error = command("explain", folder, text)
    assert (code, len(re.findall("^error: ", error, re.MULTILINE))) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"normalizer": replacing(6, "a" * 100)}, r"up to 1e\+12 times longer"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 50_000}}, "puts 50,000 signs into a text"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "x", "content": "a" * 2000}]}},
            "2,000 signs",
        ),
    ],
)
def test_texts_that_would_grow_are_refused_before_any_is_read(made, tmp_path, changes, words, command, tiny_task):
    folder = changed(made, tmp_path / "m", **changes)
    for arguments in (
        ["explain", folder, "a"],
        ["validate", tiny_task / "recipe.yaml", "--set", f"model.path={folder}"],
    ):
        code, _, error = command(*arguments)
        with pytest.raises(UserError, match=words):
            raise UserError(error)
        assert code == 2


def test_stock_tokenizers_pass(tiny):
    for family in ("bert", "roberta"):
        folder = tiny(family)[3]
        check_tokenizer(folder / "tokenizer.json", "here")
        probe(load_tokenizer(find_model(str(folder))), "here")


def test_files_that_the_library_complains_of_are_left_to_it(tmp_path):
    for number, content in enumerate(("[" * 100_000, "3", "", '{"normalizer": [[]]}', '{"normalizer": 3}')):
        (tmp_path / f"{number}.json").write_text(content)
        check_tokenizer(tmp_path / f"{number}.json", "here")
    check_tokenizer(tmp_path / "none.json", "here")


def test_a_sign_that_it_has_no_token_for_is_a_sentence(made, tmp_path, command):
    folder = changed(made, tmp_path / "m")
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    del content["model"]["vocab"]["[UNK]"]
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    code, _, error = command("explain", folder, "\U0001f9ea")
    assert (code, "Missing [UNK] token" in error, error.count("\n")) == (2, True, 1), error


def test_what_commands_a_terminal_is_no_part_of_a_sentence():
    assert str(UserError("a\x00b\x1b[31m\tc\nd\x9f")) == "a b [31m c\nd "


def test_only_panics_become_sentences():
    panic = type(PANIC, (BaseException,), {})
    with pytest.raises(UserError, match="here: the tokenizer breaks off at a text .boom."), no_panic("here"):
        raise panic("boom")
    with pytest.raises(UserError, match="here: the tokenizer breaks off at a text .boom."), tokenizing("here"):
        raise Exception("boom")
    for interrupted in (no_panic, tokenizing):
        with pytest.raises(KeyboardInterrupt), interrupted("here"):
            raise KeyboardInterrupt
    with pytest.raises(ValueError, match="boom"), tokenizing("here"):
        raise ValueError("boom")
