"""What is kept of the states of all rows: sums that do not grow with them, and a sample of bounded size.

Both merge: what two processes kept of two parts of the rows adds up to what one keeps of all.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from compressor.data.batches import Read
from compressor.model.states.geometry import Geometry


@dataclass
class Moments:
    """Running count, mean and centred square sum of each class, for every state, in float64.

    `count` [C], `mean` [L+1, C, H], `squares` [L+1, C] = sum over rows of |x - mean_c|^2. Batches merge by the update
    of Chan, Golub and LeVeque (1983), so one pass gives what all rows at once would give.
    """

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def empty(cls, states: int, classes: int, width: int) -> "Moments":
        """Return the moments of no rows."""
        return cls(np.zeros(classes), np.zeros((states, classes, width)), np.zeros((states, classes)))

    def every_other(self) -> "Moments":
        """Return the same for every other state, from the first on."""
        return Moments(self.count, self.mean[::2], self.squares[::2])

    def merged(self, into: np.ndarray) -> "Moments":
        """Return the moments of fewer classes: class c becomes part of class `into[c]`, int64 [C]."""
        made = Moments.empty(len(self.mean), int(into.max()) + 1, self.mean.shape[-1])
        np.add.at(made.count, into, self.count)
        share = self.count / np.maximum(made.count[into], 1)
        np.add.at(made.mean, (slice(None), into), self.mean * share[:, None])
        apart = np.square(self.mean - made.mean[:, into]).sum(-1) * self.count
        np.add.at(made.squares, (slice(None), into), self.squares + apart)
        return made

    def add(self, states: np.ndarray, labels: np.ndarray) -> None:
        """Merge a batch: states [L+1, B, H], labels int64 [B]."""
        for label in np.unique(labels):
            rows = states[:, labels == label].astype(np.float64)
            added, total = rows.shape[1], self.count[label] + rows.shape[1]
            mean = rows.mean(axis=1)
            delta = mean - self.mean[:, label]
            self.squares[:, label] += np.square(rows - mean[:, None]).sum(axis=(1, 2))
            self.squares[:, label] += np.square(delta).sum(axis=1) * self.count[label] * added / total
            self.mean[:, label] += delta * added / total
            self.count[label] = total

    def merge(self, other: "Moments") -> None:
        """Add the moments of other rows."""
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        delta = other.mean - self.mean
        self.squares += other.squares + np.square(delta).sum(-1) * self.count * share
        self.mean += delta * share[:, None]
        self.count = total


class Sample:
    """A uniform sample of at most `size` of all rows: those whose keys are the smallest.

    The key of a row is a hash of its number and the seed (splitmix64: Steele, Lea and Flood 2014), so the sample is the
    same in whatever order and by however many processes the rows are seen. Its place is taken at once: rows replaced one by
    one would leave holes in memory that grow with the rows seen.
    """

    def __init__(self, states: int, size: int, width: int, seed: int) -> None:
        self._seed, self._seen = seed, 0
        self._keys = np.empty(size, dtype=np.uint64)
        self._places = np.empty(size, dtype=np.int64)
        self._labels = np.empty(size, dtype=np.int64)
        self._rows = np.empty((states, size, width), dtype=np.float32)

    def add(self, places: np.ndarray, labels: np.ndarray, states: np.ndarray) -> None:
        """Offer rows: their numbers among all [B], labels int64 [B] and states [L+1, B, H]."""
        for index, key in enumerate(_keys(places, self._seed)):
            at = self._seen
            if at == len(self._keys):
                at = int(self._keys.argmax())
                if key >= self._keys[at]:
                    continue
            else:
                self._seen += 1
            self._keys[at], self._places[at], self._labels[at] = key, places[index], labels[index]
            self._rows[:, at] = states[:, index]

    @property
    def kept(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The numbers [M] of the rows, in order, their labels [M] and states [L+1, M, H]."""
        order = self._places[: self._seen].argsort()
        return self._places[order], self._labels[order], self._rows[:, order]


def _keys(places: np.ndarray, seed: int) -> np.ndarray:
    with np.errstate(over="ignore"):
        mixed = (np.uint64(seed) << np.uint64(32)) + places.astype(np.uint64) + np.uint64(1)
        mixed *= np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclass(frozen=True)
