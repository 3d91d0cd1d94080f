"""Parts of a data set: cut by row hash, kept disjoint in text, identified by a digest."""

import unicodedata
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np

from compressor.data.answers.tokens import texts_of


@dataclass(frozen=True)
class Split:
    """N rows of one or two texts. `labels` is None where the rows are unlabelled.

    Classes are int64 [N], scores float64 [N], and many labels int64 [N, C] of 0 and 1.
    """

    texts: list[tuple[str, ...]]
    labels: np.ndarray | None
    ids: list[str]
    """Where each row comes from: file and 0-based row, such as `validation:17`."""
    groups: list[str] | None = None
    """What each row is one of, where rows belong together: the query of a document."""
    by_word: bool = False
    """Whether a row is a text of so many words with a label each: `labels` are then those of all words, int64 [W]."""

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def counted(self) -> int:
        """How many answers the rows have: one each, or one for what they are counted within."""
        return len(self) if self.groups is None else int(self.within.max(initial=-1)) + 1

    @cached_property
    def within(self) -> np.ndarray | None:
        """The number of each row's group in order of appearance, int64 [N]; None where rows are of their own.

        Of texts of words the row of each word, int64 [W].
        """
        if self.by_word:
            return texts_of([len(words) for words in self.texts])
        if self.groups is None:
            return None
        place = {group: number for number, group in enumerate(dict.fromkeys(self.groups))}
        return np.array([place[group] for group in self.groups], dtype=np.int64)

    def label(self, row: int) -> np.ndarray:
        """Return the label of a row, or those of its words."""
        return self.labels[self._starts[row] : self._starts[row + 1]] if self.by_word else self.labels[row]

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.cumsum([0, *(len(words) for words in self.texts)])

    @cached_property
    def sha256(self) -> str:
        """Hex digest over texts and labels in order; equal for equal content wherever the rows come from."""
        digest = sha256(b"labelled" if self.labels is not None else b"unlabelled")
        order = None if self.labels is None else np.result_type(self.labels, np.int64).newbyteorder(">")
        for row, texts in enumerate(self.texts):
            digest.update(_framed(texts))
            if self.labels is not None:
                digest.update(np.asarray(self.label(row), dtype=order).tobytes())
        if self.groups is not None:
            digest.update(_framed(tuple(self.groups)))
        return digest.hexdigest()

    def take(self, rows: np.ndarray | list[int]) -> "Split":
        """Return `rows` only, in that order."""
        if self.by_word:
            return self.take_words({row: range(len(self.texts[row])) for row in rows})
        labels = None if self.labels is None else self.labels[np.asarray(rows, dtype=np.int64)]
        groups = None if self.groups is None else [self.groups[row] for row in rows]
        return Split([self.texts[row] for row in rows], labels, [self.ids[row] for row in rows], groups)

    def take_words(self, words: Mapping[int, Sequence[int]]) -> "Split":
        """Return the rows that `words` names, in its order, each with these of its words; for texts of words alone."""
        labels = None
        if self.labels is not None:
            places = [self._starts[row] + word for row, kept in words.items() for word in kept]
            labels = self.labels[np.array(places, dtype=np.int64)]
        texts = [tuple(self.texts[row][word] for word in kept) for row, kept in words.items()]
        return Split(texts, labels, [self.ids[row] for row in words], by_word=True)


