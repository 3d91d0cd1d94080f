"""The child process of `measurement/footprint.py`: load one model, run it once, print one JSON line on what that took.

Nothing is imported that a service with this one model would not import, so that its memory is that of the model.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from compressor.measurement.machine.libraries import CUDA
from compressor.measurement.timing.footprint import ColdStart

Call = Callable[[], object]
Load = Callable[[], Call]
"""Loads the model and returns its first run."""
Gauge = Callable[[], int | None]
"""Returns the bytes of GPU memory taken since it was made, or None."""


def main(argument: str) -> None:
    """Measure the ColdStart that `argument` holds as JSON and print the result."""
    start = ColdStart(**json.loads(argument))
    load, gauge = KINDS[start.kind](start)
    imported = resident("VmRSS")
    begun = time.perf_counter()
    call = load()
    loaded = time.perf_counter()
    call()
    called = time.perf_counter()
    measured = {"load_s": loaded - begun, "first_call_s": called - loaded, "peak_bytes": resident("VmHWM")}
    print(json.dumps({**measured, "imported_bytes": imported, "gpu_bytes": gauge()}))  # noqa: T201


def resident(field: str) -> int | None:
    """Return this process's resident memory now (VmRSS) or at its peak (VmHWM) in bytes; None off Linux.

    Not getrusage: on Linux a child starts with its parent's peak there.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:")), None)


def inputs(names: Iterable[str], batch: int, length: int) -> dict[str, np.ndarray]:
    """Return the inputs of a graph, int64 [batch, length]: one token id throughout, no padding, token types 0."""
    fill = {"input_ids": 5, "attention_mask": 1}
    return {name: np.full((batch, length), fill.get(name, 0), dtype=np.int64) for name in names}


def _onnx(start: ColdStart) -> tuple[Load, Gauge]:
    import onnxruntime  # noqa: F401

    from compressor.measurement.machine.providers import open_session

    def load() -> Call:
        session = open_session(start.path, start.provider, start.threads)
        if session.get_providers()[0] != start.provider:
            raise RuntimeError(f"ONNX Runtime would run on {session.get_providers()[0]}, not on {start.provider}")
        feeds = inputs([node.name for node in session.get_inputs()], start.batch, start.length)
        return lambda: session.run(None, feeds)

    return load, _fallen_memory(start)


def _cuda_graph(start: ColdStart) -> tuple[Load, Gauge]:
    from compressor.measurement.timing.cuda_graph import graph_session, graph_subject

    def load() -> Call:
        run = graph_subject(graph_session(Path(start.path), start.threads), start.path)
        batch = inputs(("input_ids", "attention_mask"), start.batch, start.length)
        return lambda: run(batch)

    return load, _fallen_memory(start)


def _cascade(start: ColdStart) -> tuple[Load, Gauge]:
    from compressor.cascade.runtime import CascadeClassifier

    def load() -> Call:
        classifier = CascadeClassifier(start.path, providers=(start.provider,), threads=start.threads)
        batch = inputs(("input_ids", "attention_mask"), start.batch, start.length)
        return lambda: classifier.run(batch)

    return load, _fallen_memory(start)


def _pytorch(start: ColdStart) -> tuple[Load, Gauge]:
    import torch
    from transformers import AutoConfig

    from compressor.data.answers.config import task_of
    from compressor.model.load import classes_for
    from compressor.model.sublayers import as_stored, loading_class

    torch.set_num_threads(start.threads)
    config = AutoConfig.from_pretrained(start.path, local_files_only=True)
    kind = task_of(config.to_dict(), start.path).kind
    model_class = loading_class(config.to_dict(), classes_for(kind))
    with torch.device("meta"):
        model_class(config)  # what is made only once is not timed

    def load() -> Call:
        model = as_stored(model_class.from_pretrained(start.path, local_files_only=True, dtype=torch.float32))
        model = model.to(start.device).eval()
        answer = torch.compile(model, dynamic=True) if start.compiled else model
        batch = inputs(("input_ids", "attention_mask"), start.batch, start.length)

        @torch.inference_mode()
        def call() -> object:
            return answer(
                **{name: torch.from_numpy(values).to(start.device) for name, values in batch.items()}
            ).logits.cpu()

        return call

    return load, lambda: torch.cuda.max_memory_allocated() if start.device == "cuda" else None


def _fallen_memory(start: ColdStart) -> Gauge:
    """Return by how much the GPU's free memory falls, since ONNX Runtime does not tell what it takes."""
    if start.provider != CUDA:
        return lambda: None
    import torch  # also loads the CUDA libraries that ONNX Runtime looks for

    free = torch.cuda.mem_get_info()[0]
    return lambda: free - torch.cuda.mem_get_info()[0]


KINDS = {"onnx": _onnx, "cuda-graph": _cuda_graph, "cascade": _cascade, "pytorch": _pytorch}


if __name__ == "__main__":
    main(sys.argv[1])
