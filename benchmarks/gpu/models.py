"""What the GPU benchmark measures: BERT-base with random weights, whole and with layers removed, and texts for it.

Time depends on shapes alone, so random weights do for it; nothing measured here says anything about accuracy.
"""

import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, BertTokenizerFast

from compressor.data.batches import Encodings, encode
from compressor.data.files import read_lines
from compressor.errors import UserError
from compressor.export.onnx import export_variants
from compressor.model.families import FAMILIES
from compressor.model.surgery import drop_layers, kept_layers, save_model

FAMILY = FAMILIES["bert"]
PRECISIONS = {"fp32": "optimized", "fp16": "fp16"}
"""Precision -> the variant of the export that has it."""
CARD = "# Random weights\n\nMade by `benchmarks/gpu/run.py` to measure time; it classifies nothing.\n"
SHAPE, SCALE, SHORTEST, LONGEST = 5.66, 4.5, 4, 66
SYNTHETIC = (
    f"synthetic: gamma distribution, shape {SHAPE}, scale {SCALE}, rounded, within {SHORTEST} to {LONGEST} tokens; mean 25.5 "
    "and deviation 10.7 are those of SST-2's validation texts in BERT's uncased WordPieces"
)


@dataclass(frozen=True)
class Size:
    """How much is measured; `skips` are the numbers of layers removed, `padded` what status-quo batches are padded to.

    Seconds and runs are those of a cell, all its subjects together; see `measurement.latency.measure`.
    """

    name: str
    config: dict = field(default_factory=dict)
    skips: tuple[int, ...] = (0, 1, 2, 4, 6)
    batches: tuple[int, ...] = (1, 8, 32, 128)
    lengths: tuple[int, ...] = (32, 128, 384)
    workload: tuple[int, ...] = (1, 32, 128)
    padded: int = 128
    texts: int = 1000
    skip_pipeline: int = 2
    min_seconds: float = 0.5
    min_runs: int = 50
    max_seconds: float = 4.0

    @property
    def layers(self) -> int:
        """Layers of the full model."""
        return BertConfig(**self.config).num_hidden_layers

    @property
    def limits(self) -> dict[str, float]:
        """The seconds and runs, as `benchmark` takes them."""
        return {"min_seconds": self.min_seconds, "min_runs": self.min_runs, "max_seconds": self.max_seconds}


BASE = Size("BERT-base")
NARROW = {
    "num_hidden_layers": 2,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 64,
}
QUICK = Size(
    "two narrow layers", {**NARROW, "max_position_embeddings": 80}, (0, 1), (1, 2), (8,), (2,), 72, 24, 1, 0.0, 3, 1.0
)


@dataclass(frozen=True)
class Files:
    """What was made of one model: its Hugging Face directory, and precision -> ONNX file with all rows or the tail."""

    model: Path
    all_rows: dict[str, Path]
    tail: dict[str, Path]


def make_models(size: Size, work: Path, seed: int = 0) -> dict[int, Path]:
    """Return layers removed -> Hugging Face directory below `work`; what is there already is kept.

    Removed are the layers before the last one: which they are makes no difference to time.
    """
    folders = {skip: work / size.name.replace(" ", "-") / f"minus-{skip}" / "model" for skip in size.skips}
    if all((folder / "README.md").is_file() for folder in folders.values()):
        return folders
    torch.manual_seed(seed)
    full = BertForSequenceClassification(BertConfig(num_labels=2, **size.config)).eval()
    for skip, folder in folders.items():
        model = drop_layers(full, FAMILY, removed(size, skip)) if skip else full
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, tiny_tokenizer(folder), folder, CARD)  # the card is written last
    return folders


def removed(size: Size, skip: int) -> tuple[int, ...]:
    """Return the numbers of the layers that go where `skip` do: those before the last."""
    return tuple(range(size.layers - skip, size.layers))


def kept(size: Size, skip: int) -> list[int]:
    """Return the numbers of the layers that stay where `skip` go."""
    return kept_layers(size.layers, removed(size, skip))


def tiny_tokenizer(folder: Path) -> BertTokenizerFast:
    """Return a WordPiece tokenizer of single letters: a model directory needs one, and the batches here are random ids."""
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghij"]), encoding="utf-8")
    return BertTokenizerFast(str(vocabulary))


def make_files(
    models: dict[int, Path], form: str, precisions: Sequence[str], jobs: int
) -> tuple[dict[int, Files], float]:
    """Return layers removed -> its ONNX files, and the seconds it took, `jobs` exports at a time; files there are kept."""
    started = time.perf_counter()
    found, wanted = {}, []
    for skip, model in models.items():
        folders = {None: model.parent / "all-rows", form: model.parent / f"tail-{form}"}
        variants = [PRECISIONS[precision] for precision in precisions]
        for made, folder in folders.items():
            lacking = [name for name in variants if not (folder / name / "model.onnx").is_file()]
            if lacking:
                wanted.append((model, folder, lacking, made))
        paths = {
            made: {p: folder / PRECISIONS[p] / "model.onnx" for p in precisions} for made, folder in folders.items()
        }
        found[skip] = Files(model, paths[None], paths[form])
    if jobs > 1 and len(wanted) > 1:
        with ProcessPoolExecutor(min(jobs, len(wanted)), mp_context=get_context("spawn")) as pool:
            list(pool.map(export, *zip(*wanted, strict=True), [jobs] * len(wanted)))
    else:
        for job in wanted:
            export(*job, 1)
    return found, time.perf_counter() - started


def export(model: Path, folder: Path, variants: Sequence[str], form: str | None, jobs: int) -> None:
    """Export a model into `folder`; `form` None computes all rows of the last layer."""
    if jobs > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // jobs))
    export_variants(model, folder, variants, form=form)


def synthetic_lengths(count: int, seed: int = 0) -> np.ndarray:
    """Return the tokens of `count` texts, int64, special tokens included; see `SYNTHETIC`."""
    drawn = np.random.default_rng(seed).gamma(SHAPE, SCALE, size=count)
    return drawn.round().clip(SHORTEST, LONGEST).astype(np.int64)


def random_encodings(lengths: Sequence[int], vocabulary: int, seed: int = 0) -> Encodings:
    """Return rows of random token ids of these lengths, from the upper part of the vocabulary."""
    generator = np.random.default_rng(seed)
    low = min(1000, vocabulary // 2)
    ids = [generator.integers(low, vocabulary, size=int(length)).tolist() for length in lengths]
    return Encodings(ids, [[0] * len(row) for row in ids], 0)


def workload_lengths(size: Size, texts: Path | None, tokenizer: Path | None) -> tuple[np.ndarray, str]:
    """Return the tokens of the texts to replay and where the lengths come from: a file of texts, one a line, or drawn.

    Raises UserError for a file without a tokenizer (a word is not a token), or one that cannot be read.
    """
    if texts is None:
        return synthetic_lengths(size.texts).clip(max=size.padded), SYNTHETIC
    if tokenizer is None:
        raise UserError(f"--texts {texts}: its lengths are counted in tokens; name a tokenizer with --tokenizer DIR.")
    lines = [line for line in read_lines(texts, "--texts") if line.strip()]
    if not lines:
        raise UserError(f"--texts {texts}: holds no text; give one a line.")
    try:
        counted = AutoTokenizer.from_pretrained(tokenizer, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"--tokenizer {tokenizer}: no tokenizer can be loaded from there ({error}).") from error
    encodings = encode([(line,) for line in lines[: size.texts]], counted, size.padded)
    return encodings.lengths, f"{texts.name}: {len(encodings)} texts"
