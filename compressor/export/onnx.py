"""ONNX directories of a saved classifier; each opens with `ORTModelForSequenceClassification` and `pipeline`."""

import contextlib
import io
import logging
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compressor.errors import UserError, nearest
from compressor.export.optimize import count_fused, fuse, onnx_bytes
from compressor.export.quantize import quantize
from compressor.model.load import ModelSource, find_model, load_classifier, load_tokenizer
from compressor.progress import Track, silent


@dataclass(frozen=True)
class VariantFile:
    """One ONNX variant on disk. `bytes` counts the weights wherever they lie; `fused` counts fused nodes by kind."""

    path: Path
    bytes: int
    fused: dict[str, int]
    seconds: float


def export_plain(source: ModelSource, work: Path) -> Path:
    """Export the model as it is, float32, with dynamic batch and sequence axes; return the file."""
    file = _file(work, "fp32")
    if not file.exists():
        from optimum.exporters.onnx import onnx_export_from_model

        # from the loaded model, not the directory: an export that loads by itself gives a missing head random weights
        model = load_classifier(source)
        onnx_export_from_model(model, file.parent, task="text-classification", do_validation=False)
    return file


def export_optimized(source: ModelSource, work: Path) -> Path:
    """Export the model with its attention, skip + LayerNorm and bias + GELU nodes fused; return the file."""
    file = _file(work, "optimized")
    if not file.exists():
        fuse(export_plain(source, work), file, source.config)
    return file


def export_int8(source: ModelSource, work: Path) -> Path:
    """Export the fused graph with 8-bit weights and dynamically quantised activations; return the file."""
    file = _file(work, "int8")
    if not file.exists():
        quantize(export_optimized(source, work), file)
    return file


VARIANTS: dict[str, Callable[[ModelSource, Path], Path]] = {  # keys = ExportSpec.variants
    "fp32": export_plain,
    "optimized": export_optimized,
    "int8": export_int8,
}

SPACE = {"fp32": 1.0, "optimized": 2.0, "int8": 3.5}
"""Free disk space that each variant needs while it is made, with those it is made from, in sizes of the weights."""


def export_variants(
    model_dir: Path,
    out_dir: Path,
    variants: Sequence[str],
    *,
    check: Callable[[str, Path], None] = lambda _name, _file: None,
    track: Track = silent,
) -> dict[str, VariantFile]:
    """Write out_dir/VARIANT/{model.onnx, config.json, tokenizer files} for each variant, whole or not at all.

    `model_dir` is the directory of a fine-tuned classifier; variants already in `out_dir` are replaced. A step that
    variants share is done once, and its time counts for the first that needs it. Raises UserError for an unknown
    variant, a directory that is no usable model or too little free disk space, RuntimeError when nodes failed to fuse,
    OSError from the disk. `check(variant, file)` may raise before anything in `out_dir` is replaced.
    """
    variants = list(dict.fromkeys(variants))
    for name in variants:
        if name not in VARIANTS:
            raise UserError(f"export: no variant {name!r}{nearest(name, VARIANTS)}; choose from {', '.join(VARIANTS)}.")
    source = find_model(str(model_dir))
    out_dir.mkdir(parents=True, exist_ok=True)
    _check_space(source, out_dir, variants)
    seconds = {}
    # inside out_dir: its parent may be another file system, or closed to this user
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as folder:
        work = Path(folder)
        for name in track(variants, "ONNX export"):
            started = time.perf_counter()
            with quiet():
                file = VARIANTS[name](source, work)
                load_tokenizer(source).save_pretrained(file.parent)
            shutil.copyfile(source.path / "config.json", file.parent / "config.json")
            seconds[name] = time.perf_counter() - started
        for name in variants:
            check(name, _file(work, name))
        # only now, because a variant is made from the files of another
        for name in variants:
            _replace(work / name, out_dir / name)
    paths = {name: out_dir / name / "model.onnx" for name in variants}
    return {name: VariantFile(path, onnx_bytes(path), count_fused(path), seconds[name]) for name, path in paths.items()}


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


def _file(work: Path, variant: str) -> Path:
    folder = work / variant
    folder.mkdir(exist_ok=True)
    return folder / "model.onnx"


def _check_space(source: ModelSource, out_dir: Path, variants: Sequence[str]) -> None:
    """Refuse a disk that would fill up: ONNX Runtime then reports a damaged graph, not a full disk."""
    files = list(source.path.glob("*.safetensors")) or list(source.path.glob("*.bin"))
    weights = sum(file.stat().st_size for file in files)
    through_temporary = 1.0 if set(variants) & {"optimized", "int8"} else 0.0
    needs = (out_dir, max((SPACE[name] for name in variants), default=0.0)), (tempfile.gettempdir(), through_temporary)
    for folder, times in needs:
        free = shutil.disk_usage(folder).free
        if free < times * weights:
            raise UserError(
                f"{folder}: the export needs about {times * weights / 1e6:,.0f} MB of free disk space there, "
                f"{free / 1e6:,.0f} MB are free; free some, or give another output folder or TMPDIR."
            )


def _replace(folder: Path, target: Path) -> None:
    """Move a finished folder to its place; what stood there goes first, so that files of two exports never mix."""
    if target.exists():
        shutil.rmtree(target)
    folder.replace(target)
