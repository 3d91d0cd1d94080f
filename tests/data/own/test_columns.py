"""Columns of tables made by hand: which are texts, which the label, what its values mean, and what is refused."""

import pytest

from compressor.data.files import Table
from compressor.data.own.columns import find_columns, find_text
from compressor.data.own.label_column import read_values
from compressor.errors import UserError

CLASSES = ("negative", "positive")
TEXTS = [f"a film of {row} long scenes" for row in range(40)]


def found(columns, classes=CLASSES, **asked):
    return find_columns(Table("t.csv", columns), classes, **asked)


@pytest.mark.parametrize(
    ("values", "meaning"),
    [
        (["0", "1"], {"0": 0, "1": 1}),
        ([0, 1], {"0": 0, "1": 1}),
        ([0.0, 1.0, float("nan")], {"0": 0, "1": 1}),
        ([False, True], {"False": 0, "True": 1}),
        (["Positive", "NEGATIVE"], {"Positive": 1, "NEGATIVE": 0}),
        (["positive", "negative", None, -1], {"positive": 1, "negative": 0}),
    ],
)
def test_two_columns_with_ids_or_names(values, meaning):
    table = {"sentence": TEXTS, "label": (values * 40)[:40]}
    columns = found(table)
    assert (columns.text, columns.label, columns.values) == (("sentence",), "label", meaning)


def test_classes_without_names_take_ids_and_ask_for_names():
    generic = ("LABEL_0", "LABEL_1")
    assert found({"text": TEXTS, "label": ["1", "0"] * 20}, generic).values == {"1": 1, "0": 0}
    with pytest.raises(UserError, match="--labels bad=LABEL_0,good=LABEL_1"):
        found({"text": TEXTS, "label": ["good", "bad"] * 20}, generic)
    mapped = found({"text": TEXTS, "label": ["good", "bad"] * 20}, generic, mapping={"bad": "LABEL_1", "good": "0"})
    assert mapped.values == {"good": 0, "bad": 1}


def test_twelve_classes_fit_a_model_of_twelve_and_are_refused_by_one_of_two():
    topics = tuple(f"topic{number}" for number in range(12))
    table = {"text": TEXTS, "category": [topics[row % 12] for row in range(40)]}
    assert found(table, topics).values == {topic: place for place, topic in enumerate(topics)}
    with pytest.raises(UserError) as refused:
        found(table)
    words = (
        "t.csv: column 'category' has the 12 values",
        "2 classes 'negative', 'positive'",
        "--labels",
        "--label none",
    )
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize("values", [[-1] * 40, ["-1"] * 40, [None] * 40, [""] * 40])
def test_a_label_column_without_labels_is_none(values):
    columns = found({"sentence": TEXTS, "label": values})
    assert (columns.label, columns.values) == (None, {})
    assert "'label' is empty or -1 throughout" in columns.why_label


def test_texts_alone_have_no_label():
    columns = found({"sentence": TEXTS, "idx": list(range(40))})
    assert columns.label is None
    assert "no column holds the model's classes" in columns.why_label


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (("hypothesis", "premise"), ("premise", "hypothesis")),
        (("sentence1", "sentence2"), ("sentence1", "sentence2")),
        (("Question", "Sentence"), ("Question", "Sentence")),
        (("Review Text", "Title"), ("Review Text",)),
        (("notes", "customer_review"), ("customer_review",)),
    ],
)
def test_names_say_which_column_is_text_and_which_two_are_a_pair(names, text):
    columns = dict.fromkeys(names, TEXTS)
    assert find_text(Table("t.csv", columns))[0] == text


def test_without_a_name_the_longest_text_is_taken_and_the_other_named():
    table = {"id": [f"{row}" for row in range(40)], "who": [f"user {row}" for row in range(40)], "said": TEXTS}
    text, why = find_text(Table("t.csv", table))
    assert text == ("said",)
    assert "longest" in why
    assert "'who'" in why
    assert find_text(Table("t.csv", table), ("who", "said"))[0] == ("who", "said")


def test_numbers_are_no_text_whatever_their_name():
    table = {"text": ["1.5", "2"] * 20, "c2": TEXTS}
    assert find_text(Table("t.csv", table))[0] == ("c2",)
    with pytest.raises(UserError, match=r"no column holds text; the columns are a, b"):
        find_text(Table("t.csv", {"a": [1] * 4, "b": ["2"] * 4}))


def test_a_guess_by_values_says_so_and_two_are_refused():
    table = {"text": TEXTS, "idx": list(range(40)), "flag": [0, 1] * 20}
    columns = found(table)
    assert columns.label == "flag"
    assert "a guess" in columns.why_label
    with pytest.raises(UserError, match="the columns 'flag', 'seen' could each be the label"):
        found({**table, "seen": [1, 0] * 20})
    assert found({**table, "seen": ["positive", "negative"] * 20}).label == "seen"  # names are surer than ids
    assert found({**table, "seen": [1, 0] * 20}, label="none").label is None


def test_names_of_classes_win_over_ids_and_fractions_are_no_labels():
    both = {"text": TEXTS, "label": [1, 0] * 20, "label_text": ["negative", "positive"] * 20}
    assert found(both).label == "label_text"
    scores = {"text": TEXTS, "score": [row / 40 + 0.001 for row in range(40)], "verdict": ["negative", "positive"] * 20}
    assert found(scores).label == "verdict"


@pytest.mark.parametrize(
    ("columns", "asked", "words"),
    [
        ({"stars": [1, 5] * 20}, {}, "--labels 1=negative,5=positive"),
        ({"label": ["positive"] * 40}, {}, "holds the single class 'positive'"),
        ({"label": [0.5, 0.7] * 20}, {}, "'0.5', '0.7'"),
        ({"label": [0, 1] * 20}, {"label": "lable"}, "no column 'lable'; did you mean 'label'?"),
        ({"label": [0, 1] * 20}, {"text": ("txt",)}, "no column 'txt'"),
        ({"label": [0, 1] * 20}, {"text": ("text", "text")}, "--text: name one column, or two different ones"),
        ({"label": ["a", "b"] * 20}, {"mapping": {"a": "negativ"}}, "no such class; did you mean 'negative'?"),
        ({"label": ["a", "b"] * 20}, {"mapping": {"a": "negative"}}, "the values 'a', 'b'"),
    ],
)
def test_what_does_not_fit_is_one_sentence(columns, asked, words):
    with pytest.raises(UserError) as refused:
        found({"text": TEXTS, **columns}, **asked)
    assert words in str(refused.value)


def test_values_that_are_lists_or_many_are_no_labels():
    assert not read_values([[1], [2]], CLASSES).fits
    assert not read_values(list(range(5000)), CLASSES).fits
    assert read_values(["x"] * 3 + [None], ("x", "y")).ids == {"x": 0}
