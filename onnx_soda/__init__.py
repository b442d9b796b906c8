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
    from onnx_soda._api import (
        convert_file,
        diff_files,
        inspect_file,
        repair_file,
        scan_file,
    )
    from onnx_soda._data.datasets import CleanSet, load_dataset
    from onnx_soda._errors import SodaError
    from onnx_soda._model.load import OnnxModel, load_model
    from onnx_soda._options import Limits, ScanOptions
    from onnx_soda._results import ScanReport
    from onnx_soda._scan import scan

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
    "CleanSet": "onnx_soda._data.datasets",
    "Limits": "onnx_soda._options",
    "OnnxModel": "onnx_soda._model.load",
    "ScanOptions": "onnx_soda._options",
    "ScanReport": "onnx_soda._results",
    "SodaError": "onnx_soda._errors",
    "convert_file": "onnx_soda._api",
    "diff_files": "onnx_soda._api",
    "inspect_file": "onnx_soda._api",
    "load_dataset": "onnx_soda._data.datasets",
    "load_model": "onnx_soda._model.load",
    "repair_file": "onnx_soda._api",
    "scan": "onnx_soda._scan",
    "scan_file": "onnx_soda._api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
