"""Texts as words with a label each, as they stand in files, and the sentences for those that cannot be used."""

import json
from types import SimpleNamespace

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny import LETTERS, byte_pairs, wordpiece

from compressor.data.answers.tokens import first_tokens
from compressor.data.batches import encode_words, read
from compressor.data.splits import Split
from compressor.data.tasks import load_task
from compressor.data.words.files import read_words
from compressor.data.words.fit import fit_data, fit_words
from compressor.errors import UserError
from compressor.recipe.data import DataSpec

CONLL = """-DOCSTART- -X- O O

EU NNP B-NP B-ORG
rejects VBZ B-VP O

-DOCSTART- -X- O O

Peter NNP B-NP B-PER
Blackburn NNP I-NP I-PER


"""
NAMES = ["O", "B-PER", "I-PER", "B-ORG"]


def write(folder, name, text):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def texts(count):
    """Return rows of words, all different, with tags: every third word is an entity of one word."""
    rows = []
    for row in range(count):
        words = [LETTERS[(row + 7 * word) % 26] for word in range(2 + row % 4)] + [f"n{row}"]
        rows.append((words, ["B-ORG" if word % 3 == 0 else "O" for word in range(len(words))]))
    return rows


def spec(folder, suffix=".jsonl", train=None, validation=None, **more):
    """Return the data of two files of words."""
    files = {}
    for name, rows in (("train", train or texts(30)), ("validation", validation or texts(44)[30:])):
        if suffix in {".conll", ".txt"}:
            text = "\n\n".join("\n".join(map(" ".join, zip(*row, strict=True))) for row in rows)
        else:
            objects = [dict(zip(("tokens", "tags"), row, strict=True)) for row in rows]
            text = json.dumps(objects) if suffix == ".json" else "\n".join(map(json.dumps, objects))
        files[name] = str(write(folder, f"{name}{suffix}", text))
    sizes = {"calibration": {"size": 4}, "selection": {"size": 4}}
    return DataSpec(**{**files, "text": "tokens", "label": "tags", "kind": "tokens", **sizes, **more})


def test_a_conll_file_is_texts_of_words_with_documents_and_empty_lines_between(tmp_path):
    table = read_words(write(tmp_path, "a.conll", CONLL), "data.train")
    assert table.columns["tokens"] == [["EU", "rejects"], ["Peter", "Blackburn"]]
    assert table.columns["tags"] == table.columns["4"] == [["B-ORG", "O"], ["B-PER", "I-PER"]]
    assert table.columns["2"] == [["NNP", "VBZ"], ["NNP", "NNP"]]
    tabs = read_words(write(tmp_path, "b.conll", "# sent_id = 1\n1\tNew York\tB-LOC\n2\t#\tO\n"), "data.train")
    assert tabs.columns["2"] == [["New York", "#"]], "a tab parts columns, a space does not; a comment has no tab"
    alone = read_words(write(tmp_path, "c.txt", "a\nb\n\nc"), "data.test")
    assert (alone.columns["tokens"], "tags" in alone.columns) == ([["a", "b"], ["c"]], False)


@pytest.mark.parametrize("suffix", [".conll", ".txt", ".json", ".jsonl"])
def test_every_form_of_file_gives_the_same_texts_and_labels(tmp_path, suffix):
    data = load_task(spec(tmp_path, suffix), model_labels=NAMES, seed=0)
    assert data.evaluation.texts == [tuple(words) for words, _ in texts(44)[30:]]
    assert data.evaluation.labels.tolist() == [NAMES.index(tag) for _, tags in texts(44)[30:] for tag in tags]
    assert data.evaluation.within.tolist() == [row for row, (words, _) in enumerate(texts(44)[30:]) for _ in words]
    wanted = {tuple(words): [NAMES.index(tag) for tag in tags] for words, tags in texts(30)}
    for part in (data.train, data.calibration, data.selection):
        for row, words in enumerate(part.texts):
            assert part.label(row).tolist() == wanted[words], "labels stay with their words through every cut"


