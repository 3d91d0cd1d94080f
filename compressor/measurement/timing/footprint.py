"""Cold start and peak memory, each of them measured in a process that loads this one model and nothing else."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from compressor.errors import UserError
from compressor.progress import Track, silent

CHILD = "compressor.bench.cold_start"
"""The module that a child runs; named, not imported: it needs parts of the package that stand above this one."""
CHILDREN = 3
LIMIT_S = 600
MEASURES = "load_s", "first_call_s", "peak_bytes", "imported_bytes", "gpu_bytes"


@dataclass(frozen=True)
class ColdStart:
    """What a child loads and runs once, on a batch of `batch` x `length` tokens.

    `kind` is a key of `cold_start.KINDS`. `provider` is ONNX Runtime's, `device` PyTorch's (cpu or cuda); `compiled` says
    whether PyTorch compiles the model, without what an earlier compilation left on disk.
    """

    kind: str
    path: str
    provider: str
    device: str
    threads: int
    batch: int
    length: int
    compiled: bool = False


Child = Callable[[ColdStart], Mapping[str, Any]]


def footprints(
    starts: Mapping[str, ColdStart], *, seed: int = 0, track: Track = silent, child: Child | None = None
) -> dict[str, dict[str, Any]]:
    """Return for every name the medians over `CHILDREN` processes, which take turns in an order drawn anew.

    `load_s`: seconds to create the session or load the model, imports apart, the file in the system's cache;
    `first_call_s`: seconds of the first run; `peak_bytes`: largest resident memory, of which `imported_bytes` were there
    before the model; `gpu_bytes`: what PyTorch allocated at most, or by how much the GPU's free memory fell. None for what
    the system does not say. `batch`, `length` and `children` say how. Raises UserError where a child fails; `child`
    stands in for the process.
    """
    child, generator = child or run_child, np.random.default_rng(seed)
    names, found = list(starts), {name: [] for name in starts}
    turns = [names[place] for _ in range(CHILDREN) for place in generator.permutation(len(names))]
    for name in track(turns, "cold start and memory", len(turns)):
        try:
            found[name].append(child(starts[name]))
        except ChildError as error:
            raise UserError(
                f"{name}: loading it in a process of its own failed ({error}); --no-footprint or benchmark.footprint: false "
                "leaves cold start and memory out."
            ) from error
    return {
        name: {key: _median([row[key] for row in rows]) for key in MEASURES}
        | {"batch": starts[name].batch, "length": starts[name].length, "children": len(rows)}
        for name, rows in found.items()
    }


class ChildError(Exception):
    """A child ended without an answer; the message is the last line that it wrote to stderr."""


def run_child(start: ColdStart) -> dict[str, Any]:
    """Return what a new process measures of one model; raises ChildError where it fails or takes over ten minutes."""
    environment = os.environ | ({"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"} if start.compiled else {})
    command = [sys.executable, "-m", CHILD, json.dumps(asdict(start))]
    try:
        done = subprocess.run(  # noqa: S603 (our own module)
            command, capture_output=True, text=True, timeout=LIMIT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ChildError(f"no answer within {LIMIT_S} s") from error
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        raise ChildError((lines or [f"exit code {done.returncode}, no message"])[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])  # libraries may have written to stdout before


def _median(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
