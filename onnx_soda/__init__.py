"""Finds semantic backdoors in ONNX image classifiers by causal intervention.

>>> from onnx_soda import load_dataset, load_model, scan
>>> report = scan(load_model("model.onnx"), load_dataset("clean.h5"))  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
'clean'
"""

from onnx_soda.data.datasets import CleanSet, load_dataset
from onnx_soda.errors import SodaError
from onnx_soda.model.load import OnnxModel, load_model
from onnx_soda.options import ScanOptions
from onnx_soda.report.schema import ScanReport
from onnx_soda.scan import scan

__all__ = [
    "CleanSet",
    "OnnxModel",
    "ScanOptions",
    "ScanReport",
    "SodaError",
    "load_dataset",
    "load_model",
    "scan",
]