def test_ids_of_parquet_files_come_with_the_names_that_datasets_wrote(tmp_path):
    features = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        ner_tags=datasets.List(datasets.ClassLabel(names=["O", "B-PER", "I-PER"])),
    )
    for name, rows in (("train", texts(30)), ("validation", texts(44)[30:])):
        table = {
            "tokens": [words for words, _ in rows],
            "ner_tags": [[row % 3] * len(rows[row][0]) for row in range(len(rows))],
        }
        datasets.Dataset.from_dict(table, features).to_parquet(tmp_path / f"{name}.parquet")
    files = {name: str(tmp_path / f"{name}.parquet") for name in ("train", "validation")}
    told = spec(tmp_path, label="ner_tags").model_copy(update=files)
    data = load_task(told, model_labels=None, seed=0)
    assert data.label_names == ("B-PER", "I-PER", "O")
    assert data.label_names[data.evaluation.label(1)[0]] == "B-PER", "id 1 of the file, 0 of the model"
    plain = pd.read_parquet(files["train"])
    assert isinstance(plain["ner_tags"][0], np.ndarray)


@pytest.mark.parametrize(
    "told", ["{", "[]", '{"info": {"features": [1]}}', "[" * 100_000], ids=["open", "list", "odd", "deep"]
)
def test_names_that_cannot_be_read_leave_the_ids_of_a_parquet_file_as_they_are(tmp_path, told):
    table = pa.table({"tokens": [["a", "b"]], "tags": [[0, 1]]}).replace_schema_metadata({"huggingface": told})
    pq.write_table(table, tmp_path / "train.parquet")
    assert [list(tags) for tags in read_words(tmp_path / "train.parquet", "data.train").columns["tags"]] == [[0, 1]]


