"""Slices of the rows: their features, and the one with more errors."""

import numpy as np
import pytest
from error_cases import planted_texts

from compressor.analysis.errors.slices import (
    NEGATION,
    compare_slices,
    compared_values,
    features,
    quartiles,
    share_difference_interval,
)


def test_interval_of_a_difference_of_shares_as_published():
    # Newcombe 1998, table II, method 10, rows (a) and (b)
    assert share_difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert share_difference_interval(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=1e-4)


@pytest.mark.parametrize(
    "text", ["It is not good", "it is n't good", "It isn't", "isn’t it", "NEVER again", "cannot wait"]
)
def test_negations_are_found(text):
    assert NEGATION.search(text)


@pytest.mark.parametrize("text", ["a knot", "nothingness", "notable", "the ant", "another", "went"])
def test_other_words_are_no_negations(text):
    assert not NEGATION.search(text)


def test_quartiles_share_equal_lengths():
    assert quartiles(np.array([1, 2, 3, 4, 5, 6, 7, 8])).tolist() == [
        *["1 to 2 words"] * 2, *["3 to 4 words"] * 2, *["5 to 6 words"] * 2, *["7 to 8 words"] * 2,
    ]  # fmt: skip
    assert set(quartiles(np.array([4, 4, 4, 4]))) == {"4 words"}


def test_two_values_are_one_question_and_small_slices_none():
    values = np.array(["yes"] * 30 + ["no"] * 70, dtype=object)
    assert compared_values(values) == ["yes"]
    assert compared_values(np.array(["a"] * 95 + ["b"] * 5, dtype=object)) == []
    assert compared_values(np.array(["10"] * 30 + ["9"] * 30 + ["z"] * 10 + ["11"] * 30, dtype=object)) == [
        "9",
        "10",
        "11",
    ]


def test_the_slice_with_more_errors_is_found_and_no_other():
    generator, texts = np.random.default_rng(5), planted_texts()
    gold = generator.integers(3, size=len(texts))
    column = generator.choice(["web", "mail", "phone"], size=len(texts))
    wrong = generator.random(len(texts)) < np.where(column == "mail", 0.45, 0.1)
    found = compare_slices({"full errors": wrong}, features(texts, gold, ("a", "b", "c"), column, "channel"))
    assert {row.feature for row in found} == {"text length", "gold label", "negation word", "channel"}
    assert [row.value for row in found if row.feature == "gold label"] == ["a", "b", "c"]
    assert [row.value for row in found if row.feature == "negation word"] == ["yes"]
    mail = next(row for row in found if row.value == "mail")
    assert mail.p_holm < 1e-6
    assert mail.difference == pytest.approx(mail.share - mail.rest_share)
    assert mail.difference_ci95[0] > 0.2
    assert (mail.rows + mail.rest_rows, mail.count + mail.rest_count) == (len(texts), wrong.sum())
    # the other channels differ from a rest that holds `mail`; whatever has nothing to do with it does not
    assert all(row.p_holm > 0.05 for row in found if row.feature != "channel")
