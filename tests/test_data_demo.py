from random import Random

import pytest
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression

from compressor.data import demo
from compressor.data.tasks import load_task
from compressor.recipe import DataSpec


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
