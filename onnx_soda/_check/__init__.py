"""Looks at files of any framework and runs nothing: `onnx-soda check`."""
