"""Turns what onnx and onnx-ir raise on a malformed graph into an error that names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx

from onnx_soda.errors import ModelFileError, first_line

__all__ = ["well_formed"]

# What onnx and onnx-ir raise on graphs that are none; most of onnx-ir's are RuntimeErrors.
_MALFORMED = (
    onnx.checker.ValidationError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


@contextmanager
def well_formed(file: str) -> Iterator[None]:
    """Turn a library's complaint about a graph into one that names the file.

    Args:
        file: File name to show.

    Raises:
        ModelFileError: The body raised one of the errors that a malformed graph causes.
    """
    try:
        yield
    except _MALFORMED as error:
        raise ModelFileError(
            f"{file} is not valid ONNX: {_root_cause(error)}", "Export it again."
        ) from error


def _root_cause(error: BaseException) -> str:
    """Return the first line of the innermost error: onnx-ir wraps the real one several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
