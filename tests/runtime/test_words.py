"""The answer to a text of words, by hand, and what may stand for words."""

import numpy as np
import pytest

from compressor.errors import UserError
from compressor.runtime.texts import words_of
from compressor.runtime.words import word_answer

NAMES = ["O", "B-PER", "I-PER"]


def test_labels_are_read_at_first_tokens_and_entities_named():
    logits = np.array([[9, 9, 9], [0, 2, 0], [5, 0, 0], [0, 0, 3], [4, 0, 0], [0, 1, 0]], dtype=np.float32)
    found = word_answer(["Ann", "Lee", "\u200b", "saw", "Bo"], logits, {0: 1, 1: 3, 3: 4, 4: 5}, NAMES)
    assert found["labels"] == ["B-PER", "I-PER", None, "O", "B-PER"]
    assert found["scores"][0] == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert found["scores"][2] is None
    assert found["entities"] == [
        {"label": "PER", "start": 0, "end": 2, "words": ["Ann", "Lee"]},
        {"label": "PER", "start": 4, "end": 5, "words": ["Bo"]},
    ]
    assert "entities" not in word_answer(["a"], logits, {0: 1}, ["NOUN", "VERB", "X"])
    assert word_answer(["a"], logits, {0: 3}, ["B-A", "I-A", "B-B"])["entities"][0]["label"] == "B", (
        "no label O is no matter"
    )
    assert word_answer(["a"], logits, {}, NAMES) == {"words": ["a"], "labels": [None], "scores": [None], "entities": []}


def test_texts_are_strings_or_lists_of_words():
    assert words_of("a  b", "here") == [["a", "b"]]
    assert words_of(["a b", ["c d", "e"], ()], "here") == [["a", "b"], ["c d", "e"], []]
    for wrong, words in (
        (5, "not of 5"),
        ([5], "text 1 is 5"),
        ([["a", 1]], r"text 1 is \['a', 1\]"),
        ({"a": 1}, "not of"),
    ):
        with pytest.raises(UserError, match=f"^here: labels the words of texts.*{words}"):
            words_of(wrong, "here")
    with pytest.raises(UserError, match="half a surrogate pair"):
        words_of([["\ud800"]], "here")
