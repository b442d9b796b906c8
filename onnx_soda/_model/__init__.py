"""Reads ONNX files, finds what matters in their graphs, and runs them."""