def normalised(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts in Unicode form NFC with every run of white space as one space: rows equal after this are copies."""
    return tuple(" ".join(unicodedata.normalize("NFC", text).split()) for text in texts)


Same = Callable[[tuple[str, ...]], Hashable]
"""Texts of a row -> key; rows with equal keys are copies of one text. `normalised`, or what a tokenizer makes of them."""


def row_hash(texts: tuple[str, ...], seed: int) -> str:
    """Return a hex digest of `seed` and the normalised texts: the same in every process and for every file order."""
    return sha256(f"{seed}:".encode() + _framed(normalised(texts))).hexdigest()


def hash_order(split: Split, seed: int) -> list[int]:
    """Return the rows of `split` in the order of their hashes; equal texts lie together, ordered by label."""
    keys = [row_hash(texts, seed) for texts in split.texts]
    labels = [0 if split.labels is None else split.label(row).tolist() for row in range(len(split))]
    return sorted(range(len(split)), key=lambda row: (keys[row], split.texts[row], labels[row]))


def cut_train(
    rows: Split, selection: int, calibration: int | None, seed: int, same: Same = normalised
) -> tuple[Split, Split, Split]:
    """Cut `rows` into (train, calibration, selection), all in hash order and so independent of the order of `rows`.

    Selection takes at most half of the texts, calibration at most half of what is then left; None asks for that half. Both
    hold the first row in hash order of every text they take, whose other copies go; train keeps all rows of the others. Rows
    of a group stay together: as many groups are taken as have about so many rows.
    """
    rows = rows.take(hash_order(rows, seed))
    texts = _copies(rows, same)
    chosen = min(_share(selection, rows, texts), len(texts) // 2)
    half = (len(texts) - chosen) // 2
    end = chosen + (half if calibration is None else min(_share(calibration, rows, texts), half))
    taken = {row for copies in texts[:end] for row in copies}
    left = [row for row in range(len(rows)) if row not in taken]
    return rows.take(left), *(rows.take(_once(rows, part, same)) for part in (texts[chosen:end], texts[:chosen]))


def first_texts(rows: Split, size: int | None, seed: int, same: Same = normalised) -> Split:
    """Return the first `size` texts in hash order, each once; whole groups of about so many rows where there are groups."""
    rows = rows.take(hash_order(rows, seed))
    texts = _copies(rows, same)
    return rows.take(_once(rows, texts if size is None else texts[: _share(size, rows, texts)], same))


def without_overlaps(parts: Mapping[str, Split], same: Same = normalised) -> tuple[dict[str, Split], dict[str, int]]:
    """Remove from each part the rows of which a copy, or another row of their group, stands in a later part.

    Returns the parts and the counts. Copies inside a part stay. The last part is never changed, and its count (0) is not
    reported.
    """
    kept, later = {}, set()
    for name, part in reversed(parts.items()):
        keys = _keys(part, same)
        rows = [row for row, key in enumerate(keys) if key not in later]
        kept[name] = part if len(rows) == len(part) else part.take(rows)
        later.update(keys)
    removed = {name: len(parts[name]) - len(kept[name]) for name in list(parts)[:-1]}
    return {name: kept[name] for name in parts}, removed


def first_rows(rows: Split, same: Same = normalised) -> list[int]:
    """Return the first row of every text, in order."""
    place: dict[Hashable, int] = {}
    for row, texts in enumerate(rows.texts):
        place.setdefault(same(texts), row)
    return list(place.values())


def _keys(rows: Split, same: Same) -> list[Hashable]:
    """Return what says of each row where it belongs: its text, or its group."""
    return [same(texts) for texts in (rows.texts if rows.groups is None else [(group,) for group in rows.groups])]


def _copies(rows: Split, same: Same) -> list[list[int]]:
    """Return the rows of every text (group), in order."""
    found: dict[Hashable, list[int]] = {}
    for row, key in enumerate(_keys(rows, same)):
        found.setdefault(key, []).append(row)
    return list(found.values())


def _once(rows: Split, texts: list[list[int]], same: Same) -> list[int]:
    """Return the first row of every text; of a group its different texts, if there are two at least."""
    if rows.groups is None:
        return [copies[0] for copies in texts]
    groups = ([members[row] for row in first_rows(rows.take(members), same)] for members in texts)
    return [row for group in groups if len(group) > 1 for row in group]


def _share(size: int, rows: Split, texts: list[list[int]]) -> int:
    """Return how many texts have `size` rows between them, of groups on average."""
    return size if rows.groups is None else size * len(texts) // max(len(rows), 1)


def copies_of(part: Split, rows: Split, same: Same = normalised) -> int:
    """Return how many of `rows` are copies of what `part` holds once."""
    keys = set(map(same, part.texts))
    return sum(same(texts) in keys for texts in rows.texts) - len(part)


def _framed(texts: tuple[str, ...]) -> bytes:
    # Lengths in front, so that no shift of a boundary between fields or rows gives the same bytes.
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([len(encoded).to_bytes(4, "big"), *(len(item).to_bytes(8, "big") + item for item in encoded)])
