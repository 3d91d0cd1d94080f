"""Parts of a data set: cut by row hash, kept disjoint in text, identified by a digest."""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np


@dataclass(frozen=True)
class Split:
    """N rows of one or two texts. `labels` is int64 [N], or None where the rows are unlabelled."""

    texts: list[tuple[str, ...]]
    labels: np.ndarray | None
    ids: list[str]
    """Where each row comes from: file and 0-based row, such as `validation:17`."""

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def sha256(self) -> str:
        """Hex digest over texts and labels in order; equal for equal content wherever the rows come from."""
        digest = sha256(b"labelled" if self.labels is not None else b"unlabelled")
        for row, texts in enumerate(self.texts):
            digest.update(_framed(texts))
            if self.labels is not None:
                digest.update(int(self.labels[row]).to_bytes(8, "big", signed=True))
        return digest.hexdigest()

    def take(self, rows: np.ndarray | list[int]) -> "Split":
        """Return `rows` only, in that order."""
        labels = None if self.labels is None else self.labels[np.asarray(rows, dtype=np.int64)]
        return Split([self.texts[row] for row in rows], labels, [self.ids[row] for row in rows])


def normalised(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts with every run of white space as one space: rows equal after this count as the same text."""
    return tuple(" ".join(text.split()) for text in texts)


def row_hash(texts: tuple[str, ...], seed: int) -> str:
    """Return a hex digest of `seed` and the normalised texts: the same in every process and for every file order."""
    return sha256(f"{seed}:".encode() + _framed(normalised(texts))).hexdigest()


def hash_order(split: Split, seed: int) -> list[int]:
    """Return the rows of `split` in the order of their hashes; equal texts lie together, ordered by label."""
    keys = [row_hash(texts, seed) for texts in split.texts]
    labels = [0] * len(split) if split.labels is None else split.labels.tolist()
    return sorted(range(len(split)), key=lambda row: (keys[row], split.texts[row], labels[row]))


def cut_train(rows: Split, selection: int, calibration: int | None, seed: int) -> tuple[Split, Split, Split]:
    """Cut `rows` into (train, calibration, selection), all in hash order and so independent of the order of `rows`.

    Selection takes at most half of the rows, calibration at most half of what is then left; None asks for that half.
    """
    order = hash_order(rows, seed)
    chosen = min(selection, len(order) // 2)
    half = (len(order) - chosen) // 2
    end = chosen + (half if calibration is None else min(calibration, half))
    return rows.take(order[end:]), rows.take(order[chosen:end]), rows.take(order[:chosen])


def without_overlaps(parts: dict[str, Split]) -> tuple[dict[str, Split], dict[str, int]]:
    """Remove from each part the rows whose normalised texts also stand in a later part; return parts and counts.

    Repetitions inside a part stay. The last part is never changed, and its count (0) is not reported.
    """
    kept, later = {}, set()
    for name, part in reversed(parts.items()):
        keys = [normalised(texts) for texts in part.texts]
        rows = [row for row, key in enumerate(keys) if key not in later]
        kept[name] = part if len(rows) == len(part) else part.take(rows)
        later.update(keys)
    removed = {name: len(parts[name]) - len(kept[name]) for name in list(parts)[:-1]}
    return {name: kept[name] for name in parts}, removed


def first_of_each(rows: Split) -> Split:
    """Return the first row of every normalised text."""
    place: dict[tuple[str, ...], int] = {}
    for row, texts in enumerate(rows.texts):
        place.setdefault(normalised(texts), row)
    return rows if len(place) == len(rows) else rows.take(list(place.values()))


def _framed(texts: tuple[str, ...]) -> bytes:
    # Lengths in front, so that no shift of a boundary between fields or rows gives the same bytes.
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    return b"".join([len(encoded).to_bytes(4, "big"), *(len(item).to_bytes(8, "big") + item for item in encoded)])
