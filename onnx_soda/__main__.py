"""`python -m onnx_soda` is `onnx-soda`."""

from onnx_soda.cli.app import main

main()
