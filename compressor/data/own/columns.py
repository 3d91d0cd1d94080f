"""What the columns of a table are: the texts, the label, what its values mean. Functions of columns; nothing is read.

Names decide first, values where names do not. Whatever is chosen comes with its reason, and what cannot be told is refused
with a sentence: no label is guessed from values that are not the model's classes.
"""

# ruff: noqa: SIM905 - a list of words reads better as text
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from compressor.data.files import Table
from compressor.data.labels import is_missing, listed
from compressor.data.own.label_column import check_mapping, find_label, is_number, plain, words
from compressor.errors import UserError

PAIRS = (
    ("premise", "hypothesis"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("text1", "text2"),
    ("texta", "textb"),
    ("sentencea", "sentenceb"),
    ("text", "textpair"),
    ("claim", "evidence"),
    ("query", "passage"),
    ("query", "document"),
    ("question", "context"),
    ("question", "passage"),
    ("question", "answer"),
)
"""Columns that are a pair of texts by their names, in the order in which the model reads them."""
TEXTS = (
    "text sentence review content comment tweet message body document reviewtext reviewbody description utterance post "
    "query question headline abstract title"
).split()
"""Names of a column of texts, the surest first."""
LOOKED_AT = 2000
"""Rows from which the kind of a column is judged."""


@dataclass(frozen=True)
class Found:
    """What the columns of a table are, and why that is thought."""

    text: tuple[str, ...]
    """The one or two text columns."""
    label: str | None
    """The label column; None where no row has a label."""
    values: dict[str, int] = field(default_factory=dict)
    """The class (place among the model's) of each value of the label column, as it is written there."""
    why_text: str = ""
    why_label: str = ""


def find_columns(
    table: Table,
    classes: Sequence[str],
    *,
    text: Sequence[str] = (),
    label: str | None = None,
    mapping: Mapping[str, str] | None = None,
) -> Found:
    """Return the text and label columns of a table for a model with `classes` (names in id order).

    `text` and `label` name columns instead of letting them be found (`none`: no labels), `mapping` says what values of the
    label column mean. Raises UserError where there is no text, a column is missing, or the labels are not the classes.
    """
    if mapping:
        check_mapping(mapping, classes)
    columns, why_text = find_text(table, text)
    name, values, why_label = find_label(table, columns, classes, label, mapping)
    return Found(columns, name, values, why_text, why_label)


def find_text(table: Table, wanted: Sequence[str] = ()) -> tuple[tuple[str, ...], str]:
    """Return the one or two text columns, and why; raises UserError where no column holds text."""
    if wanted:
        if len(set(wanted)) != len(wanted) or len(wanted) > 2:
            raise UserError(f"--text: name one column, or two different ones for pairs, not {', '.join(wanted)}.")
        for name in wanted:
            table.column(name)
        return tuple(wanted), "as asked"
    texts = {name: average for name, values in table.columns.items() if (average := text_length(values))}
    if not texts:
        names = ", ".join(map(str, [*table.columns, *table.index]))
        raise UserError(f"{table.source}: no column holds text; the columns are {names}; name one with --text.")
    named = {plain(name): name for name in reversed(texts)}
    for pair in PAIRS:
        if all(name in named for name in pair):
            return tuple(
                named[name] for name in pair
            ), "a pair by their names, which the model itself cannot tell; --text COL for a single text"
    longest = max(texts, key=texts.__getitem__)
    found = _by_name(named, texts)
    chosen = longest if found is None else found
    why = f"the longest text, {texts[longest]:.0f} characters on average" if found is None else "by its name"
    others = [name for name in texts if name != chosen and _varied(table.columns[name])]
    also = f"; {listed(others)} may be text as well: --text COL for another, --text COL --text COL2 for a pair"
    return (chosen,), why + (also if others else "")


def _varied(values: Sequence) -> bool:
    """Tell whether a column of texts holds more than the names of some classes."""
    texts = [value for value in values[:LOOKED_AT] if isinstance(value, str)]
    return len({*texts}) > max(10, 0.2 * len(texts))


def _by_name(named: Mapping[str, str], texts: Mapping[str, float]) -> str | None:
    """Return the column that has the surest name of a text: the whole name, or else a word of it."""
    whole = next((named[name] for name in TEXTS if name in named), None)
    held = ([column for column in texts if name in words(column)] for name in TEXTS)
    return whole or next((max(columns, key=texts.__getitem__) for columns in held if columns), None)


def text_length(values: Sequence) -> float:
    """Return the average length (characters) of a column of texts, 0 for a column of something else or of nothing."""
    given = [value for value in values[:LOOKED_AT] if not is_missing(value) and value != ""]
    texts = [value for value in given if isinstance(value, str) and not is_number(value)]
    if not texts or len(texts) < 0.9 * len(given):
        return 0.0
    return sum(map(len, texts)) / len(texts)
