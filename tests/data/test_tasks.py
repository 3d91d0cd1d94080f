import json
import socket

import numpy as np
import pandas as pd
import pytest

from compressor.data import named
from compressor.data.files import read_table
from compressor.data.named import GLUE
from compressor.data.splits import normalised
from compressor.data.tasks import load_task
from compressor.errors import UserError
from compressor.recipe.data import DataSpec

TRAIN = [(f"train text {i}", ("neg", "pos")[i % 2]) for i in range(40)]
VALIDATION = [(f"validation text {i}", ("neg", "pos")[i % 2]) for i in range(6)]


def write(folder, name, rows, columns=("review", "sentiment")):
    path, table = folder / name, pd.DataFrame(rows, columns=list(columns))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        table.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return str(path)


def own(folder, train=TRAIN, validation=VALIDATION, suffix=".csv", **more):
    files = {"train": write(folder, f"train{suffix}", train), "validation": write(folder, f"valid{suffix}", validation)}
    sizes = {"calibration": {"size": 8}, "selection": {"size": 10}}
    return DataSpec(**{**files, "text": "review", "label": "sentiment", **sizes, **more})


def load(spec, model_labels=None):
    return load_task(spec, model_labels=model_labels, seed=0)


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".CSV"])
def test_own_files_of_every_kind_give_the_same_task(tmp_path, suffix):
    texts = ["NA", "null", "naïve 😀", "1.50", "-", "a\u2028b"]
    if suffix != ".tsv":  # there a line is a row and a quote is a character
        texts += ['he said "no", twice', "two\nlines", "tab\tand, comma"]
    rows = [(text, ("neg", "pos")[i % 2]) for i, text in enumerate(texts)] + TRAIN
    task = load(own(tmp_path, rows, suffix=suffix))
    assert (task.name, task.text_columns, task.label_names) == ("train", ("review",), ("neg", "pos"))
    assert [len(part) for part in (task.calibration, task.selection, task.evaluation)] == [8, 10, 6]
    assert len(task.train) == len(rows) - 18
    assert task.evaluation.texts == [(text,) for text, _ in VALIDATION]
    assert task.evaluation.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert task.evaluation.labels.dtype == np.int64
    assert task.evaluation.ids[-1] == "validation:5"
    label_of = {text: name for text, name in rows}
    for part in (task.train, task.calibration, task.selection):
        for (text,), label, row in zip(part.texts, part.labels, part.ids, strict=True):
            assert label_of[text] == task.label_names[label]
            assert rows[int(row.removeprefix("train:"))][0] == text


