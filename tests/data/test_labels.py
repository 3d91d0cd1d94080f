"""How the values of a label column become labels, and which rows are bad."""

import pandas as pd
import pytest
from pydantic import ValidationError

from compressor.data.tasks import load_task
from compressor.errors import UserError
from compressor.recipe.data import DataSpec

TRAIN = [(f"train text {i}", ("neg", "pos")[i % 2]) for i in range(40)]
VALIDATION = [(f"validation text {i}", ("neg", "pos")[i % 2]) for i in range(6)]


def own(folder, train=TRAIN, validation=VALIDATION, suffix=".csv", **more):
    paths = {}
    for part, rows in (("train", train), ("validation", validation)):
        table, path = pd.DataFrame(rows, columns=["text", "label"]), folder / f"{part}{suffix}"
        if suffix == ".jsonl":
            table.to_json(path, orient="records", lines=True)
        elif suffix == ".parquet":
            table.to_parquet(path)
        else:
            table.to_csv(path, index=False)
        paths[part] = str(path)
    sizes = {"calibration": {"size": 8}, "selection": {"size": 10}}
    return DataSpec(**{**paths, "text": "text", "label": "label", **sizes, **more})


def load(spec, model_labels=None):
    return load_task(spec, model_labels=model_labels, seed=0)


def named(rows, values):
    """The rows with other values: those of `values` in turn."""
    return [(text, values[i % len(values)]) for i, (text, _) in enumerate(rows)]


def refusal(spec, model_labels=None):
    with pytest.raises(UserError) as error:
        load(spec, model_labels)
    message = str(error.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


# --- data.labels ---


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("values", "labels", "ids"),
    [
        (["bad", "good"], {"bad": "negative", "good": "positive"}, [1, 0]),
        ([0, 1], {0: "negative", 1: "positive"}, [1, 0]),
        ([0.0, 1.0], {"0": "negative", "1": "positive"}, [1, 0]),
        ([1.0, 2.0], {1.0: "positive", 2: "negative"}, [0, 1]),
        ([True, False], {True: "positive", False: "negative"}, [0, 1]),
        (["yes", "no"], {"yes": "Positive", "no": "Negative"}, [0, 1]),
        ([0.5, 1.5], {0.5: "negative", 1.5: "positive"}, [1, 0]),  # a value that is named is a class
        (["bad", "good"], {"bad": 1, "good": 0}, [1, 0]),  # ids of the model in place of names
    ],
)
def test_values_are_mapped_to_labels(tmp_path, values, labels, ids, suffix):
    spec = own(tmp_path, named(TRAIN, values), named(VALIDATION, values), suffix, labels=labels)
    task = load(spec, ["positive", "negative"])
    assert task.evaluation.labels.tolist() == ids * 3


def test_several_values_may_be_one_label(tmp_path):
    values, labels = ["bad", "good", 1], {"bad": "negative", "good": "positive", 1: "negative"}
    task = load(own(tmp_path, named(TRAIN, values), named(VALIDATION, values), labels=labels))  # fine-tuned here
    assert task.label_names == ("negative", "positive")
    assert task.evaluation.labels.tolist() == [0, 1, 0] * 2
    assert task.label_values == {"bad": 0, "good": 1, "1": 0}


def test_every_value_that_the_mapping_lacks_is_named(tmp_path):
    train = named(TRAIN, ["neg", "pos", "meh", "hm"])
    spec = own(tmp_path, train, labels={"neg": "negative", "pos": "positive"})
    message = refusal(spec, ["negative", "positive"])
    assert "data.labels lacks the values 'meh', 'hm' (20 rows)" in message
    assert "on_bad_row" in message
    left = load(spec.model_copy(update={"on_bad_row": "skip"}), ["negative", "positive"])
    assert left.skipped_rows == {"train": 20, "validation": 0}


def test_yes_and_no_that_yaml_read_as_truth_values_are_explained(tmp_path):
    spec = own(tmp_path, named(TRAIN, ["yes", "no"]), labels={True: "positive", False: "negative"})
    assert "put them in quotes" in refusal(spec, ["negative", "positive"])


def test_a_label_that_the_model_does_not_have_is_named(tmp_path):
    message = refusal(own(tmp_path, labels={"neg": "negatve", "pos": "positive"}), ["negative", "positive"])
    assert message.startswith("data.labels: 'negatve' (for 'neg') is no label of 'negative', 'positive'")
    assert "did you mean 'negative'?" in message


def test_one_value_named_twice_is_refused(tmp_path):
    with pytest.raises(ValidationError, match="'1' twice"):
        own(tmp_path, labels={1: "a", "1": "b"})


def test_a_task_by_name_takes_the_mapping_as_well(tmp_path):
    folder = tmp_path / "sst2"
    folder.mkdir()
    for part in ("train", "validation"):
        rows = [(f"{part} {i}", i % 2) for i in range(30)]
        pd.DataFrame(rows, columns=["sentence", "label"]).to_parquet(folder / f"{part}.parquet")
    spec = DataSpec(task="sst2", source=str(tmp_path), labels={0: "LABEL_1", 1: "LABEL_0"})
    assert load(spec, ["LABEL_0", "LABEL_1"]).evaluation.labels.tolist() == [1, 0] * 15


