"""ONNX directories of a saved classifier; each opens with `ORTModelForSequenceClassification` and `pipeline`."""

import contextlib
import gc
import io
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from compressor.data.answers.config import by_token
from compressor.data.answers.kinds import Task
from compressor.errors import UserError, nearest
from compressor.export.beside import text_settings, write_beside
from compressor.export.calibration import invented
from compressor.export.half import to_half
from compressor.export.optimize import count_operators, fuse, fused_nodes, onnx_bytes, share_weights
from compressor.export.quantize import quantize
from compressor.export.tail import with_tail, without_dead_nodes
from compressor.files import WRITTEN, check_target, publish, spare_readmes, write_json, written_before
from compressor.measurement.cost import weight_bytes
from compressor.measurement.machine.environment import int8_is_fast
from compressor.model.cls_row import form_for
from compressor.model.families import family_of
from compressor.model.files.weights import stored_precision
from compressor.model.load import ModelSource, find_model, load_classifier, load_tokenizer, longest_input
from compressor.progress import Track, silent


@dataclass(frozen=True)
class VariantFile:
    """One ONNX variant on disk. `bytes` counts the weights wherever they lie.

    `operators` are its nodes by kind, `exported` those of the graph it was made from, as the exporter left it.
    """

    path: Path
    bytes: int
    operators: dict[str, int]
    exported: dict[str, int]
    seconds: float

    @property
    def fused(self) -> dict[str, int]:
        """The nodes that stand for several others."""
        return fused_nodes(self.operators)


@dataclass(frozen=True)
class Job:
    """What is exported and where the files are made; `form` is that of the CLS-only tail, None for none.

    `model` loads the classifier of `config` (config.json), `tokenizer` what files in 8 bits need beside it.
    """

    model: Callable[[], PreTrainedModel]
    config: dict[str, Any]
    work: Path
    form: str | None
    opset: int | None
    tokenizer: Callable[[], PreTrainedTokenizerBase] | None = None

    @classmethod
    def of(cls, source: ModelSource, work: Path, form: str | None, opset: int | None) -> "Job":
        """Return the job for a directory of a classifier; its tail has the form that the model allows."""
        own = form_for(source.config, form)
        return cls(lambda: load_classifier(source), source.config, work, own, opset, lambda: load_tokenizer(source))

    def file(self, name: str) -> Path:
        """Return the file of a variant or of a step on the way to one."""
        return self.work / name / "model.onnx"

    def made(self, name: str, make: Callable[[Path], None]) -> Path:
        """Return the same file, written by `make` where it is not there yet."""
        file = self.file(name)
        file.parent.mkdir(exist_ok=True)
        if not file.exists():
            make(file)
            if family_of(self.config["model_type"]).groups_key:
                share_weights(file)
            if onnx_bytes(file) > HEAVY:
                gc.collect()
        return file


def export_plain(job: Job) -> Path:
    """Export the model as it is, float32, with dynamic batch and sequence axes; return the file."""
    # from the loaded model, not the directory: an export that loads by itself gives a missing head random weights
    return job.made("fp32", lambda file: _export(job.model(), file, job.opset))


def export_spared(job: Job) -> Path:
    """Export the model with what changes no prediction left out: rows of the last layer, dead nodes of the head."""
    if job.file(".spared").exists():
        return job.file(".spared")
    if by_token(job.config):  # all tokens are read, and no node of a head stands between
        return export_plain(job)
    model, family = job.model(), family_of(job.config["model_type"])
    spared = without_dead_nodes(model, family)
    if job.form is not None:
        spared = with_tail(spared, family, job.form)
    if spared is model:
        return export_plain(job)
    return job.made(".spared", lambda file: _export(spared, file, job.opset))


def export_alltokens(job: Job) -> Path:
    """Export the model as it is with its attention, skip + LayerNorm and bias + GELU nodes fused; return the file."""
    return job.made("alltokens", lambda file: fuse(export_plain(job), file, job.config))


def export_optimized(job: Job) -> Path:
    """Export the fused graph without what changes no prediction; return the file."""
    tail = job.form is not None
    return job.made("optimized", lambda file: fuse(export_spared(job), file, job.config, tail=tail))


def export_fp16(job: Job) -> Path:
    """Export the fused graph in float16, for GPUs; return the file."""
    return job.made("fp16", lambda file: to_half(export_optimized(job), file))


def export_int8(job: Job) -> Path:
    """Export the fused graph with 8-bit weights and activations quantised row by row; return the file."""

    def make(file: Path) -> None:
        batches = invented(job.tokenizer(), job.config["vocab_size"], longest_input(job.config))
        quantize(export_optimized(job), file, batches)

    return job.made("int8", make)


VARIANTS: dict[str, Callable[[Job], Path]] = {  # keys = ExportSpec.variants
    "fp32": export_plain,
    "alltokens": export_alltokens,
    "optimized": export_optimized,
    "fp16": export_fp16,
    "int8": export_int8,
}

HEAVY = 100_000_000
"""Bytes from which on it pays to collect what exporters leave behind: cycles that hold a copy of all weights, or several."""

STOCK = "fp32", "alltokens"
"""Variants that compute all that the Hugging Face model computes."""

SPACE = {"fp32": 1.0, "alltokens": 2.0, "optimized": 2.0, "fp16": 2.5, "int8": 3.5}
"""Free disk space that each variant needs while it is made, with those it is made from, in sizes of the weights."""