def test_ids_are_the_models_or_what_the_recipe_calls_them(tmp_path):
    rows = [(words, [int(tag != "O") for tag in tags]) for words, tags in texts(44)]
    parts = {"train": rows[:30], "validation": rows[30:]}
    assert load_task(spec(tmp_path, **parts), model_labels=["O", "B-PER"], seed=0).evaluation.labels.tolist()[:2] == [
        1,
        0,
    ]
    named = spec(tmp_path, **parts, labels={"0": "O", "1": "B-X"})
    assert load_task(named, model_labels=None, seed=0).label_names == ("B-X", "O")
    with pytest.raises(UserError, match=r"data\.labels lacks the values '1'"):
        load_task(spec(tmp_path, **parts, labels={"0": "O"}), model_labels=None, seed=0)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((["a", "b"], ["O"]), r"row 3, column 'tags': 1 labels for 2 words"),
        ((["a"], ["B-LOC"]), r"row 3, column 'tags': 'B-LOC' is none of 'O', 'B-PER', 'I-PER', 'B-ORG'"),
        ((["a"], [0.5]), r"row 3, column 'tags': the label 0\.5 of word 1 is no class"),
        ((["a", "b"], ["O", None]), r"row 3, column 'tags': the label of word 2 is missing"),
        ((["a"], "O"), r"row 3, column 'tags': 'O' is no list of labels"),
        ((["a"], None), r"row 3, column 'tags': the labels are missing"),
        ((["a", " "], ["O", "O"]), r"row 3, column 'tokens': word 2 is ' ', no text"),
        (([], []), r"row 3, column 'tokens': the text has no words"),
        (("a b", ["O", "O"]), r"row 3, column 'tokens': 'a b' is no list of words"),
        ((["\ud800"], ["O"]), r"row 3, column 'tokens': word 1 holds half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_named_or_left_out(tmp_path, row, words):
    rows = [*texts(2), row, *texts(30)[2:]]
    with pytest.raises(UserError, match=rf"train\.jsonl: {words}.*on_bad_row: skip\.$"):
        load_task(spec(tmp_path, train=rows), model_labels=NAMES, seed=0)
    data = load_task(spec(tmp_path, train=rows, on_bad_row="skip"), model_labels=NAMES, seed=0)
    assert data.skipped_rows["train"] == 1
    assert tuple(row[0]) not in data.train.texts


def test_conll_files_of_odd_width_or_without_words_are_named(tmp_path):
    odd = write(tmp_path, "odd.conll", "a O\nb O\n\nc\nd O\n\ne O x\n")
    assert read_words(odd, "data.train").bad == {
        1: "line 4 has 1 column, the first line 2",
        2: "line 7 has 3 columns, the first line 2",
    }
    with pytest.raises(UserError, match=r"empty\.conll: the file has no words; data\.train needs a word a line"):
        read_words(write(tmp_path, "empty.conll", "-DOCSTART- O\n\n"), "data.train")
    with pytest.raises(UserError, match=r"a\.csv: \.csv \(data\.train\) holds no lists of words; use \.conll"):
        read_words(write(tmp_path, "a.csv", "tokens,tags\n"), "data.train")


def test_words_are_read_at_the_first_of_their_tokens(tmp_path):
    encodings = encode_words([("ab", "c"), ("d",)], byte_tokenizer(tmp_path), 16)
    assert encodings.words == [[1, 4], [1]], "<s>, a space, a, b, then a space and c; words begin with their space"
    assert (encodings.answers, len(encodings)) == (3, 2)
    assert encodings.answers_of(np.array([1, 0])).tolist() == [2, 0, 1]
    at = encodings.read_at(np.array([1, 0]))
    values = np.arange(2 * 6).reshape(2, 6)
    assert read(values, at).tolist() == [1, 7, 10], "row 1 of the texts comes first in this batch"
    assert encodings.by_row(np.array([1.0, 3.0, 5.0])).tolist() == [2, 5]
    assert encodings.take(np.array([1])).words == [[1]]
    assert first_tokens([None, 0, 0, 2, None]) == {0: 1, 2: 3}


def byte_tokenizer(folder):
    tokenizer = byte_pairs(folder)
    tokenizer.save_pretrained(folder)
    return type(tokenizer).from_pretrained(folder, add_prefix_space=True)


def split_of(rows):
    return Split([tuple(row) for row in rows], np.arange(sum(map(len, rows))), ["train:0"] * len(rows), by_word=True)


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_behind_the_longest_input_are_left_out_and_counted(tmp_path, side):
    tokenizer = byte_tokenizer(tmp_path)
    tokenizer.truncation_side = side
    whole = split_of([["ab", "cd", "ef"], ["a"]])
    kept, cut, lost = fit_words(
        whole, tokenizer, 7
    )  # five tokens: a word takes three, so that of the next two are left
    assert (kept.texts[1], lost) == (("a",), {})
    # from the right the next word still has its first token; from the left it has its last two alone
    assert kept.texts[0] == (("ab", "cd") if side == "right" else ("ef",))
    assert cut == {0: 1 if side == "right" else 2}
    assert kept.label(0).tolist() == ([0, 1] if side == "right" else [2])
    again = encode_words(kept.texts, tokenizer, 7)
    assert [len(words) for words in again.words] == [len(words) for words in kept.texts]


def test_words_that_become_no_token_are_named_and_long_texts_are_told(tmp_path):
    data = load_task(spec(tmp_path), model_labels=NAMES, seed=0)
    fitted = fit_data(data, wordpiece(tmp_path), 4)  # two words and the special tokens
    assert all(len(words) <= 2 for words in fitted.evaluation.texts)
    assert "14 of 14 texts of the evaluation part are longer than data.max_length (4 tokens): " in " ".join(
        fitted.warnings
    )
    assert len(fitted.evaluation.labels) == sum(map(len, fitted.evaluation.texts))
    rows = [(["a", "\u200b", "b"], ["O", "O", "O"]), *texts(44)[30:]]
    data = load_task(spec(tmp_path, validation=rows), model_labels=NAMES, seed=0)
    with pytest.raises(
        UserError, match=r"^row 1 of data\.validation, word 2: .* becomes no token; take such words out, or"
    ):
        fit_data(data, wordpiece(tmp_path), 32)
    fitted = fit_data(data, wordpiece(tmp_path), 32, skip=True)
    assert len(fitted.evaluation) == 14
    assert "1 of 15 texts of the evaluation part are left out" in " ".join(fitted.warnings)


def test_words_come_from_one_column(tmp_path):
    pair = spec(tmp_path).model_copy(update={"kind": None, "text": ["tokens", "tags"]})
    with pytest.raises(UserError, match=r"data\.text: tokens, tags; words with a label each come from one column"):
        load_task(pair, model_labels=NAMES, seed=0, kind="tokens")


def test_a_tokenizer_that_knows_no_words_is_refused(tmp_path):
    data = load_task(spec(tmp_path), model_labels=NAMES, seed=0)
    with pytest.raises(UserError, match=r"Labels of words need a fast tokenizer \(tokenizer\.json\)"):
        fit_data(data, SimpleNamespace(is_fast=False, num_special_tokens_to_add=lambda **_: 2), 8)
    with pytest.raises(UserError, match=r"data\.max_length: 2 leaves no room for text"):
        fit_data(data, wordpiece(tmp_path), 2)
