"""ONNX files of a saved model: plain, fused and 8-bit, and the check that they still answer alike."""
