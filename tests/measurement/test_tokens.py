"""Entity F1 and token accuracy of texts: by hand, as seqeval has them, and differences with their uncertainty."""

import numpy as np
import pytest
from scipy.stats import norm
from seqeval.metrics import f1_score, precision_score, recall_score

from compressor.data.answers.kinds import TOKENS, Task
from compressor.data.answers.tokens import texts_of
from compressor.measurement.predictions import flipped_examples
from compressor.measurement.statistics import compare, metrics, rate_upper_bound
from compressor.measurement.tokens import token_delta

NAMES = ("O", "B-A", "I-A", "B-B")
OUT, BA, IA, BB = range(4)
LENGTHS = [4, 3, 2]
GOLD = np.array([BA, IA, OUT, BB, OUT, OUT, BA, OUT, OUT])
FULL = np.array([BA, IA, OUT, BB, OUT, BB, BA, OUT, OUT])
OTHER = np.array([BA, OUT, OUT, BB, OUT, BB, BA, OUT, OUT])


def bound(names=NAMES, lengths=LENGTHS):
    return Task(TOKENS, names=names, within=texts_of(lengths))


def logits(answers, classes=4):
    return 4 * np.eye(classes, dtype=np.float32)[answers]


def test_metrics_by_hand():
    found = metrics(logits(FULL), GOLD, bound())
    assert found.accuracy == pytest.approx(2 * 3 / (4 + 3))  # three entities right, four answered, three there
    assert found.more["precision"] == pytest.approx(3 / 4)
    assert found.more["recall"] == 1
    assert found.more["token_accuracy"] == pytest.approx(8 / 9)
    assert found.more["whole_texts"] == pytest.approx(2 / 3)
    assert found.accuracy_ci95[0] < found.accuracy < found.accuracy_ci95[1] == 1
    plain = metrics(logits(FULL), GOLD, bound(("out", "a", "b", "c")))
    assert (plain.accuracy, set(plain.more)) == (pytest.approx(8 / 9), {"token_accuracy", "whole_texts"})


def test_a_comparison_counts_texts_and_measures_entities():
    found = compare(logits(FULL), logits(OTHER), GOLD, task=bound())
    assert (found.rows, found.flips, found.gained, found.lost) == (3, 1, 0, 1)
    assert (found.metric, found.counted) == ("entity F1", "texts")
    assert found.accuracy_delta == pytest.approx(2 * 2 / (4 + 3) - 2 * 3 / (4 + 3))  # A of one word is another entity
    assert found.lower_bound < found.accuracy_delta
    assert compare(logits(FULL), logits(OTHER), GOLD, task=bound(("out", "a", "b", "c"))).metric == "token accuracy"
    unlabelled = compare(logits(FULL), logits(OTHER), None, task=bound())
    assert unlabelled.lower_bound == pytest.approx(-rate_upper_bound(1, 3))


@pytest.mark.parametrize("seed", range(4))
def test_figures_are_those_of_seqeval(seed):
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 9, size=60)
    gold = generator.integers(4, size=lengths.sum())
    own = np.where(generator.random(len(gold)) < 0.6, gold, generator.integers(4, size=len(gold)))
    cut = [[[NAMES[tag] for tag in part] for part in np.split(tags, np.cumsum(lengths)[:-1])] for tags in (gold, own)]
    found = metrics(logits(own), gold, bound(lengths=lengths))
    assert found.accuracy == pytest.approx(f1_score(*cut))
    assert (found.more["precision"], found.more["recall"]) == pytest.approx((precision_score(*cut), recall_score(*cut)))


def test_the_error_is_that_of_drawing_texts_again():
    """Of many texts, each with one entity of one word, F1 is a share, and its paired error has a formula."""
    generator = np.random.default_rng(0)
    gold = np.full(2000, BA)
    full = np.where(generator.random(2000) < 0.9, BA, BB)
    other = np.where(generator.random(2000) < 0.05, BB, full)
    task = bound(lengths=[1] * 2000)
    delta, error = token_delta(task, full, other, gold)
    differences = (other == gold).astype(float) - (full == gold)
    assert delta == pytest.approx(differences.mean())
    assert error == pytest.approx(differences.std() / 2000**0.5, rel=0.1)


def test_words_of_a_text_are_drawn_together():
    """Ten words that are wrong together say less than ten that are wrong in texts of their own."""
    gold, full = np.full(400, BA), np.full(400, BA)
    other = np.where(np.arange(400) % 100 < 10, BB, BA)
    together = token_delta(bound(lengths=[10] * 40), full, other, gold)
    apart = token_delta(bound(lengths=[1] * 400), full, other, gold)
    assert together[0] == pytest.approx(apart[0]) == pytest.approx(-0.1)
    assert together[1] > 2 * apart[1]


@pytest.mark.parametrize("confidence", [0.95, 0.999])
def test_where_nothing_changed_the_bound_has_a_width(confidence):
    found = compare(logits(FULL), logits(FULL) * 1.1, GOLD, task=bound(), confidence=confidence)
    assert (found.flips, found.accuracy_delta) == (0, 0)
    assert found.lower_bound <= -rate_upper_bound(0, 3, confidence) < 0
    assert found.ci95[0] <= -rate_upper_bound(0, 3, 0.975)
    assert found.ci95[1] == -found.ci95[0]


def test_few_changed_texts_have_no_narrower_bound_than_their_counts_allow():
    gold = np.full(500, BA)
    other = np.where(np.arange(500) == 7, BB, BA)
    found = compare(logits(gold), logits(other), gold, task=bound(lengths=[1] * 500))
    assert found.lower_bound <= -1 / 500 - norm.ppf(0.95) * 2**0.5 / 500 * 0.9


def test_changed_texts_are_shown_with_their_entities():
    texts = [("Ann", "Lee", "saw", "Bo"), ("a", "b", "Ann"), ("c", "d")]
    (example,) = flipped_examples(
        logits(FULL), logits(OTHER), GOLD, texts, ["v:0", "v:1", "v:2"], list(NAMES), task=bound()
    )
    assert example == {
        "id": "v:0", "texts": ["Ann Lee saw Bo"], "gold": "A: Ann Lee", "outcome": "lost",
        "full": {"label": "A: Ann Lee", "confidence": None},
        "compressed": {"label": "A: Ann", "confidence": None},
    }  # fmt: skip
    names = ("out", "a", "b", "c")
    (plain,) = flipped_examples(
        logits(FULL), logits(OTHER), None, texts, ["v:0", "v:1", "v:2"], list(names), task=bound(names)
    )
    assert (plain["full"]["label"], plain["compressed"]["label"]) == ("Lee: b", "Lee: out")
    assert (plain["gold"], plain["outcome"]) == (None, "unlabelled")
