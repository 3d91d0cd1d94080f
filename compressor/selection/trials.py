"""Trials: what skipping a set of layers really costs, judged by forward passes and remembered."""

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from compressor.compensation.readout import crossfit_readout
from compressor.data.answers.config import model_task
from compressor.data.answers.kinds import SINGLE, Task
from compressor.files import read_json, write_text
from compressor.measurement.statistics import gained_and_lost
from compressor.model.capture import LayerCall, apply_layer
from compressor.model.families import Family, layer_kinds, layer_list
from compressor.model.states.reading import head_logits, head_nodes, read_state
from compressor.model.units import split_unit
from compressor.progress import Track, silent
from compressor.selection.trie import (
    STATES_BUDGET,
    SkipSet,
    StandIns,
    call_groups,
    count_applications,
    set_chunks,
    walk_sets,
)

SAVE_EVERY_S = 20.0
ELSEWHERE_FROM_S = 30.0
"""Seconds of work from which on trials are handed to other processes, which take some to begin."""
TIMED, TIMED_S = 8, 5.0
"""Layer applications that a prediction is timed by: at most so many, and no further one after so many seconds."""
FORMAT = 1
"""Raised whenever a trial's figures are computed in another way, so that older caches are not believed."""


@dataclass(frozen=True)
class Trial:
    """What skipping `skip` costs on the selection split, against the full model.

    `agreement`, `kl` (nats), `gained` and `lost` (rows that become right or wrong) hold after a cross-fitted closed-form
    readout; those that start with `raw` with the stock head as it is. Without labels, and of scores, the counts are None.
    """

    skip: SkipSet
    agreement: float
    kl: float
    raw_agreement: float
    raw_kl: float
    gained: int | None
    lost: int | None
    raw_gained: int | None
    raw_lost: int | None

    @property
    def cost(self) -> tuple[float, float, tuple[tuple[int, str], ...]]:
        """Sort key: agreement first, then KL, then the layer numbers, so that ties have one answer."""
        return (-self.agreement, self.kl, tuple(map(split_unit, self.skip)))


def judge(
    skip: SkipSet, cls: Tensor, raw: np.ndarray, teacher: np.ndarray, labels: np.ndarray | None, task: Task = SINGLE
) -> Trial:
    """Return the trial of a set from what the head reads [N, H], its stock logits [N, C] and the teacher's [N, C].

    The readout is solved on the device of the states.
    """
    readout = crossfit_readout(cls, torch.from_numpy(teacher).to(cls.device), within=task.within).cpu().numpy()
    counted = labels is not None and task.row.countable
    figures = {}
    for prefix, logits in (("", readout), ("raw_", raw)):
        figures[f"{prefix}agreement"] = float((~task.changed(teacher, logits)).mean())
        figures[f"{prefix}kl"] = task.divergence(teacher, logits)
        right = (task.right(part, labels) for part in (teacher, logits)) if counted else None
        counts = gained_and_lost(*right) if right else (None, None)
        figures[f"{prefix}gained"], figures[f"{prefix}lost"] = counts
    return Trial(skip=skip, **figures)


