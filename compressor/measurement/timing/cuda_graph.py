"""ONNX Runtime's CUDA graphs: the kernels of one shape are recorded once and from then on launched as one.

Follows ONNX Runtime's own rules (CUDA execution provider, "CUDA graphs"): every node on the GPU, inputs and outputs at
fixed addresses, one graph a shape, told apart by the run option `gpu_graph_id` (0 is ONNX Runtime's own, -1 records
nothing).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.errors import UserError, first_line
from compressor.measurement.machine.libraries import CUDA
from compressor.measurement.machine.providers import open_session
from compressor.measurement.runtime import feeds
from compressor.measurement.timing.latency import Batch, Subject

if TYPE_CHECKING:
    import onnxruntime as ort

SWITCH = "enable_cuda_graph"
UNRECORDED = -1


@dataclass(frozen=True)
class _Graph:
    """What belongs to one shape: its inputs and outputs on the device, bound for good, and the run options that name it."""

    inputs: dict[str, Any]
    outputs: list[Any]
    binding: Any
    options: Any


def graph_session(path: Path, threads: int | None = None) -> "ort.InferenceSession":
    """Open an ONNX file on the GPU with CUDA graphs.

    Raises UserError where ONNX Runtime refuses (a node without a GPU kernel, as in int8 files) or falls back.
    """
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    try:
        opened = open_session(str(path), CUDA, threads, {SWITCH: "1"})
    except (errors.Fail, errors.RuntimeException, errors.InvalidGraph, RuntimeError, ValueError) as error:
        raise _refused(path, error) from error
    opened.disable_fallback()
    if opened.get_provider_options().get(CUDA, {}).get(SWITCH) != "1":  # it falls back to a session without, in silence
        raise _refused(path, f"it would run on {opened.get_providers()[0]} without them")
    return opened


def graph_subject(
    session: "ort.InferenceSession", name: object = "the session", runtime: ModuleType | None = None
) -> Subject:
    """Return a subject that updates the inputs in place and replays the graph of the batch's shape.

    The first run of a shape records it (see `settle`). `name` is what an error calls the session; `runtime` stands in for
    the module onnxruntime.
    """
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    runtime = runtime or onnxruntime
    names, outputs = ([node.name for node in nodes()] for nodes in (session.get_inputs, session.get_outputs))
    graphs: dict[tuple[int, ...], _Graph] = {}

    def run(batch: Batch) -> object:
        inputs = feeds(names, batch)
        shape = batch["input_ids"].shape
        if shape not in graphs:
            try:
                graphs[shape] = _bound(session, inputs, outputs, len(graphs) + 1, runtime)
                return _replay(session, graphs[shape], inputs)
            except (errors.Fail, errors.RuntimeException) as error:
                raise _refused(name, error) from error
        return _replay(session, graphs[shape], inputs)

    return run


def _bound(
    session: "ort.InferenceSession",
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    graph_id: int,
    runtime: ModuleType,
) -> _Graph:
    """Put the inputs on the device and bind them, and the outputs of a run that records nothing, for good.

    That run also has ONNX Runtime take the memory that the shape needs: none may be taken while a graph is recorded.
    """
    held = {name: runtime.OrtValue.ortvalue_from_numpy(values, "cuda", 0) for name, values in inputs.items()}
    binding = session.io_binding()
    for name, value in held.items():
        binding.bind_ortvalue_input(name, value)
    for name in outputs:
        binding.bind_output(name, "cuda")
    session.run_with_iobinding(binding, _options(runtime, UNRECORDED))
    binding.synchronize_outputs()
    made = binding.get_outputs()
    binding.clear_binding_outputs()
    for name, value in zip(outputs, made, strict=True):
        binding.bind_ortvalue_output(name, value)
    return _Graph(held, made, binding, _options(runtime, graph_id))


def _replay(session: "ort.InferenceSession", graph: _Graph, inputs: Mapping[str, np.ndarray]) -> list[Any]:
    for name, values in inputs.items():
        graph.inputs[name].update_inplace(values)
    graph.binding.synchronize_inputs()
    session.run_with_iobinding(graph.binding, graph.options)
    graph.binding.synchronize_outputs()
    return graph.outputs


def _options(runtime: ModuleType, graph_id: int) -> Any:  # noqa: ANN401
    options = runtime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def _refused(name: object, reason: object) -> UserError:
    return UserError(
        f"{name}: ONNX Runtime cannot run it as a CUDA graph ({first_line(reason)[:200]}); leave --cuda-graph out, or name only "
        "directories whose every node has a GPU kernel (fp32, optimized, fp16)."
    )
