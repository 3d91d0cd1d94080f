"""Entities in sequences of tags: which there are, which two sequences share, and how many of each text. Functions of arrays.

Tags are read as seqeval reads them without a scheme (its default mode, after conlleval): a type that changes begins an entity
whatever the prefix says. L and U of BILOU are E and S.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

OUTSIDE = "O"
TAG = re.compile(r"([BIESLU])-(.+)")
"""What a tag of an entity looks like: its place in the entity, and the type of that."""
SAME_PLACE = {"L": "E", "U": "S"}
BEGIN, INSIDE, END, SINGLE_WORD, NOTHING = range(5)
PLACES = dict(zip("BIES", range(4), strict=True))


@dataclass(frozen=True)
class Tags:
    """What the tags of a model mean, in id order: their place in an entity and the number of its type."""

    names: tuple[str, ...]

    @cached_property
    def are_entities(self) -> bool:
        """Whether all names are tags such as B-PER and I-PER or O, and some of them not O."""
        return all(name == OUTSIDE or TAG.fullmatch(name) for name in self.names) and {*self.names} != {OUTSIDE}

    @cached_property
    def types(self) -> tuple[str, ...]:
        """The types of entities, in the order of their names."""
        return tuple(sorted({TAG.fullmatch(name)[2] for name in self.names if name != OUTSIDE}))

    @cached_property
    def _table(self) -> np.ndarray:
        """Place and type (from 1, 0 for none) of each tag: int64 [2, C]."""
        split = [TAG.fullmatch(name) for name in self.names]
        places = [NOTHING if tag is None else PLACES[SAME_PLACE.get(tag[1], tag[1])] for tag in split]
        return np.array([places, [0 if tag is None else 1 + self.types.index(tag[2]) for tag in split]])

    def spans(self, tags: np.ndarray, within: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the type (from 1; 0 where none begins) of the entity that begins at each word, and its last word, both [W].

        `tags` are int64 [W], `within` [W] the text of each word, whose words lie together. Rules of seqeval 1.2.2,
        `start_of_chunk` and `end_of_chunk`; a text begins and ends outside.
        """
        place, kind = self._table[:, tags]
        first = np.ones(len(tags), dtype=bool)
        first[1:] = within[1:] != within[:-1]
        before_place, before_kind = np.roll(place, 1), np.roll(kind, 1)
        before_place[first], before_kind[first] = NOTHING, 0
        other = kind != before_kind
        begins = (place == BEGIN) | (place == SINGLE_WORD)
        begins |= np.isin(before_place, (END, SINGLE_WORD, NOTHING)) & np.isin(place, (END, INSIDE))
        begins = (begins | other) & (place != NOTHING)
        # an entity ends in front of what begins the next one, of what is outside, and behind E and S
        ends = np.isin(before_place, (END, SINGLE_WORD)) | other | np.isin(place, (BEGIN, SINGLE_WORD, NOTHING))
        stops = np.flatnonzero(np.append(ends, True))
        starts = np.flatnonzero(begins)
        last = np.zeros(len(tags), dtype=np.int64)
        last[starts] = stops[np.searchsorted(stops, starts, side="right")] - 1
        return np.where(begins, kind, 0), last

    def shared(self, one: np.ndarray, other: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Return bool [W]: the words at which both sequences of tags have the same entity begin."""
        (kind, last), (other_kind, other_last) = (self.spans(tags, within) for tags in (one, other))
        return (kind > 0) & (kind == other_kind) & (last == other_last)

    def entities(self, tags: np.ndarray) -> list[tuple[str, int, int]]:
        """Return (type, first word, last word) of each entity of one text, from 0."""
        kind, last = self.spans(tags, np.zeros(len(tags), dtype=np.int64))
        return [(self.types[kind[word] - 1], int(word), int(last[word])) for word in np.flatnonzero(kind)]


def counts(tags: Tags, answers: np.ndarray, labels: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return for each text, in the order of the words, what its figure is a ratio of: int64 [N, 2], parts over wholes.

    Tags of entities: twice the entities that are right, over those answered and those there are, so that the ratio of sums is
    micro F1. Other labels: the words that are right, over all.
    """
    if tags.are_entities:
        right = 2 * tags.shared(answers, labels, within)
        whole = sum((tags.spans(part, within)[0] > 0).astype(np.int64) for part in (answers, labels))
    else:
        right, whole = answers == labels, np.ones(len(labels), dtype=np.int64)
    firsts = first_words(within)
    return np.stack([np.add.reduceat(part.astype(np.int64), firsts) for part in (right, whole)], axis=1)


def ratio(sums: np.ndarray) -> np.ndarray:
    """Return parts over wholes [..., 2]; 0 where there is no whole, as in seqeval."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0)


def first_words(within: np.ndarray) -> np.ndarray:
    """Return where each text begins among the words, int64 [N]; `within` [W] is the text of each word."""
    return np.flatnonzero(np.append(True, within[1:] != within[:-1]))


def differing_texts(tags: Tags, one: np.ndarray, other: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Return bool [N]: the texts of which any entity differs or, where labels are no tags of entities, any word's label."""
    differ = one != other
    if tags.are_entities:
        (kind, last), (other_kind, other_last) = (tags.spans(part, within) for part in (one, other))
        differ = (kind != other_kind) | ((kind > 0) & (last != other_last))
    return np.logical_or.reduceat(differ, first_words(within))


def first_tokens(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Return word -> its first token, of tokens that say which word they are of (None: of none)."""
    found: dict[int, int] = {}
    for token, word in enumerate(word_ids):
        if word is not None:
            found.setdefault(word, token)
    return found


def texts_of(lengths: Sequence[int]) -> np.ndarray:
    """Return the text of each word, int64 [W], where texts have so many words."""
    return np.repeat(np.arange(len(lengths)), lengths)
