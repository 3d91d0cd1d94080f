"""What a caller may give as texts, and the sentence for what is none."""

from collections.abc import Iterable, Mapping, Sequence

from compressor.errors import UserError

Text = str | tuple[str, str]


def rows_of(texts: Text | Iterable[Text], columns: int | None, where: str) -> list[Text]:
    """Return the rows of what a caller gave: strings, or tuples of two for a model of pairs.

    `columns` is what the model was made for: 1 text, 2, or None where nobody said so and a row may be either. One text may
    stand alone, and where pairs are wanted one tuple of two. Raises UserError, beginning with `where`, for anything else.
    """
    wanted = {1: "single texts", 2: "pairs of texts", None: "texts or pairs of texts"}[columns]
    if isinstance(texts, str) or (columns == 2 and _is_pair(texts) and isinstance(texts, tuple)):
        rows = [texts]
    elif isinstance(texts, Iterable) and not isinstance(texts, bytes | Mapping):
        rows = list(texts)
    else:
        raise UserError(f"{where}: classifies {wanted}, not {_short(texts)}; give a string or a list of them.")
    for row in rows:
        if not (isinstance(row, str) if columns == 1 else _is_pair(row) if columns == 2 else _is_either(row)):
            raise UserError(f"{where}: classifies {wanted}, not {_short(row)}.")
    rows = [row if isinstance(row, str) else tuple(row) for row in rows]
    for place, row in enumerate(rows):
        try:
            "".join(row).encode()
        except UnicodeEncodeError:
            raise UserError(
                f"{where}: text {place + 1} holds half a surrogate pair ({_short(row)}), which is no character; decode its "
                "bytes with errors='replace'."
            ) from None
    return rows


def words_of(texts: str | Iterable[str | Sequence[str]], where: str) -> list[list[str]]:
    """Return the words of each text: lists of words as they are, and strings cut at white space.

    A string alone is one text; a list of strings is several. Raises UserError, beginning with `where`, for anything else.
    """
    told = "labels the words of texts"
    if not isinstance(texts, Iterable) or isinstance(texts, bytes | Mapping):
        raise UserError(
            f"{where}: {told}, not of {_short(texts)}; give a string, or a list of texts or of lists of words."
        )
    rows = []
    for place, text in enumerate([texts] if isinstance(texts, str) else texts):
        words = text.split() if isinstance(text, str) else list(text) if isinstance(text, list | tuple) else [None]
        if not all(isinstance(word, str) for word in words):
            raise UserError(f"{where}: {told}; text {place + 1} is {_short(text)}, no string and no list of words.")
        rows.append(words)
    rows_of([word for words in rows for word in words], 1, where)  # each word is a text that can be encoded
    return rows


def _is_pair(row: object) -> bool:
    return (
        isinstance(row, Sequence)
        and not isinstance(row, str)
        and len(row) == 2
        and all(isinstance(t, str) for t in row)
    )


def _is_either(row: object) -> bool:
    return isinstance(row, str) or _is_pair(row)


def _short(value: object) -> str:
    """Return a value as Python writes it, its middle left out where it is long."""
    text = repr(value[:100] if isinstance(value, str | bytes) else value)
    return text if len(text) <= 80 else f"{text[:60]}...{text[-10:]}"
