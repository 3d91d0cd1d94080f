"""Real texts for `compressor bench`: read, tokenised by each target for itself, and replayed at their real lengths."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressor.cascade.runtime import CascadeClassifier
from compressor.data.batches import Encodings, encode
from compressor.data.files import read_lines, read_table
from compressor.data.rows import kept_rows, to_rows
from compressor.errors import UserError
from compressor.measurement.timing.latency import WORKLOAD, Batch, Cell, workload_batches
from compressor.model.load import ModelSource, load_tokenizer

Texts = list[tuple[str, ...]]
"""Rows of one text or two."""


def read_texts(path: Path, columns: Sequence[str]) -> Texts:
    """Return the texts of a .txt file (one a line) or of `columns` of a csv, tsv, jsonl or parquet file.

    Without `columns` that of a file with one column, else the column `text`. Raises UserError where that fails.
    """
    if path.suffix.lower() == ".txt":
        texts: Texts = [(line,) for line in read_lines(path, "--texts") if line.strip()]
        if not texts:
            raise UserError(f"--texts {path}: the file holds no text; give one text a line.")
        return texts
    table = read_table(path, "--texts")
    rows = to_rows(table, columns or (list(table.columns) if len(table.columns) == 1 else ["text"]), None)
    kept_rows(rows, rows.bad)
    return rows.texts


def replay_cells(tokens: dict[str, Encodings], sizes: Sequence[int]) -> tuple[list[Cell], dict[str, list[Batch]]]:
    """Return the cells of a workload, and target -> its batches of all cells in their order.

    Every target has its own tokens, so a batch of a cell only stands for those at its place in the lists; it holds as many
    rows as they do.
    """
    batches: dict[str, list[Batch]] = {name: [] for name in tokens}
    cells = []
    for size in sizes:
        for name, encodings in tokens.items():
            made = workload_batches(encodings, size)
            batches[name] += made
        cells.append(Cell(size, WORKLOAD, [{"place": np.arange(len(batch["input_ids"]))} for batch in made]))
    return cells, batches


def cascade_tokens(classifier: CascadeClassifier, texts: Texts) -> Encodings:
    """Return the tokens of texts as a cascade's own tokenizer makes them, cut to the length it was certified at."""
    rows = classifier.tokenize([row[0] if len(row) == 1 else row for row in texts])
    settings = classifier.settings
    types = [row.type_ids for row in rows] if settings.get("token_types", True) else None
    return Encodings([row.ids for row in rows], types, settings["pad_id"])


def model_tokens(path: Path, config: dict[str, Any], texts: Texts, longest: int) -> Encodings:
    """Return the tokens of texts by the tokenizer in the directory `path`, each cut to `longest`."""
    source = ModelSource(path, config, 0, [], "")  # an ONNX directory has no weights to look at
    return encode(texts, load_tokenizer(source), longest)