class Trials:
    """Tries skip sets on captured rows; remembers every trial, also in the file `cache` so that a later search goes on.

    `calls` and `teacher` (logits [N, C]) are those of `capture_calls` on the selection split, never on evaluation data;
    `labels` are as the task has them, or None; `task` is that of the model where it is not given. The file is believed only
    for the same rows, teacher logits and formulas.

    `stand_ins` are the layers without one of their parts that sets may name; `made_from` says what they were made from,
    and the file is believed only where that is the same. `elsewhere` takes sets and gives their trials, computed by other
    processes; what takes seconds is done here all the same.
    """

    def __init__(
        self,
        model: nn.Module,
        family: Family,
        calls: Sequence[LayerCall],
        teacher: Tensor,
        labels: np.ndarray | None = None,
        *,
        task: Task | None = None,
        cache: Path | None = None,
        stand_ins: StandIns | None = None,
        made_from: str = "",
        elsewhere: Callable[[Sequence[SkipSet]], Iterable[Trial]] | None = None,
        track: Track = silent,
    ) -> None:
        self._elsewhere = elsewhere
        self._stand_ins, self._made_from = stand_ins, made_from
        self.task = task or model_task(model)
        self.layers = list(layer_list(model, family))
        self.kinds = layer_kinds(model.config.to_dict())
        self.rows = len(teacher)
        self.counted = self.task.count(self.rows)
        self.labelled = labels is not None
        self._model, self._family, self._teacher, self._labels = model, family, teacher.numpy(), labels
        self._groups = call_groups(calls, len(self.layers))
        self._row_order = torch.cat([call.answers for call in calls]).argsort().to(calls[0].hidden.device)
        self._cache, self._track = cache, track
        self._key = self._digest()
        self._known = self._read()
        self._layer_seconds, self._readout_seconds = 0.0, 0.0

    def __call__(self, sets: Iterable[SkipSet], description: str) -> list[Trial]:
        """Return the trials of `sets` in their order; only what is not known yet is computed."""
        sets = list(sets)
        new = self.unknown(sets)
        if new:
            seconds = self.seconds(new)
            about = f", about {seconds:.0f} s" if seconds >= 1 else ""
            if self._elsewhere is not None and seconds >= ELSEWHERE_FROM_S:
                for trial in self._track(self._elsewhere(new), f"{description}: sets{about}", total=len(new)):
                    self._known[trial.skip] = trial
                self._write()
            else:
                self._compute(new, f"{description}: {len(new)} sets{about}; layer applications")
        return [self._known[member] for member in sets]

    def seconds(self, sets: Sequence[SkipSet]) -> float:
        """Return the predicted time of trying `sets`: their layer applications and readouts, times one of each, timed."""
        if not self._layer_seconds:
            self._time()
        new = self.unknown(sets)
        return self.applications(new) * self._layer_seconds + len(new) * self._readout_seconds

    def unknown(self, sets: Iterable[SkipSet]) -> list[SkipSet]:
        """Return those of `sets` that have not been tried yet."""
        return [member for member in dict.fromkeys(sets) if member not in self._known]

    def applications(self, sets: Iterable[SkipSet]) -> int:
        """Return how many layer applications over all rows it takes to try `sets` when none is known."""
        return sum(count_applications(len(self.layers), chunk) for chunk in self._chunks(list(sets)))

    def _chunks(self, sets: Sequence[SkipSet]) -> list[list[SkipSet]]:
        # with several groups of rows the [CLS] states of all sets of a chunk wait for the last group
        each = self.rows * self._groups[0][0].hidden.shape[-1] * 4
        size = max(1, STATES_BUDGET // each) if len(self._groups) > 1 else max(1, len(sets))
        return set_chunks(sets, size, len(self.layers))

    def _compute(self, sets: Sequence[SkipSet], description: str) -> None:
        steps = self.applications(sets) * len(self._groups)
        ticks = iter(self._track(range(steps), description, total=steps))
        saved = time.monotonic()
        for chunk in self._chunks(sets):
            parts: dict[SkipSet, list[Tensor]] = {member: [] for member in chunk}
            for group in self._groups:
                walk = walk_sets(self.layers, group, chunk, lambda: next(ticks, None), self._stand_ins)
                for skip, hidden in walk:
                    read = [self._read_state(state, call) for state, call in zip(hidden, group, strict=True)]
                    parts[skip].append(torch.cat(read))
                    if len(parts[skip]) == len(self._groups):
                        self._known[skip] = self._judge(skip, torch.cat(parts.pop(skip))[self._row_order])
                        if time.monotonic() - saved > SAVE_EVERY_S:
                            self._write()
                            saved = time.monotonic()
        next(ticks, None)  # closes the bar
        self._write()

    def _read_state(self, hidden: Tensor, call: LayerCall) -> Tensor:
        with torch.inference_mode():
            return read_state(self._model, self._family, hidden, call.mask, call.at).float()

    def _judge(self, skip: SkipSet, cls: Tensor) -> Trial:
        with torch.inference_mode():
            raw = head_logits(self._model, self._family, cls).float().cpu().numpy()
            # the readout stands for the head to come: where that keeps its nodes, it reads these
            states = head_nodes(self._model, self._family, cls).float() if self._family.head_norm else cls
        return judge(skip, states, raw, self._teacher, self._labels, self.task)

    def _time(self) -> None:
        """Time applications of a layer to the first group of rows, and readouts; a first one of each warms up."""
        group = self._groups[0]
        sizes = [sum(call.hidden.nbytes for call in calls) for calls in self._groups]
        generator = torch.Generator().manual_seed(0)
        cls = torch.randn(self.rows, group[0].hidden.shape[-1], generator=generator).to(group[0].hidden.device)
        layer, readout = [], []
        while len(layer) < 2 or (len(layer) < TIMED and sum(layer) + sum(readout) < TIMED_S):
            started = time.perf_counter()
            apply_layer(self.layers[0], group, [call.hidden for call in group])[-1][:, 0].cpu()  # waits for a GPU
            applied = time.perf_counter()
            self._judge((), cls)
            layer.append(applied - started)
            readout.append(time.perf_counter() - applied)
        self._layer_seconds = median(layer[1:]) * sum(sizes) / sizes[0]
        self._readout_seconds = median(readout[1:])

    def _digest(self) -> str:
        """Return what the figures depend on: teacher, rows, labels, formulas; the logits stand for model and texts."""
        digest = hashlib.sha256(json.dumps([FORMAT, len(self.layers)]).encode())
        digest.update(self._teacher.tobytes())
        digest.update(b"" if self._labels is None else self.task.packed(self._labels))
        if self.task != SINGLE:
            digest.update(repr(self.task).encode())
            digest.update(b"" if self.task.within is None else self.task.within.astype("<i8").tobytes())
        digest.update(self._made_from.encode())
        return digest.hexdigest()

    def _read(self) -> dict[SkipSet, Trial]:
        try:
            stored = read_json(self._cache) if self._cache else {"key": None}
            known = stored["trials"] if stored["key"] == self._key else []
            trials = [Trial(**{**entry, "skip": tuple(entry["skip"])}) for entry in known]
        except (OSError, ValueError, KeyError, TypeError):  # none, or changed from outside
            return {}
        return {trial.skip: trial for trial in trials}

    def _write(self) -> None:
        if self._cache:
            trials = [asdict(trial) for trial in self._known.values()]
            write_text(self._cache, json.dumps({"key": self._key, "trials": trials}))
