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


def __getattr__(name: str) -> object:
    """Find a public name; `lazy_loader` does it, and is imported when one is first asked for.

    So a command that hands its job to a child process waits neither for ONNX nor for that list.
    """
    import lazy_loader

    found = lazy_loader.attach_stub(__name__, __file__)
    globals().update(zip(("__getattr__", "__dir__", "__all__"), found, strict=True))
    return globals()[name] if name in globals() else globals()["__getattr__"](name)


def __dir__() -> list[str]:
    """List the public names."""
    __getattr__("__all__")
    return list(globals()["__dir__"]())
