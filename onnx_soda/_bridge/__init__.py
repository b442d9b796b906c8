"""ONNX to torch and back; needs the `[repair]` extra, which brings torch."""
