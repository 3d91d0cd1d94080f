"""Entities in sequences of tags: those of seqeval, by hand and at random; what a task makes of them."""

import numpy as np
import pytest
from hypothesis import given, strategies
from seqeval.metrics.sequence_labeling import get_entities

from compressor.data.answers.config import task_of
from compressor.data.answers.kinds import BY_WORD, TOKENS, Task
from compressor.data.answers.tokens import Tags, counts, differing_texts, ratio, texts_of

BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
SCHEMES = [BIO, (*BIO, "E-PER", "S-PER", "E-LOC", "S-LOC"), ("I-A", "I-B", "O"), ("O", "B-A-B", "I-A-B", "B-A", "I-A")]


@pytest.mark.parametrize("names", SCHEMES)
@given(data=strategies.data())
def test_entities_are_those_of_seqeval(names, data):
    lengths = data.draw(strategies.lists(strategies.integers(1, 6), min_size=1, max_size=4))
    tag = strategies.integers(0, len(names) - 1)
    one, other = (
        np.array(data.draw(strategies.lists(tag, min_size=sum(lengths), max_size=sum(lengths)))) for _ in range(2)
    )
    within, tags = texts_of(lengths), Tags(names)
    cut = [np.split(part, np.cumsum(lengths)[:-1]) for part in (one, other)]
    wanted = [[get_entities([names[tag] for tag in text]) for text in part] for part in cut]
    assert [tags.entities(text) for text in cut[0]] == wanted[0]
    assert differing_texts(tags, one, other, within).tolist() == [a != b for a, b in zip(*wanted, strict=True)]
    shared = [[2 * len({*a} & {*b}), len(a) + len(b)] for a, b in zip(*wanted, strict=True)]
    assert counts(tags, one, other, within).tolist() == shared


def test_entities_by_hand():
    tags = Tags(("O", "B-PER", "I-PER", "U-LOC", "L-PER"))
    # B and what goes on; U alone, twice; an I behind O begins; a text begins anew
    assert tags.entities(np.array([1, 2, 4, 3, 3, 0, 2])) == [
        ("PER", 0, 2),
        ("LOC", 3, 3),
        ("LOC", 4, 4),
        ("PER", 6, 6),
    ]
    kind, last = tags.spans(np.array([1, 2, 2]), np.array([0, 0, 1]))
    assert (kind.tolist(), last.tolist()) == ([2, 0, 2], [1, 0, 2])
    assert ratio(np.array([[2, 4], [0, 0]])).tolist() == [0.5, 0]


@pytest.mark.parametrize(
    ("names", "are"),
    [
        (BIO, True), (("O", "B-X"), True), (("B-X", "I-X"), True), (("O",), False), (("NOUN", "VERB"), False),
        (("O", "PER"), False), (("LABEL_0", "LABEL_1"), False), (("O", "b-x"), False),
    ],
)  # fmt: skip
def test_which_names_are_tags_of_entities(names, are):
    assert bool(Tags(names).are_entities) == are
    assert Task(TOKENS, names=names).metric == ("entity F1" if are else BY_WORD)


def test_a_token_classifier_is_known_by_its_class():
    config = {"architectures": ["BertForTokenClassification"], "id2label": {1: "B-X", 0: "O"}, "problem_type": None}
    assert task_of(config, "here") == Task(TOKENS, names=("O", "B-X"))
    assert task_of({**config, "architectures": ["BertForSequenceClassification"]}, "here").kind == "single_label"
    assert task_of({**config, "architectures": None}, "here").kind == "single_label"


def test_a_task_counts_texts_and_takes_the_nearest_word_for_its_margin():
    task = Task(TOKENS, names=BIO[:3], within=texts_of([2, 1]))
    outputs = np.array([[3.0, 1, 0], [0, 2.5, 2], [1, 0, 0]])
    assert task.margins(outputs).tolist() == [0.5, 1]
    assert task.answers(outputs).tolist() == [0, 1, 0]
    other = outputs.copy()
    other[1] = [0, 2, 2.5]
    assert task.changed(outputs, other).tolist() == [False, False], "I behind O begins the same entity as B"
    other[1] = [9, 0, 0]
    assert task.changed(outputs, other).tolist() == [True, False]
    assert task.right(outputs, np.array([0, 1, 1])).tolist() == [True, False]
    assert task.count(3) == 2
    assert Task(TOKENS, names=BIO).count_directions(5) == 4