def test_byte_order_mark_and_home_directory(tmp_path, monkeypatch):
    own(tmp_path)
    for name in ("train.csv", "valid.csv"):
        (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + (tmp_path / name).read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    spec = DataSpec(train="~/train.csv", validation="~/valid.csv", text="review", label="sentiment")
    assert load(spec).evaluation.texts[0] == ("validation text 0",)


def test_pairs_and_overlaps_of_pairs(tmp_path):
    columns = ("a", "b", "y")
    train = [(f"a{i}", f"b{i}", i % 2) for i in range(20)] + [("v1", "x", 0), ("x", "v1", 1)]
    paths = {
        "train": write(tmp_path, "t.csv", train, columns),
        "validation": write(tmp_path, "v.csv", [("v1", "x", 1), ("v2", "x", 0)], columns),
    }
    task = load(DataSpec(**paths, text=["a", "b"], label="y", calibration={"size": 4}, selection={"size": 6}))
    assert task.text_columns == ("a", "b")
    assert task.evaluation.texts[0] == ("v1", "x")
    assert sum(task.removed_overlaps.values()) == 1
    assert sum(map(len, (task.train, task.calibration, task.selection))) == 21


def test_copies_leave_what_decides_and_are_counted(tmp_path):
    once = load(own(tmp_path))
    twice = load(own(tmp_path, [*TRAIN, *((f" {text} ", label) for text, label in TRAIN)]))
    assert once.removed_copies == {"calibration": 0, "selection": 0}
    assert twice.removed_copies == {"calibration": 8, "selection": 10}
    for part in ("calibration", "selection"):
        found, wanted = getattr(twice, part), getattr(once, part)
        assert [texts[0].strip() for texts in found.texts] == [texts[0] for texts in wanted.texts]
        assert found.labels.tolist() == wanted.labels.tolist()
    assert len(twice.train) == 2 * len(once.train)
    repeated = load(own(tmp_path, validation=[*VALIDATION, *VALIDATION]))
    assert len(repeated.evaluation) == 2 * len(VALIDATION)  # the user's own


def test_copies_in_a_test_file_leave_the_calibration_part_before_it_is_cut(tmp_path):
    test = write(tmp_path, "test.jsonl", [(f"test {i % 20}",) for i in range(60)], ["review"])
    task = load(own(tmp_path, test=test, calibration={"split": "test", "size": 12}))
    assert len(set(task.calibration.texts)) == len(task.calibration) == 12
    assert task.removed_copies == {"calibration": 24, "selection": 0}


def test_copies_are_what_the_key_says_also_between_parts(tmp_path):
    train = [*TRAIN, ("VALIDATION Text 3", "pos"), ("Train Text 0", "neg")]
    spec = own(tmp_path, train, calibration={"size": 1}, selection={"size": 1000})
    plain, uncased = (
        load_task(spec, model_labels=None, seed=0, same=same)
        for same in (normalised, lambda texts: normalised(tuple(text.lower() for text in texts)))
    )
    assert sum(plain.removed_overlaps.values()) == 0
    assert sum(uncased.removed_overlaps.values()) == 1
    lower = [text.lower() for part in (uncased.calibration, uncased.selection) for (text,) in part.texts]
    assert len(set(lower)) == len(lower)
    everywhere = [text.lower() for part in (uncased.train, uncased.evaluation) for (text,) in part.texts]
    assert not set(lower) & set(everywhere)


def test_result_does_not_depend_on_the_order_of_the_file(tmp_path):
    one = load(own(tmp_path))
    two = load(own(tmp_path, TRAIN[::-1]))
    for part in ("train", "calibration", "selection", "evaluation"):
        assert getattr(one, part).sha256 == getattr(two, part).sha256


def test_calibration_from_a_test_file_without_labels(tmp_path):
    test = write(tmp_path, "test.jsonl", [(f"test {i}",) for i in range(30)], ["review"])
    task = load(own(tmp_path, test=test, calibration={"split": "test", "size": 12}))
    assert len(task.calibration) == 12
    assert task.calibration.labels is None
    assert {row.split(":")[0] for row in task.calibration.ids} == {"test"}
    assert len(task.train) == 30
    everything = load(own(tmp_path, test=test, calibration={"split": "test", "size": None}))
    assert len(everything.calibration) == 30
    assert everything.calibration.take(range(12)).texts == task.calibration.texts


@pytest.mark.parametrize(
    ("labels", "expected"), [([-1, -1], None), ([None, None], None), (["", ""], None), (["pos", "neg"], [0, 1])]
)
def test_labels_of_a_test_file(tmp_path, labels, expected):
    test = write(tmp_path, "test.csv", list(zip(["t1", "t2"], labels, strict=True)))
    task = load(own(tmp_path, test=test, calibration={"split": "test"}))
    found = task.calibration.labels
    assert (None if found is None else sorted(found.tolist())) == expected


@pytest.mark.parametrize("labels", [[0, None], [[0], [1]], [-1, 0]])
def test_wrong_labels_of_a_test_file_are_refused(tmp_path, labels):
    test = write(tmp_path, "test.jsonl", list(zip(["t1", "t2"], labels, strict=True)))
    with pytest.raises(UserError, match=r"test\.jsonl: row [12], column 'sentiment': the label"):
        load(own(tmp_path, test=test, calibration={"split": "test"}), ["neg", "pos"])


def test_without_a_label_column_everything_is_unlabelled(tmp_path):
    task = load(own(tmp_path, label=None), model_labels=["a", "b"])
    parts = (task.train, task.calibration, task.selection, task.evaluation)
    assert all(part.labels is None for part in parts)
    assert task.label_names == ("a", "b")
    with pytest.raises(UserError, match=r"data\.label is missing.*fine-tun"):
        load(own(tmp_path, label=None))


@pytest.mark.parametrize(
    ("values", "model_labels", "names", "ids"),
    [
        (["pos", "neg"], ["neg", "pos"], ("neg", "pos"), [1, 0]),
        (["Pos", "NEG"], ["pos", "neg"], ("pos", "neg"), [0, 1]),
        ([1, 0], ["pos", "neg"], ("pos", "neg"), [1, 0]),
        (["1", "0"], ["LABEL_0", "LABEL_1"], ("LABEL_0", "LABEL_1"), [1, 0]),
        ([2.0, 0.0], ["a", "b", "c"], ("a", "b", "c"), [2, 0]),
        (["2", "1"], ["1", "2", "3"], ("1", "2", "3"), [1, 0]),  # names come first, ids second
        ([2, 1], ["1", "2", "3"], ("1", "2", "3"), [1, 0]),
        (["Aa", "aA"], ["aA", "Aa"], ("aA", "Aa"), [1, 0]),  # exact before without case
        (["pos", "neg"], None, ("neg", "pos"), [1, 0]),
        ([10, 9], None, ("9", "10"), [1, 0]),  # numbers in order, not as text
        (["1", "-1"], None, ("-1", "1"), [1, 0]),
        ([" b ", "a"], None, ("a", "b"), [1, 0]),
        (["none", "nan"], None, ("nan", "none"), [1, 0]),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_how_labels_become_ids(tmp_path, values, model_labels, names, ids, suffix):
    train = [(text, values[i % 2]) for i, (text, _) in enumerate(TRAIN)]
    validation = [(text, values[i % 2]) for i, (text, _) in enumerate(VALIDATION)]
    task = load(own(tmp_path, train, validation, suffix), model_labels)
    assert task.label_names == names
    assert task.evaluation.labels.tolist() == ids * 3


def test_truth_values_are_ids(tmp_path):
    train, validation = ([(text, label == "pos") for text, label in rows] for rows in (TRAIN, VALIDATION))
    task = load(own(tmp_path, train, validation, ".jsonl"), ["a", "b"])
    assert task.evaluation.labels.tolist() == [0, 1] * 3


def replaced(rows, row, **values):
    text, label = rows[row]
    return [*rows[:row], (values.get("text", text), values.get("label", label)), *rows[row + 1 :]]


def one_class(rows, label="pos"):
    return [(text, label) for text, _ in rows]


BAD_ROWS = {
    "empty text": (
        {"train": replaced(TRAIN, 4, text="")},
        None,
        "train.csv: row 5, column 'review': the text is empty",
    ),
    "blank text": ({"validation": replaced(VALIDATION, 1, text=" ")}, None, "valid.csv: row 2, column 'review'"),
    "no label": (
        {"train": replaced(TRAIN, 39, label=None)},
        None,
        "train.csv: row 40, column 'sentiment': the label is",
    ),
    "regression": (
        {"train": replaced(TRAIN, 2, label="0.5")},
        None,
        "train.csv: row 3, column 'sentiment': the label '0.5'",
    ),
    "unknown name": (
        {},
        ["bad", "pos"],
        "train.csv: row 1, column 'sentiment': the label 'neg' is none of 'bad', 'pos'",
    ),
    "id too high": (
        {"train": [(text, i % 3) for i, (text, _) in enumerate(TRAIN)]},
        ["a", "b"],
        "train.csv: row 3, column 'sentiment': the label '2' is none of 'a', 'b' or the ids 0 to 1",
    ),
    "names and ids mixed": (
        {"train": replaced(TRAIN, 6, label="1")},
        ["neg", "pos"],
        "train.csv: row 7, column 'sentiment'",
    ),
    "0 beside names 1 and 2": (
        {"train": [(text, i % 3) for i, (text, _) in enumerate(TRAIN)]},
        ["1", "2"],
        "train.csv: row 1, column 'sentiment': the label '0'",
    ),
    "label sets differ": (
        {"validation": [(text, i % 2) for i, (text, _) in enumerate(VALIDATION)]},
        None,
        "valid.csv: row 1, column 'sentiment': the label '0' is none of 'neg', 'pos'; ",
    ),
    "one class": ({"train": one_class(TRAIN)}, None, "train.csv: all rows have the label 'pos' in column 'sentiment'"),
    "one class for a model": (
        {"train": one_class(TRAIN)},
        ["neg", "pos"],
        "train.csv: the train part (22 rows) holds the single class 'pos'",
    ),
    "one class to evaluate": (
        {"validation": one_class(VALIDATION)},
        None,
        "valid.csv: the evaluation part (6 rows) holds the single class 'pos'",
    ),
    "no rows": ({"validation": []}, None, "valid.csv: the file has no rows"),
    "too few rows": ({"train": TRAIN[:2]}, None, "train.csv: its rows leave too few for the calibration part;"),
    "all rows elsewhere": (
        {"train": TRAIN, "validation": TRAIN},
        None,
        "train.csv: all its rows are the same rows as in ",
    ),
}


@pytest.mark.parametrize(("changed", "model_labels", "message"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_in_one_sentence(tmp_path, changed, model_labels, message):
    with pytest.raises(UserError) as error:
        load(own(tmp_path, **changed), model_labels)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")


BAD_FILES = {
    "missing": ("absent.csv", None, "absent.csv: no such file; correct data.train"),
    "folder": (".", None, "no suffix"),
    "unknown kind": ("a.xlsx", b"", ".xlsx (data.train) is no known kind of data; use .csv, .tsv, .jsonl, .parquet"),
    "nearly known kind": ("a.json", b"", "did you mean '.jsonl'?"),
    "empty": ("a.csv", b"", "a.csv: the file has no rows"),
    "surplus field": ("a.csv", b"review,sentiment\nfine,pos\na,b,neg\n", "a.csv: line 3 has 3 fields, the header 2"),
    "surplus field first": (
        "a.csv",
        b"review,sentiment\na,b,neg\nfine,pos\n",
        "a.csv: line 2 has 3 fields, the header 2",
    ),
    "open quote": (
        "a.csv",
        b'review,sentiment\n"fine,pos\n',
        "a.csv: not readable as csv (the quote that opens in line 2",
    ),
    "not UTF-8": ("a.tsv", b"review\tsentiment\n\xff\xfe\tpos\n", "a.tsv: line 2 is not UTF-8 (byte 0xff)"),
    "broken line": ("a.jsonl", b'{"review": "fine", "sentiment": "pos"}\n\n{"review": }\n', "a.jsonl: line 3:"),
    "no object": ("a.jsonl", b"[1]\n", "a.jsonl: line 1: each line must be an object"),
    "no lines": ("a.jsonl", b"\n", "a.jsonl: the file has no rows"),
    "no parquet": ("a.parquet", b"hello", "a.parquet: not readable as parquet"),
    "text column": (
        "a.csv",
        b"reviews,sentiment\nfine,pos\n",
        "there is no column 'review'; did you mean 'reviews'? the columns are",
    ),
    "label column": (
        "a.csv",
        b"review,polarity\nfine,pos\n",
        "there is no column 'sentiment'; the columns are review, polarity",
    ),
    "text missing": (
        "a.jsonl",
        b'{"review": "a", "sentiment": 0}\n{"sentiment": 1}\n',
        "row 2, column 'review': the text is missing",
    ),
    "text no text": ("a.jsonl", b'{"review": ["a"], "sentiment": 0}\n', "row 1, column 'review': a list is not text"),
    "half a character": (
        "a.jsonl",
        rb'{"review": "\ud800", "sentiment": 0}',
        "row 1, column 'review': the text holds half",
    ),
    "label list": (
        "a.jsonl",
        b'{"review": "a", "sentiment": [0, 1]}\n',
        "row 1, column 'sentiment': the label [0, 1] is not a class",
    ),
    "label missing": (
        "a.jsonl",
        b'{"review": "a", "sentiment": NaN}\n',
        "row 1, column 'sentiment': the label is missing",
    ),
}


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_bad_files_are_refused_in_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(own(tmp_path, train=TRAIN).model_copy(update={"train": str(path)}))
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_numbers_in_a_text_column_are_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"review": i, "sentiment": i % 2}) for i in range(80)))
    spec = DataSpec(
        train=str(path), validation=write(tmp_path, "v.csv", [("x", 0), ("y", 1)]), text="review", label="sentiment"
    )
    assert {text for part in (load(spec).train, load(spec).selection) for (text,) in part.texts} <= set(
        map(str, range(80))
    )


# --- GLUE ---


def glue_folder(folder, task, validation="validation", test="test"):
    columns = [*GLUE[task].text_columns, "label", "idx"]
    classes = max(2, len(GLUE[task].label_names))
    (folder / task).mkdir()
    for split, rows in (("train", 30), (validation, 6), (test, 10)):
        table = [
            [*(f"{split} {column} {i}" for column in columns[:-2]), -1 if split == test else i % classes, i]
            for i in range(rows)
        ]
        pd.DataFrame(table, columns=columns).to_parquet(folder / task / f"{split}.parquet")
    return str(folder)


@pytest.mark.parametrize("task", list(GLUE))
def test_every_glue_task_reads_from_a_folder(tmp_path, task):
    source = glue_folder(tmp_path, task, GLUE[task].validation, GLUE[task].test)
    data = load(DataSpec(task=task, source=source, calibration={"split": "test", "size": 5}, selection={"size": 6}))
    assert (data.name, data.text_columns, data.label_names) == (task, GLUE[task].text_columns, GLUE[task].label_names)
    assert [len(part) for part in (data.train, data.calibration, data.selection, data.evaluation)] == [24, 5, 6, 6]
    assert data.calibration.labels is None
    assert data.evaluation.labels.tolist() == [i % max(2, len(data.label_names)) for i in range(6)]
    assert data.evaluation.texts[3] == tuple(f"{GLUE[task].validation} {column} 3" for column in data.text_columns)


def test_mnli_folder_with_plain_names(tmp_path):
    data = load(DataSpec(task="mnli", source=glue_folder(tmp_path, "mnli")))
    assert len(data.evaluation) == 6


@pytest.mark.parametrize(
    ("model_labels", "ids"),
    [
        (["LABEL_0", "LABEL_1", "LABEL_2"], [0, 1, 2]),
        (["ENTAILMENT", "Neutral", "contradiction"], [0, 1, 2]),
        (["contradiction", "entailment", "neutral"], [1, 2, 0]),
    ],
)
def test_the_models_order_of_names_is_followed(tmp_path, model_labels, ids):
    data = load(DataSpec(task="mnli", source=glue_folder(tmp_path, "mnli")), model_labels)
    assert data.label_names == tuple(model_labels)
    assert data.evaluation.labels.tolist() == ids * 2


def test_names_written_another_way_are_recognised(tmp_path):
    data = load(DataSpec(task="mrpc", source=glue_folder(tmp_path, "mrpc")), ["Equivalent", "not equivalent"])
    assert data.evaluation.labels.tolist() == [1, 0] * 3


def test_an_empty_text_of_glue_is_read_as_such(tmp_path):
    source = glue_folder(tmp_path, "qqp")
    path = tmp_path / "qqp" / "validation.parquet"
    table = pd.read_parquet(path)
    table.loc[0, "question2"], table.loc[1, "question2"] = "", None
    table.to_parquet(path)
    data = load(DataSpec(task="qqp", source=source))
    assert [texts[1] for texts in data.evaluation.texts[:2]] == ["", ""]


BAD_TASKS = {
    "kind": (
        {"task": "stsb", "kind": "many_labels"},
        None,
        "stsb has labels of the kind score, and the model gives many_labels; choose the model",
    ),
    "typing error": ({"task": "sst-2"}, None, "'sst-2' is not known; did you mean 'sst2'? known are demo, cola"),
    "unlike any": ({"task": "zzz"}, None, "'zzz' is not known; known are demo, cola, sst2"),
    "class count": (
        {"task": "rte"},
        ["a", "b", "c"],
        "rte has the 2 classes 'entailment', 'not_entailment', but the model has 3",
    ),
    "class names": (
        {"task": "rte"},
        ["neutral", "entailment"],
        "do not fit them; correct id2label in the model's config.json",
    ),
    "other task": (
        {"task": "cola"},
        None,
        "cola/train.parquet: no such file; data.source must be a folder that holds cola/",
    ),
}


@pytest.mark.parametrize(("spec", "model_labels", "message"), BAD_TASKS.values(), ids=BAD_TASKS)
def test_bad_tasks_are_refused_in_one_sentence(tmp_path, spec, model_labels, message):
    with pytest.raises(UserError) as error:
        load(DataSpec(**spec, source=glue_folder(tmp_path, "rte")), model_labels)
    assert message in str(error.value)


@pytest.mark.parametrize("source", ["./nowhere", "~/nowhere", "/nowhere/glue"])
def test_what_looks_like_a_folder_is_not_looked_up_on_the_hub(source, monkeypatch):
    monkeypatch.setattr(named, "_hub_reader", None)
    with pytest.raises(UserError, match=r"nowhere.*sst2/train\.parquet: no such file"):
        load(DataSpec(task="sst2", source=source))


def test_an_unlabelled_validation_row_of_glue_is_refused(tmp_path):
    source = glue_folder(tmp_path, "rte")
    (tmp_path / "rte" / "validation.parquet").write_bytes((tmp_path / "rte" / "test.parquet").read_bytes())
    with pytest.raises(UserError, match=r"validation\.parquet: row 1, column 'label': the label '-1' is none of"):
        load(DataSpec(task="rte", source=source))


def test_the_hub_is_read_through_datasets(tmp_path, monkeypatch):
    import datasets

    frames = {"train": 30, "validation": 6}
    splits = {
        split: datasets.Dataset.from_dict(
            {
                "sentence": [f"{split} {i}" for i in range(rows)],
                "label": [i % 2 for i in range(rows)],
                "idx": range(rows),
            },
            features=datasets.Features(
                sentence=datasets.Value("string"),
                label=datasets.ClassLabel(names=["n", "p"]),
                idx=datasets.Value("int32"),
            ),
        )
        for split, rows in frames.items()
    }
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *names: asked.append(names) or datasets.DatasetDict(splits))
    data = load(DataSpec(task="sst2"))
    assert asked == [("nyu-mll/glue", "sst2")]
    assert data.evaluation.texts[5] == ("validation 5",)
    assert data.evaluation.labels.tolist() == [0, 1] * 3
    with pytest.raises(UserError, match=r"'nyu-mll/glue' \(sst2\) has no split 'test', only train, validation"):
        load(DataSpec(task="sst2", calibration={"split": "test"}))


@pytest.mark.parametrize(
    "problem", [ConnectionError("no network\nat all"), ValueError("config"), RuntimeError("script"), OSError()]
)
def test_a_hub_that_fails_names_the_remedy(monkeypatch, problem):
    import datasets

    def fail(*names):
        raise problem

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        UserError, match=r"data\.source: 'nyu-mll/glue' \(sst2\).*--set data\.source=<folder with sst2/train"
    ) as error:
        load(DataSpec(task="sst2"))
    assert "\n" not in str(error.value)


def test_offline_mode_is_refused_at_once(tmp_path, monkeypatch):
    import datasets
    import huggingface_hub.constants

    def no_network(*args, **kwargs):
        raise AssertionError("offline mode must not open connections")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(UserError, match=r"cannot be read from the hub .*--set data\.source="):
        load(DataSpec(task="sst2", source="nobody/nothing"))


def test_read_columns_keeps_words_that_mean_missing_elsewhere(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('t,l\nNA,None\n"a ""b""",1\n', encoding="utf-8")
    assert read_table(path, "data.train").columns == {"t": ["NA", 'a "b"'], "l": ["None", "1"]}