@pytest.mark.parametrize(
    "values", [["neg", "pos"], ["False", "True"]]
)  # truth values are ids; names need to be told apart
def test_a_model_without_names_asks_for_the_mapping(tmp_path, values):
    spec = own(tmp_path, named(TRAIN, values), named(VALIDATION, values))
    if values[0] == "neg":
        message = refusal(spec, ["LABEL_0", "LABEL_1"])
        assert "for example data.labels: {neg: LABEL_0, pos: LABEL_1}" in message
        assert "correct the label" not in message
        assert "for example" in refusal(spec.model_copy(update={"on_bad_row": "skip"}), ["LABEL_0", "LABEL_1"])
    else:
        assert load(spec, ["LABEL_0", "LABEL_1"]).evaluation.labels.tolist() == [0, 1] * 3


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("model_labels", "names", "ids"),
    [
        (["a", "b"], ("a", "b"), [0, 1]),
        (["true", "false"], ("true", "false"), [1, 0]),  # names come before ids
        (None, ("False", "True"), [0, 1]),
    ],
)
def test_truth_values_are_the_same_in_every_kind_of_file(tmp_path, suffix, model_labels, names, ids):
    values = [False, True]
    task = load(own(tmp_path, named(TRAIN, values), named(VALIDATION, values), suffix), model_labels)
    assert task.label_names == names
    assert task.evaluation.labels.tolist() == ids * 3


def test_a_number_of_5000_digits_is_no_class(tmp_path):
    assert "is not a class" in refusal(own(tmp_path, [("a", "9" * 5000), *TRAIN]), ["neg", "pos"])


# --- data.on_bad_row ---

BAD = [*TRAIN[:3], ("", "pos"), ("b", ""), ("c", "0.5"), ("d", "what"), (" ", "neg"), *TRAIN[3:]]


def test_all_bad_rows_are_counted_and_the_first_three_named(tmp_path):
    message = refusal(own(tmp_path, BAD), ["neg", "pos"])
    assert "row 4, column 'text': the text is empty; row 5, column 'label': the label is missing; row 6, " in message
    assert "row 7" not in message
    assert "5 of 45 rows" in message
    assert "data.on_bad_row: skip" in message


@pytest.mark.parametrize("model_labels", [["neg", "pos"], None])
def test_bad_rows_are_left_out_and_said(tmp_path, model_labels):
    train = [row for row in BAD if row[1] != "what"] if model_labels is None else BAD
    task = load(own(tmp_path, train, on_bad_row="skip"), model_labels)
    count = 4 if model_labels is None else 5
    assert task.skipped_rows == {"train": count, "validation": 0}
    (warning,) = task.warnings
    assert f"{count} of {40 + count} rows are left out" in warning
    assert "row 4, column 'text': the text is empty" in warning
    parts = (task.train, task.calibration, task.selection)
    assert sorted(text for part in parts for (text,) in part.texts) == sorted(text for text, _ in TRAIN)
    for part in parts:  # rows keep the numbers that they have in the file
        assert all(
            train[int(name.partition(":")[2])][0] == text for (text,), name in zip(part.texts, part.ids, strict=True)
        )


def test_lines_that_hold_no_row_can_be_left_out(tmp_path):
    spec = own(tmp_path, on_bad_row="skip")
    path = tmp_path / "train.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], "alone", "a,b,c", *lines[3:]]) + "\n")
    task = load(spec)
    assert task.skipped_rows == {"train": 2, "validation": 0}
    assert "line 4 has 1 field, the header 2" in task.warnings[0]
    path.write_text("not JSON")
    path = tmp_path / "train.jsonl"
    rows = [f'{{"text": "{text}", "label": "{label}"}}' for text, label in TRAIN]
    path.write_text("\n".join([rows[0], "{", *rows[1:], "[1]"]) + "\n")
    task = load(spec.model_copy(update={"train": str(path)}))
    assert task.skipped_rows["train"] == 2
    assert "line 2: " in task.warnings[0]
    assert "line 42: " in task.warnings[0]


def test_a_file_of_bad_rows_alone_is_refused_all_the_same(tmp_path):
    assert "60 of 60 rows" in refusal(own(tmp_path, [("", "pos")] * 60, on_bad_row="skip"))


def test_what_is_left_out_is_said_by_every_command_that_reads_a_recipe(tiny_task, tmp_path, command):
    lines = (tiny_task / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines, "a b"]) + "\n")
    sets = "--set", f"data.train={tmp_path}/train.csv", "--set", "data.on_bad_row=skip"
    code, _, stderr = command("analyze", "ffn", tiny_task / "recipe.yaml", *sets, "--device", "cpu", "--json")
    assert code == 0
    assert "1 of 201 rows are left out" in stderr


# --- the same rows ---


def test_the_same_file_twice_is_called_so(tmp_path):
    spec = own(tmp_path, VALIDATION * 10, VALIDATION)
    assert "the same rows" in refusal(spec)
    assert "the same rows" in refusal(spec.model_copy(update={"validation": spec.train}))
