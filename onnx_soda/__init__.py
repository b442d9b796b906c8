"""Finds semantic backdoors in ONNX image classifiers by causal intervention.

All that is public is imported from here; `__init__.pyi` beside this file lists it.

>>> from onnx_soda import scan_file
>>> report = scan_file("model.onnx", "clean.h5")  # doctest: +SKIP
>>> report.verdict  # doctest: +SKIP
'clean'

`scan_file` opens the model in a child process with limits. `scan` does it in this process, for
models that are trusted not to attack what reads them:

>>> from onnx_soda import load_dataset, load_model, scan
>>> report = scan(load_model("model.onnx"), load_dataset("clean.h5"))  # doctest: +SKIP
"""

import lazy_loader

# What only hands a job to a child process does not wait for ONNX.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
