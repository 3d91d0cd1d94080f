"""[CLS] states of every layer: one pass over the texts, forward hooks, memory independent of the number of rows."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from compressor.data.batches import Encodings, Read, padded_batches, read
from compressor.model.capture import attended_place, watch
from compressor.model.families import Family, layer_list
from compressor.model.states.geometry import Geometry
from compressor.model.states.reading import read_state
from compressor.progress import Track, silent


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


class _Reservoir:
    """A uniform sample of the rows seen so far (Vitter 1985, Algorithm R), reproducible by seed.

    Its place is taken at once: replacing rows one by one would leave holes in memory that grow with the rows seen.
    """

    def __init__(self, states: int, size: int, width: int, seed: int) -> None:
        self._generator, self._seen = np.random.default_rng(seed), 0
        self._rows = np.empty((states, size, width), dtype=np.float32)
        self._labels = np.empty(size, dtype=np.int64)

    def add(self, states: np.ndarray, labels: np.ndarray) -> None:
        """Offer the rows of a batch: states [L+1, B, H], labels int64 [B]."""
        for index, label in enumerate(labels):
            place = self._seen if self._seen < len(self._labels) else int(self._generator.integers(self._seen + 1))
            self._seen += 1
            if place < len(self._labels):
                self._rows[:, place], self._labels[place] = states[:, index], label

    @property
    def sample(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows [L+1, M, H] and their labels [M]."""
        return self._rows[:, : self._seen], self._labels[: self._seen]


def class_states(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    labels: np.ndarray | None,
    classes: int,
    *,
    inner: bool = False,
    sample_rows: int = 2000,
    batch_size: int = 32,
    seed: int = 0,
    track: Track = silent,
) -> ClassStates:
    """Return the class-wise moments of states 0..L and how alike the states are, in one pass over the texts.

    `labels` int64 [N] are the classes; None takes the model's own predictions (no gold labels needed). With `inner` the
    states behind each layer's attention block stand between them: 0, inside layer 1, 1, inside layer 2, 2, ...
    """
    count = len(layer_list(model, family)) * (2 if inner else 1)
    moments, pooled = (Moments.empty(count + 1, classes, model.config.hidden_size) for _ in range(2))
    reservoir = _Reservoir(count + 1, min(sample_rows, encodings.answers), model.config.hidden_size, seed)
    logits = np.zeros((encodings.answers, model.config.num_labels), dtype=np.float32)
    geometry = Geometry(count + 1)

    def keep(rows: np.ndarray, mask: Tensor, batch_logits: Tensor, states: list[Tensor]) -> None:
        answers, at = encodings.answers_of(rows), encodings.read_at(rows)
        logits[answers] = batch_logits.float().cpu().numpy()
        heads = [read_state(model, family, state, mask, at) for state in states]
        geometry.add(states, heads, mask)
        stacked = torch.stack([state.float() for state in heads]).cpu().numpy()
        batch_labels = logits[answers].argmax(1) if labels is None else labels[answers]
        moments.add(stacked, batch_labels)
        shares = (mask / mask.sum(1, keepdim=True)).to(states[0].dtype)
        means = torch.stack([torch.einsum("bsh,bs->bh", state, shares).float() for state in states]).cpu().numpy()
        pooled.add(means if at is None else means[:, at[0]], batch_labels)
        reservoir.add(stacked, batch_labels)

    run_with_states(
        model,
        family,
        encodings,
        keep,
        batch_size=batch_size,
        track=track,
        description="states",
        inner=inner,
        pick=lambda state, _mask: state,
    )
    return ClassStates(moments, pooled, *reservoir.sample, logits, geometry)


def final_states(
    model: nn.Module, family: Family, encodings: Encodings, *, batch_size: int = 32, track: Track = silent
) -> tuple[np.ndarray, np.ndarray]:
    """Return what the head reads (`read_state`) [N, H] and the logits [N, C] of every answer, float32, in row order."""
    states = np.zeros((encodings.answers, model.config.hidden_size), dtype=np.float32)
    logits = np.zeros((encodings.answers, model.config.num_labels), dtype=np.float32)

    def keep(rows: np.ndarray, _mask: Tensor, batch_logits: Tensor, batch_states: list[Tensor]) -> None:
        answers = encodings.answers_of(rows)
        states[answers] = batch_states[-1].float().cpu().numpy()
        logits[answers] = batch_logits.float().cpu().numpy()

    run_with_states(model, family, encodings, keep, batch_size=batch_size, track=track, description="final states")
    return states, logits


def run_with_states(
    model: nn.Module,
    family: Family,
    encodings: Encodings,
    keep: Callable[[np.ndarray, Tensor, Tensor, list[Tensor]], None],
    *,
    batch_size: int,
    track: Track = silent,
    description: str,
    inner: bool = False,
    pick: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> None:
    """Run the model over all rows; call `keep(row indices, mask [B, S], logits [B, C], picked states 0..L)` per batch.

    `pick(state [B, S, H], mask)` says what of each state is held until the batch ends; by default what the head reads of it
    [B, H]. With `inner` the state behind the attention block of each layer comes before that behind the layer.
    """
    states: list[Tensor] = []
    mask: Tensor = torch.zeros(0)
    at: Read | None = None

    def hold(state: Tensor) -> None:
        # a view would keep the whole state alive
        states.append(read_state(model, family, state, mask, at).clone() if pick is None else pick(state, mask))

    first = layer_list(model, family)[0]

    def first_input(_module: nn.Module, inputs: tuple, kwargs: dict) -> None:
        # state 0 is what enters layer 1; ELECTRA projects its embeddings on the way there
        hold(inputs[0] if inputs else next(iter(kwargs.values())))

    with ExitStack() as stack, torch.inference_mode():
        stack.callback(first.register_forward_pre_hook(first_input, with_kwargs=True).remove)
        for layer in layer_list(model, family):
            if inner:
                stack.callback(watch(layer, attended_place(family), hold).remove)
            stack.callback(watch(layer, ("", False), hold).remove)
        for rows, inputs in padded_batches(encodings, batch_size, track, description):
            states.clear()
            tensors = {name: torch.from_numpy(value).to(model.device) for name, value in inputs.items()}
            mask, at = tensors["attention_mask"], encodings.read_at(rows)
            logits = read(model(**tensors).logits, at)
            keep(rows, mask, logits, states)
