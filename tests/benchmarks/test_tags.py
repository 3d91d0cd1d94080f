"""The rules that tag texts for the benchmark of tags."""

from benchmarks.kinds.tags import tags_of, words_of


def test_names_dates_and_numbers_by_hand():
    words = words_of("The war of 8 May 1998 cost New York's Joe 20 dollars, I think.")
    assert words == [
        "The",
        "war",
        "of",
        "8",
        "May",
        "1998",
        "cost",
        "New",
        "York's",
        "Joe",
        "20",
        "dollars",
        ",",
        "I",
        "think",
        ".",
    ]
    tags = [
        "O",
        "O",
        "O",
        "B-DATE",
        "I-DATE",
        "I-DATE",
        "O",
        "B-NAME",
        "I-NAME",
        "I-NAME",
        "B-NUM",
        "O",
        "O",
        "O",
        "O",
        "O",
    ]
    assert tags_of(words) == tags
    assert tags_of(["New", "York", "may", "be"]) == ["B-NAME", "I-NAME", "O", "O"]
    assert tags_of(["Rain"]) == ["O"]
    assert tags_of([]) == []
