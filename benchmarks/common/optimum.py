"""The full model's files as Optimum's documentation makes them: O2, 8 bits for this processor, O4 (float16) for GPUs."""

import shutil
from pathlib import Path

from compressor.export.onnx import quiet
from compressor.measurement.machine.environment import processor

INT8 = {"avx512_vnni": "avx512_vnni", "avx512f": "avx512", "avx2": "avx2", "neon": "arm64", "asimd": "arm64"}
"""Instruction set -> Optimum's configuration for it, the best first."""


def optimum_files(source: Path, folder: Path) -> str | None:
    """Write folder/O2 and folder/int8, each with a model.onnx, of the classifier in `source`.

    Returns Optimum's configuration for 8 bits on this processor; None where it has none, and then there is no folder/int8.
    """
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

    instructions = processor()["instructions"]
    name = next((config for known, config in INT8.items() if known in instructions), None)
    with quiet():
        model = ORTModelForSequenceClassification.from_pretrained(source, export=True)
        model.save_pretrained(folder / "plain")
        ORTOptimizer.from_pretrained(model).optimize(
            save_dir=folder / "O2", optimization_config=AutoOptimizationConfig.O2()
        )
        (folder / "O2" / "model_optimized.onnx").rename(folder / "O2" / "model.onnx")
        if name is not None:
            # from the plain file: the quantizer raises on a fused one
            ORTQuantizer.from_pretrained(folder / "plain").quantize(
                save_dir=folder / "int8", quantization_config=getattr(AutoQuantizationConfig, name)(is_static=False)
            )
            (folder / "int8" / "model_quantized.onnx").rename(folder / "int8" / "model.onnx")
    shutil.rmtree(folder / "plain")
    return name


def optimum_half(source: Path, folder: Path) -> None:
    """Write folder/O4/model.onnx of the classifier in `source`: fused for a GPU, in float16. A GPU is needed."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTOptimizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig

    with quiet():
        model = ORTModelForSequenceClassification.from_pretrained(source, export=True)
        config = AutoOptimizationConfig.O4()
        ORTOptimizer.from_pretrained(model).optimize(save_dir=folder / "O4", optimization_config=config)
        (folder / "O4" / "model_optimized.onnx").rename(folder / "O4" / "model.onnx")
