"""Classify texts with an exported folder: ONNX Runtime, numpy and tokenizers are all it needs; no torch, no transformers."""

from compressor.runtime.classifier import Classifier

__all__ = ["Classifier"]
