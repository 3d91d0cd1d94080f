"""The stages that write ONNX files."""
