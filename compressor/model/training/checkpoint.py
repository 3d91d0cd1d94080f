"""Checkpoints of a training: whole or absent, and believed only for the inputs that they were made from."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from tempfile import mkdtemp
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from compressor.files import PROGRESS, read_json, usual_rights, write_json

FORMAT = 2
"""Raised whenever the training loop steps in another way, so that older checkpoints are not believed."""
Kind = TypeVar("Kind")
WEIGHTS, BEST, STATE = "weights.safetensors", "best.safetensors", "state.pt"


@dataclass
class Progress:
    """How far a training is: batches done, sums of the loss parts in the current epoch, means of the finished ones.

    `rows` are those of the current epoch so far, `curve` what was measured on held-out text: [batches done, value] each.
    """

    done: int = 0
    totals: dict[str, float] = field(default_factory=dict)
    losses: list[dict[str, float]] = field(default_factory=list)
    rows: int = 0
    curve: list[list[float]] = field(default_factory=list)


@dataclass
class Training:
    """All that a training changes: parameters by name, AdamW's moments, the learning rate; and the device it runs on.

    `best` are the parameters at the best value measured so far, by name; empty where nothing is measured.
    """

    trained: Mapping[str, nn.Parameter]
    optimizer: Optimizer
    schedule: LRScheduler
    device: torch.device
    best: dict[str, Tensor] = field(default_factory=dict)


class Checkpoint:
    """The checkpoint of one training in `folder`, written at most every `minutes`.

    `fingerprint` stands for all that decides the result: models, texts, settings, seed. A checkpoint of another one is
    ignored, and replaced by the first that is written. The files lie in a folder of their own for each write, and the
    small file that names it is replaced last: a process that dies anywhere leaves the old checkpoint or the new one.
    """

    def __init__(self, folder: Path, fingerprint: str, minutes: float = 5.0) -> None:
        self.folder, self.fingerprint, self.minutes = folder, f"{FORMAT}:{fingerprint}", minutes
        self._saved = time.monotonic()

    def restore(self, training: Training, kind: type[Kind] = Progress) -> Kind:
        """Bring `training` and torch's generators to where the checkpoint was; at the start where there is none.

        `kind` is the dataclass that counts how far the training is, if not the one of the shared loop.
        """
        self._saved = time.monotonic()
        try:
            entry = read_json(self.folder / PROGRESS)
            if entry["fingerprint"] != self.fingerprint:
                return kind()
            files = self.folder / entry["files"]
            weights = load_file(files / WEIGHTS)
            best = load_file(files / BEST) if entry["best"] else {}
            state = torch.load(files / STATE, map_location="cpu", weights_only=True)
            progress = kind(**entry["progress"])
        except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, UnpicklingError, SafetensorError):
            return kind()  # none, or files damaged from outside: the training starts again
        with torch.no_grad():
            for name, parameter in training.trained.items():
                parameter.copy_(weights[name])
        training.best = {name: weight.to(training.device) for name, weight in best.items()}
        training.optimizer.load_state_dict(state["optimizer"])
        training.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["random"]["cpu"])
        if "cuda" in state["random"]:
            torch.cuda.set_rng_state(state["random"]["cuda"], training.device)
        return progress

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is old enough for a new one."""
        return time.monotonic() - self._saved >= 60 * self.minutes

    def save(self, training: Training, progress: Any) -> None:  # noqa: ANN401
        """Write a checkpoint and remove the one before. Frozen parameters stay as they were and are not written."""
        self.folder.mkdir(parents=True, exist_ok=True)
        files = Path(mkdtemp(dir=self.folder, prefix=f"{progress.done}-"))
        save_file({name: parameter.detach() for name, parameter in training.trained.items()}, files / WEIGHTS)
        if training.best:
            save_file(training.best, files / BEST)
        random = {"cpu": torch.get_rng_state()}  # of the generators that dropout draws from
        if training.device.type == "cuda":
            random["cuda"] = torch.cuda.get_rng_state(training.device)
        state = {
            "optimizer": training.optimizer.state_dict(),
            "schedule": training.schedule.state_dict(),
            "random": random,
        }
        with (files / STATE).open("wb") as opened:  # given a path, PyTorch does not say that the disk is full
            torch.save(state, opened)
        usual_rights(files)
        entry = {"fingerprint": self.fingerprint, "files": files.name, "progress": vars(progress)}
        entry["best"] = bool(training.best)
        write_json(self.folder / PROGRESS, entry)
        for other in self.folder.iterdir():
            if other.is_dir() and other != files:
                shutil.rmtree(other, ignore_errors=True)
        self._saved = time.monotonic()

    def remove(self) -> None:
        """Remove the checkpoint: what came of the training is stored elsewhere."""
        shutil.rmtree(self.folder, ignore_errors=True)
