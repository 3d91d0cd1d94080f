"""16-bit files: weights and computation in float16, inputs and logits as in the other files."""

from pathlib import Path

import onnx

from compressor.export.optimize import large


def to_half(source: Path, target: Path) -> None:
    """Write the float16 form of the fused ONNX graph `source` to `target`; token ids go in and float32 logits come out.

    Made without a GPU. Constants beyond float16's range become its largest numbers; states beyond it become infinite,
    which only real text shows (`export/parity.py`).
    """
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = OnnxModel(onnx.load(str(source)))
    model.convert_float_to_float16(keep_io_types=True)
    model.save_model_to_file(str(target), use_external_data_format=large(source))
