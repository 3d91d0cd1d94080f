"""The data of every kind, out of the parquet files of GLUE: scores, sets of labels, documents of questions, tagged words."""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pandas as pd

from benchmarks.kinds.tags import tags_of, words_of
from compressor.data.files import read_table

NEGATIONS = {"not", "no", "never", "n't", "without", "nothing", "none", "neither", "nor"}
RULES: dict[str, Callable[[list[str]], bool]] = {
    "short": lambda words: len(words) <= 6,
    "negated": lambda words: not NEGATIONS.isdisjoint(words),
    "of a film": lambda words: not {"film", "movie", "movies", "films", "cinema", "picture"}.isdisjoint(words),
}
"""Label -> whether a sentence, in words, has it; `positive` is SST-2's own."""
DOCUMENTS = 8
"""Sentences that are ranked for a question."""


def score_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the data of a recipe that reads MRPC's classes as a score."""
    return {"task": "mrpc", "source": str(arguments.data), "kind": "score"}


def label_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write SST-2's sentences with their labels; return the data of a recipe that reads them."""
    names, files = ["positive", *RULES], {}
    folder = arguments.out / "labels"
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", arguments.rows), ("validation", None)):
        table = read_table(arguments.data / "sst2" / f"{part}.parquet", "--data")
        texts, gold = (table.column(name)[:rows] for name in ("sentence", "label"))
        labels = [
            [bool(label), *(rule(text.split()) for rule in RULES.values())]
            for text, label in zip(texts, gold, strict=True)
        ]
        frame = pd.DataFrame({"sentence": texts, **dict(zip(names, zip(*labels, strict=True), strict=True))})
        files[part] = str(folder / f"{part}.parquet")
        frame.to_parquet(files[part], index=False)
    return {**files, "text": "sentence", "label": names, "kind": "many_labels"}


def ranking_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write QNLI's questions, each with the sentence that answers it and others; return the data of a recipe that reads them.

    Questions without an answer in the file are left out.
    """
    files, folder = {}, arguments.out / "ranking"
    folder.mkdir(parents=True, exist_ok=True)
    for part in ("train", "validation"):
        table = read_table(arguments.data / "qnli" / f"{part}.parquet", "--data")
        rows = list(ranked_rows(*(table.column(name) for name in ("question", "sentence", "label"))))
        rows = rows[: arguments.rows] if part == "train" else rows
        files[part] = str(folder / f"{part}.parquet")
        pd.DataFrame(rows, columns=["question", "sentence", "relevance"]).to_parquet(files[part], index=False)
    return {**files, "text": ["question", "sentence"], "label": "relevance", "kind": "ranking"}


def ranked_rows(
    questions: Sequence[str], sentences: Sequence[str], labels: Sequence[int]
) -> Iterator[tuple[str, str, int]]:
    """Yield question, sentence and relevance, `DOCUMENTS` rows a question: what a search by words might hand to a reranker.

    Relevant is the sentence that entails the answer (label 0). The others are the question's own other sentences, then those
    of the file that share the most words with it, a word counting by how few sentences have it.
    """
    known = list(dict.fromkeys(sentences))
    words = [set(sentence.lower().split()) for sentence in known]
    frequency = Counter(word for own in words for word in own)
    own: dict[str, dict[str, int]] = {}
    for question, sentence, label in zip(questions, sentences, labels, strict=True):
        own.setdefault(question, {})[sentence] = int(label == 0)
    for question, judged in own.items():
        if not any(judged.values()):
            continue
        asked = set(question.lower().split())
        shared = [sum(1 / frequency[word] for word in asked & found) for found in words]
        order = sorted(range(len(known)), key=lambda place: -shared[place])
        others = (known[place] for place in order if known[place] not in judged)
        documents = [*judged.items(), *((sentence, 0) for sentence, _ in zip(others, range(DOCUMENTS), strict=False))]
        # by their text, so that the place of a row says nothing
        yield from ((question, sentence, relevance) for sentence, relevance in sorted(documents[:DOCUMENTS]))


def token_data(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write QNLI's sentences as words that rules tag (`tags_of`); return the data of a recipe that reads them.

    Sentences of the unlabelled file are for training too: no label of QNLI's is used. Those of the evaluation are in no other.
    Some have words of a single invisible character, which become no token: they are left out.
    """
    folder, files, seen = arguments.out / "tokens", {}, set()
    folder.mkdir(parents=True, exist_ok=True)
    for part, sources in (("validation", ["validation"]), ("train", ["train", "test"])):
        tables = [read_table(arguments.data / "qnli" / f"{source}.parquet", "--data") for source in sources]
        sentences = dict.fromkeys(text for table in tables for text in table.column("sentence"))
        sentences = [text for text in sentences if text not in seen][: arguments.rows if part == "train" else None]
        seen.update(sentences)
        words = [words_of(sentence) for sentence in sentences]
        frame = pd.DataFrame({"tokens": words, "tags": [tags_of(own) for own in words]})
        files[part] = str(folder / f"{part}.parquet")
        frame[frame["tokens"].map(len) > 0].to_parquet(files[part], index=False)
    return {**files, "text": "tokens", "label": "tags", "kind": "tokens", "on_bad_row": "skip"}


DATA = {"score": score_data, "many_labels": label_data, "ranking": ranking_data, "tokens": token_data}
"""Kind -> what writes its files and returns the data of a recipe."""
