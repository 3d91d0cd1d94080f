import re
from random import Random

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from compressor.data import demo
from compressor.data.tasks import load_task
from compressor.recipe.data import DataSpec


@pytest.fixture(scope="module")
def files():
    return demo.generate_files(seed=0)


def test_the_same_seed_gives_the_same_sentences(files):
    assert demo.generate_files(seed=0) == files
    assert demo.generate_files(seed=1)["validation"] != files["validation"]
    assert demo.generate(3, Random(5), set()) == demo.generate(3, Random(5), set())


def test_sizes_balance_and_no_sentence_twice(files):
    assert {name: len(rows) for name, rows in files.items()} == demo.SIZES
    sentences = [sentence for rows in files.values() for sentence, _ in rows]
    assert len(set(sentences)) == len(sentences)
    assert all(2 * sum(label for _, label in rows) == len(rows) for rows in files.values())


def test_sentences_read_as_such(files):
    for sentence, _ in files["validation"]:
        assert sentence[0].isupper() and sentence.endswith(".") and "{" not in sentence and "  " not in sentence


TURNING = ("nobody said", "it is not true", "i doubt", "it is wrong to say", "few agree")
KEEPING = ("nobody can deny", "it is true", "everyone agreed", "i am sure", "few deny")
NEGATED = ("was not", "was never", "was hardly", "did not seem", "was anything but")
PLAIN = ("was", "seemed", "was really", "looked", "was nothing but")
SPEAKER = "(?:my brother|the critic|the guide|a friend)"


def verdict(text):
    """Read a sentence top down, the other way round from the grammar: 1 positive, 0 negative."""
    if match := re.fullmatch(rf"{SPEAKER} said that (.+), (and i agree|but i disagree)", text):
        return verdict(match[1]) ^ (match[2] == "but i disagree")
    if match := re.fullmatch(rf"{SPEAKER} (rightly|wrongly) said that (.+)", text):
        return verdict(match[2]) ^ (match[1] == "wrongly")
    for pattern in (
        "although (?P<no>.+), (?P<yes>.+)",
        "(?P<yes>.+), (?:although|even if) (?P<no>.+)",
        "(?P<no>.+)(?:, but|; still,) (?P<yes>.+)",
    ):
        if match := re.fullmatch(pattern, text):
            assert verdict(match["no"]) != verdict(match["yes"])
            return verdict(match["yes"])
    if match := re.fullmatch(f"({'|'.join(TURNING + KEEPING)}) that (.+)", text):
        return verdict(match[2]) ^ (match[1] in TURNING)
    copula, adjective = re.fullmatch(rf"the \w+ ({'|'.join(NEGATED + PLAIN)}) (\w+)", text).groups()
    return (adjective in demo.ADJECTIVES[1]) ^ (copula in NEGATED)


def test_labels_are_what_the_sentences_say(files):
    assert verdict("nobody said that the wine was hardly good") == 1
    assert verdict("although the wine was bad, the soup was not bad") == 1
    assert verdict("a friend said that few deny that the bed was nothing but ugly, but i disagree") == 1
    for rows in files.values():
        for sentence, label in rows:
            assert verdict(sentence.removesuffix(".").lower()) == label, sentence
    assert not set(demo.ADJECTIVES[0]) & set(demo.ADJECTIVES[1])


def test_generate_skips_what_was_seen():
    first = demo.generate(20, Random(1), set())
    seen = {sentence for sentence, _ in first}
    second = demo.generate(20, Random(1), seen)
    assert not {sentence for sentence, _ in first} & {sentence for sentence, _ in second}
    assert len(seen) == 40


def test_bag_of_words_fails(files):
    texts, labels = zip(*files["train"], strict=True)
    held_out, gold = zip(*files["validation"], strict=True)
    for ngrams in ((1, 1), (1, 2)):
        bag = CountVectorizer(ngram_range=ngrams)
        model = LogisticRegression(max_iter=500).fit(bag.fit_transform(texts), labels)
        assert model.score(bag.transform(held_out), gold) < 0.62


def test_the_task_is_cut_as_any_other(files):
    spec = DataSpec(task="demo", calibration={"size": 1000}, selection={"size": 1000})
    task = load_task(spec, model_labels=None, seed=0)
    parts = (task.train, task.calibration, task.selection, task.evaluation)
    assert [len(part) for part in parts] == [demo.SIZES["train"] - 2000, 1000, 1000, demo.SIZES["validation"]]
    assert task.label_names == ("negative", "positive")
    assert set(task.removed_overlaps.values()) == {0}
    assert [text for (text,) in task.evaluation.texts] == [sentence for sentence, _ in files["validation"]]
    label_of = dict(files["train"])
    assert all(label_of[text] == label for (text,), label in zip(task.train.texts, task.train.labels, strict=True))


def test_calibration_may_come_from_the_test_rows():
    spec = DataSpec(task="demo", calibration={"split": "test", "size": 50})
    task = load_task(spec, model_labels=["NEGATIVE", "POSITIVE"], seed=0)
    assert len(task.calibration) == 50
    assert task.calibration.ids[0].startswith("test:")
    assert task.label_names == ("NEGATIVE", "POSITIVE")