def export_variants(
    model_dir: Path,
    out_dir: Path,
    variants: Sequence[str],
    *,
    form: str | None = "reassociated",
    opset: int | None = None,
    max_length: int | None = None,
    texts: int | None = None,
    task: Task | None = None,
    check: Callable[[str, Path], None] = lambda _name, _file: None,
    track: Track = silent,
) -> dict[str, VariantFile]:
    """Write out_dir/VARIANT/{model.onnx, config.json, tokenizer and what `write_beside` adds}, whole or not at all.

    `model_dir` is the directory of a fine-tuned classifier; variants already in `out_dir` are replaced. A step that
    variants share is done once, and its time counts for the first that needs it. `form` of the CLS-only tail (None: all
    rows) concerns the variants behind `optimized`; `opset` None leaves the version of the operators to Optimum.
    `max_length` (tokens, None: as many as model and tokenizer allow) and `texts` a row (1, 2, None: unknown) are what
    `Classifier` goes by, and so is the `task` (None: that of the model). A README.md of the user's stays.
    `check(variant, file)` may raise before anything in `out_dir` is replaced.

    Raises UserError for an unknown variant, a directory that is no usable model or too little free disk space,
    RuntimeError when nodes failed to fuse, OSError from the disk.
    """
    variants = list(dict.fromkeys(variants))
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"export: no variant {name!r}{nearest(name, VARIANTS)}; choose from {', '.join(VARIANTS)}.")
        check_target(out_dir / name, folder=True)
    source = find_model(str(model_dir))
    out_dir.mkdir(parents=True, exist_ok=True)
    _check_space(source, out_dir, variants)
    seconds, exported = {}, {}
    # inside out_dir: its parent may be another file system, or closed to this user
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as folder:
        job = Job.of(source, Path(folder), form, opset)
        for name in track(variants, "ONNX export"):
            started = time.perf_counter()
            with quiet():
                file = VARIANTS[name](job)
                load_tokenizer(source).save_pretrained(file.parent)
            shutil.copyfile(source.path / "config.json", file.parent / "config.json")
            seconds[name] = time.perf_counter() - started
            graph = export_plain(job) if name in STOCK else export_spared(job)
            exported[name] = count_operators(graph)
        for name in variants:
            check(name, job.file(name))
        # only now, because a variant is made from the files of another
        tokenizer = load_tokenizer(source)
        longest = max_length or min(longest_input(source.config), tokenizer.model_max_length)
        settings = text_settings(
            tokenizer, source.label_names, max_length=longest, texts=texts, task=task or source.task
        )
        for name in variants:
            write_beside(job.work / name, name, settings)
            before = written_before(out_dir / name)
            spare_readmes(job.work / name, out_dir / name, before)
            written = job.work / name / WRITTEN
            files = sorted(path.name for path in (job.work / name).iterdir())
            write_json(written, [*files, WRITTEN])
            # exports of earlier versions kept no account: of theirs only weights beside the graph are in the way
            publish(job.work / name, out_dir / name, before or ["model.onnx_data"])
    paths = {name: out_dir / name / "model.onnx" for name in variants}
    return {
        name: VariantFile(path, onnx_bytes(path), count_operators(path), exported[name], seconds[name])
        for name, path in paths.items()
    }


def export_graph(model: PreTrainedModel, variant: str, folder: Path, form: str | None, opset: int | None) -> Path:
    """Write one variant of a classifier in memory, all but `int8`, into an empty folder and return the file, the graph alone."""
    with quiet():
        return VARIANTS[variant](Job(lambda: model, model.config.to_dict(), folder, form, opset))


def variants_for(wanted: Sequence[str] | str, device: str, instructions: Collection[str]) -> list[str]:
    """Return the variants to make: those named, or for `auto` the ones that may be the fastest on this machine.

    float16 needs a GPU to be fast, int8 a processor that multiplies 8-bit numbers; `optimized` is what both are compared
    with.
    """
    if wanted != "auto":
        return list(wanted)
    if device.startswith("cuda"):
        return ["optimized", "fp16"]
    return ["optimized", "int8"] if int8_is_fast(instructions) else ["optimized"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hide what exporters print, warn and log, and put the logging settings back afterwards."""
    root, placeholder, disabled = logging.getLogger(), logging.NullHandler(), logging.root.manager.disable
    # onnxruntime logs through `logging.warning`, which would otherwise give the root logger a handler for good
    root.addHandler(placeholder)
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        root.removeHandler(placeholder)


def _export(model: PreTrainedModel, file: Path, opset: int | None) -> None:
    from optimum.exporters.onnx import onnx_export_from_model

    task = "token-classification" if by_token(model.config.to_dict()) else "text-classification"
    onnx_export_from_model(model, file.parent, task=task, opset=opset, do_validation=False)


def _check_space(source: ModelSource, out_dir: Path, variants: Sequence[str]) -> None:
    """Refuse a disk that would fill up: ONNX Runtime then reports a damaged graph, not a full disk."""
    narrow = stored_precision(source.path) != "float32"  # the graph's weights are float32 all the same
    weights = weight_bytes(source.path) * (2 if narrow else 1)
    through_temporary = 1.0 if set(variants) - {"fp32"} else 0.0
    # the stock graph and the spared one are two, where both are wanted
    both = 2.0 if set(STOCK) & set(variants) and set(variants) - set(STOCK) else 0.0
    peak = max((SPACE[name] for name in variants), default=0.0) + both
    needs = (out_dir, peak), (tempfile.gettempdir(), through_temporary)
    for folder, times in needs:
        free = shutil.disk_usage(folder).free
        if free < times * weights:
            raise UserError(
                f"{folder}: the export needs about {times * weights / 1e6:,.0f} MB of free disk space there, "
                f"{free / 1e6:,.0f} MB are free; free some, or give another output folder or TMPDIR."
            )
