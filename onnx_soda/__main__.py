"""`python -m onnx_soda` is `onnx-soda`."""

from onnx_soda._cli.app import main

main()
