"""Finds semantic backdoors in ONNX image classifiers by causal intervention.

>>> from onnx_soda import scan_file
>>> report = scan_file("model.onnx", "clean.h5")  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
'clean'

`scan_file` opens the model in a child process with limits. `scan` does it in this process, for
models that are trusted not to attack what reads them:

>>> from onnx_soda import load_dataset, load_model, scan
>>> report = scan(load_model("model.onnx"), load_dataset("clean.h5"))  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnx_soda.data.datasets import CleanSet, load_dataset
    from onnx_soda.errors import SodaError
    from onnx_soda.model.load import OnnxModel, load_model
    from onnx_soda.options import ScanOptions
    from onnx_soda.report.schema import ScanReport
    from onnx_soda.sandbox.files import (
        convert_file,
        diff_files,
        inspect_file,
        repair_file,
        scan_file,
    )
    from onnx_soda.sandbox.limits import Limits
    from onnx_soda.scanner import scan

__all__ = [
    "CleanSet",
    "Limits",
    "OnnxModel",
    "ScanOptions",
    "ScanReport",
    "SodaError",
    "convert_file",
    "diff_files",
    "inspect_file",
    "load_dataset",
    "load_model",
    "repair_file",
    "scan",
    "scan_file",
]

# Imported when asked for: what only hands a job to a child process does not wait for ONNX.
_HOMES = {
    "CleanSet": "onnx_soda.data.datasets",
    "Limits": "onnx_soda.sandbox.limits",
    "OnnxModel": "onnx_soda.model.load",
    "ScanOptions": "onnx_soda.options",
    "ScanReport": "onnx_soda.report.schema",
    "SodaError": "onnx_soda.errors",
    "convert_file": "onnx_soda.sandbox.files",
    "diff_files": "onnx_soda.sandbox.files",
    "inspect_file": "onnx_soda.sandbox.files",
    "load_dataset": "onnx_soda.data.datasets",
    "load_model": "onnx_soda.model.load",
    "repair_file": "onnx_soda.sandbox.files",
    "scan": "onnx_soda.scanner",
    "scan_file": "onnx_soda.sandbox.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
