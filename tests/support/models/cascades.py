"""Texts for cascades, and what one said of them."""

from tiny import letter_rows

TEXTS = [text for text, _ in letter_rows(120, seed=3)]


def said(answers):
    return [(answer.label, answer.layer) for answer in answers]