class ClassStates:
    """What one pass keeps: exact moments of all rows, and the states of a bounded random sample of rows.

    `moments` are those of the states that the head would read (`read_state`: [CLS] in most families), `pooled` those of the
    mean over all tokens that are not padding.
    `sample` [L+1, M, H] float32 with `sample_labels` [M]; M is at most the `sample_rows` asked for. `geometry` compares
    the states of any two depths. `logits` [N, C] are the model's own, in row order, and the only thing kept that grows
    with the rows. Where each word has an answer, N are the words.
    """

    moments: Moments
    pooled: Moments
    sample: np.ndarray
    sample_labels: np.ndarray
    logits: np.ndarray
    geometry: Geometry

    def of_label(self, has: np.ndarray) -> "ClassStates":
        """Return the same with two classes, the rows without and with one label; `has` [G] says which group has it."""
        moments, pooled = self.moments.merged(has), self.pooled.merged(has)
        return replace(self, moments=moments, pooled=pooled, sample_labels=has[self.sample_labels])

    def behind_layers(self) -> "ClassStates":
        """Return the states behind whole layers alone, of those that `class_states(..., inner=True)` keeps."""
        moments, pooled = self.moments.every_other(), self.pooled.every_other()
        return replace(
            self, moments=moments, pooled=pooled, sample=self.sample[::2], geometry=self.geometry.every_other()
        )


@dataclass
class StateSums:
    """What a pass over rows keeps of their states: `moments` of what the head reads, `pooled` of the mean over the tokens."""

    moments: Moments
    pooled: Moments
    geometry: Geometry
    sample: Sample

    @classmethod
    def empty(cls, states: int, classes: int, width: int, sample_rows: int, seed: int) -> "StateSums":
        """Return the sums of no rows."""
        moments, pooled = (Moments.empty(states, classes, width) for _ in range(2))
        return cls(moments, pooled, Geometry(states), Sample(states, sample_rows, width, seed))

    def add(
        self,
        places: np.ndarray,
        labels: np.ndarray,
        mask: Tensor,
        states: Sequence[Tensor],
        heads: Sequence[Tensor],
        at: Read | None = None,
    ) -> None:
        """Take in a batch: numbers of its answers among all [B], classes [B], mask [B, S], states 0..L [B, S, H], what is read.

        `heads` are what the head reads of each state, [B, H]; where words have answers, [W, H], and `at` says where they are.
        """
        self.geometry.add(states, heads, mask)
        stacked = torch.stack([state.float() for state in heads]).cpu().numpy()
        self.moments.add(stacked, labels)
        shares = (mask / mask.sum(1, keepdim=True)).to(states[0].dtype)
        means = torch.stack([torch.einsum("bsh,bs->bh", state, shares).float() for state in states]).cpu().numpy()
        self.pooled.add(means if at is None else means[:, at[0]], labels)
        self.sample.add(places, labels, stacked)

    def merge(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Add what another pass over other rows kept, as `arrays` there gives it."""
        for name in SUMS:
            getattr(self, name).merge(Moments(*(arrays[f"{name}_{field}"] for field in vars(self.moments))))
        self.geometry.merge(Geometry.of(**{field: arrays[f"geometry_{field}"] for field in vars(self.geometry)}))
        self.sample.add(*(arrays[f"sample_{field}"] for field in SAMPLED))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all of it as arrays by name, for `merge`."""
        found = {f"{name}_{field}": value for name in SUMS for field, value in vars(getattr(self, name)).items()}
        found |= {f"geometry_{field}": np.asarray(value) for field, value in vars(self.geometry).items()}
        return found | {f"sample_{field}": value for field, value in zip(SAMPLED, self.sample.kept, strict=True)}

    def states(self, logits: np.ndarray) -> ClassStates:
        """Return the sums as what the scores read; `logits` [N, C] of all rows, or of none."""
        _, labels, rows = self.sample.kept
        return ClassStates(self.moments, self.pooled, rows, labels, logits, self.geometry)


SUMS = "moments", "pooled"
SAMPLED = "places", "labels", "states"
"""What is kept of a sampled row, in the order in which `Sample.add` takes it."""
