"""What lies beside an exported file so that it can be deployed: settings, a page, a configuration for Triton."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from transformers import PreTrainedTokenizerBase

from compressor.data.answers.kinds import SINGLE, Task
from compressor.export.deploy import CPU_ONLY, page
from compressor.files import README, json_text
from compressor.runtime.folder import CASCADE, CLASSIFIER, MODEL

TRITON = "config.pbtxt"
BATCH, DELAY = 32, 500
"""Requests that Triton puts into one batch at most, and microseconds that it waits for them."""


def text_settings(
    tokenizer: PreTrainedTokenizerBase,
    label_names: Sequence[str],
    *,
    max_length: int,
    texts: int | None,
    task: Task = SINGLE,
) -> dict[str, Any]:
    """Return what the runtime must know of labels and texts; `texts` a row is 1, 2, or None where either may come.

    `threads` is not known yet: a run that times the folder with several numbers of them fills it in.
    """
    told = {"kind": task.kind, "sigmoid": task.sigmoid, "thresholds": list(task.thresholds)}
    return {
        "label_names": list(label_names),
        "texts": texts,
        "max_length": max_length,
        "pad_id": tokenizer.pad_token_id,
        "truncation_side": tokenizer.truncation_side,
        "token_types": "token_type_ids" in tokenizer.model_input_names,
        "threads": None,
        **({} if task == SINGLE else {"answers": told}),
    }


def write_beside(folder: Path, variant: str, settings: Mapping[str, Any]) -> None:
    """Write classifier.json, README.md and config.pbtxt beside model.onnx in a folder that is being made."""
    for name, text in words_beside(folder, variant, settings).items():
        (folder / name).write_text(text, encoding="utf-8")
    graph = onnx.load(str(folder / MODEL), load_external_data=False).graph
    (folder / TRITON).write_text(triton_config(graph, cpu=variant in CPU_ONLY), encoding="utf-8")


def words_beside(folder: Path, variant: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """Return name -> content of the settings and the page: what changes once a run knows the best number of threads."""
    name = CASCADE if variant == "cascade" else CLASSIFIER
    weights = sorted(file.name for file in folder.glob(f"{MODEL}?*"))
    return {name: json_text(settings), README: page(variant, settings, weights)}


def triton_config(graph: onnx.GraphProto, *, cpu: bool) -> str:
    """Return Triton's config.pbtxt of an ONNX classifier: its inputs and outputs as the file has them, dynamic batching.

    `cpu` keeps it off GPUs, where Triton would put it else if there is one. Triton's shapes leave out the batch.
    """
    lines = ['backend: "onnxruntime"', f'default_model_filename: "{MODEL}"', f"max_batch_size: {BATCH}"]
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            name = onnx.TensorProto.DataType.Name(tensor.elem_type)
            data_type = f"TYPE_{ {'FLOAT': 'FP32', 'FLOAT16': 'FP16'}.get(name, name) }"
            sizes = ", ".join(str(size.dim_value or -1) for size in tensor.shape.dim[1:])
            lines.append(f"{kind} {{ name: {json.dumps(value.name)} data_type: {data_type} dims: [ {sizes} ] }}")
    lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY} }}")
    if cpu:
        lines.append("instance_group { kind: KIND_CPU }")
    return "\n".join(lines) + "\n"
