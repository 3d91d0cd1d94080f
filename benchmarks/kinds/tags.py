"""Texts tagged by rules, for want of a tagged corpus: what is learned are the rules, from words without their capitals."""

import re
from itertools import pairwise

WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
MONTHS = {
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
}
YEAR = re.compile(r"1[0-9]{3}|20[0-2][0-9]")
NUMBER = re.compile(r"[0-9]+(?:st|nd|rd|th|s)?")


def words_of(sentence: str) -> list[str]:
    """Return the words of a sentence, each sign by itself."""
    return WORD.findall(sentence)


def tags_of(words: list[str]) -> list[str]:
    """Return the BIO tags of words: dates (months with the numbers beside them, years), other numbers, names.

    A name is a run of words with a capital; the first word of a sentence has one anyway, and belongs to a name only where the
    second has one too.
    """
    kinds = [_kind(word) for word in words]
    for place, other in [*pairwise(range(len(words))), *pairwise(reversed(range(len(words))))]:
        if kinds[place] == "DATE" and kinds[other] == "NUM":
            kinds[other] = "DATE"
    if kinds and kinds[0] == "NAME" and kinds[1:2] != ["NAME"]:
        kinds[0] = ""
    before = ["", *kinds]
    return [
        "O" if not kind else f"{'I' if kind == last else 'B'}-{kind}" for kind, last in zip(kinds, before, strict=False)
    ]


def _kind(word: str) -> str:
    if YEAR.fullmatch(word) or (word.lower() in MONTHS and word[0].isupper()):
        return "DATE"
    if NUMBER.fullmatch(word):
        return "NUM"
    return "NAME" if word[0].isupper() and word != "I" else ""
