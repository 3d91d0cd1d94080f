"""The stage that exports the full model in the same variants: the opponent of the benchmark, in the same format."""

from pathlib import Path

from compressor.files import write_json
from compressor.run.run import Run
from compressor.run.variants import FULL_ONNX
from compressor.stages.onnx.onnx import export, inputs
from compressor.stages.stage import Stage


def compute(run: Run, folder: Path) -> None:
    """Export the full model in the same variants: the opponent of the benchmark, in the same format."""
    (folder / FULL_ONNX).mkdir()
    files = export(run, run.teacher_source.path, folder / FULL_ONNX, run.full_variants)
    write_json(folder / f"{FULL_ONNX}.json", files)


STAGE = Stage(
    FULL_ONNX,
    (FULL_ONNX, f"{FULL_ONNX}.json"),
    ("teacher", "tail"),
    inputs,
    compute,
    lambda run: ", ".join(run.full_variants) or "none",
)
