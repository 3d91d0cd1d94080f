"""What the columns of activations look like, seen on invented token sequences: no text of the user's is needed."""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from transformers import PreTrainedTokenizerBase

from compressor.measurement.machine.providers import CPU, open_session

ROWS, LONGEST = 64, 62
"""Invented sequences, and the tokens of the longest, special ones included."""


@dataclass(frozen=True)
class Columns:
    """Mean and largest distance from it of each column of an activation, both [K], over all tokens seen."""

    mean: np.ndarray
    reach: np.ndarray


def invented(
    tokenizer: PreTrainedTokenizerBase, vocabulary: int, longest: int, *, rows: int = ROWS, seed: int = 0
) -> list[dict[str, np.ndarray]]:
    """Return inputs [1, S] of random tokens between the special ones, single texts and pairs by turns.

    Huge activations sit in a few columns and at special tokens whatever the text says, so that random tokens show them.
    `vocabulary` is the number of tokens, `longest` how many the model takes.
    """
    generator = np.random.default_rng(seed)
    plain = np.setdiff1d(np.arange(vocabulary), tokenizer.all_special_ids)
    marked = "token_type_ids" in tokenizer.model_input_names
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    made = []
    for row in range(rows):
        count = int(generator.integers(1, max(1, min(LONGEST, longest) - 3), endpoint=True))
        tokens = generator.choice(plain, count).tolist()
        half = len(tokens) // 2 if row % 2 else 0
        parts = [tokens[:half], tokens[half:]] if half else [tokens]
        ids = [first]
        types = [0]
        for number, part in enumerate(parts):
            ids += [*part, last]
            types += [number if marked else 0] * (len(part) + 1)
        # a tokenizer without one of the two marks has None for it
        known = [(token, kind) for token, kind in zip(ids, types, strict=True) if token is not None]
        tokens, segments = (np.array([values], dtype=np.int64) for values in zip(*known, strict=True))
        made.append({"input_ids": tokens, "token_type_ids": segments, "attention_mask": np.ones_like(tokens)})
    return made


def observe(source: Path, tensors: Iterable[str], batches: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Columns]:
    """Return the columns of float32 `tensors` [..., K] inside the ONNX file `source`, over all `batches`.

    Every batch weighs the same in the mean. Inputs that the graph does not take are left out. Without tensors or batches
    nothing is known: {}.
    """
    tensors = list(dict.fromkeys(tensors))
    if not tensors or not batches:
        return {}
    model = onnx.load(str(source), load_external_data=False)
    for name in tensors:
        model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    # beside the source, where weights above 2 GB are looked for
    with tempfile.NamedTemporaryFile(dir=source.parent, suffix=".onnx", delete=False) as file:
        file.write(model.SerializeToString())
    try:
        opened = open_session(file.name, CPU)
        known = {entry.name for entry in opened.get_inputs()}
        total, low, high = {}, {}, {}
        for inputs in batches:
            found = opened.run(tensors, {name: value for name, value in inputs.items() if name in known})
            for name, values in zip(tensors, found, strict=True):
                table = values.reshape(-1, values.shape[-1]).astype(np.float64)
                total[name] = total.get(name, 0) + table.mean(0)
                low[name] = np.minimum(low.get(name, np.inf), table.min(0))
                high[name] = np.maximum(high.get(name, -np.inf), table.max(0))
    finally:
        Path(file.name).unlink()
    means = {name: total[name] / len(batches) for name in tensors}
    return {name: Columns(mean, np.maximum(high[name] - mean, mean - low[name])) for name, mean in means.items()}
