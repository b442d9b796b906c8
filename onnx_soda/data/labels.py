"""Labels as stored, in any of the usual forms, to one int64 per image."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnx_soda.data.sources import IntArray
from onnx_soda.errors import LabelError

__all__ = ["as_labels"]

# No classifier has this many classes; a larger number is not a label, and would overflow int64.
_LABEL_LIMIT = 2**31

_ADVICE = "Store labels as whole numbers from 0, shape (N,), or one-hot, shape (N, classes)."


def as_labels(stored: Any, images: int, name: str) -> IntArray:
    """Turn stored labels into class numbers.

    Args:
        stored: Whole numbers of any type, shape (N,) or (N, 1), or one-hot rows (N, classes): an
            array, or an HDF5 data set, which is read only if its length is right.
        images: Number of images, which must be N.
        name: What to call the labels in an error.

    Returns:
        (N,) int64, none negative.

    Raises:
        LabelError: Another type or shape, not N of them, negative or not whole.
    """
    if stored.dtype.kind not in "iubf" or stored.ndim not in {1, 2}:
        raise LabelError(
            f"{name} has elements of type {stored.dtype} in {stored.ndim} dimensions, "
            "which are not labels",
            _ADVICE,
        )
    if len(stored) != images:
        raise LabelError(
            f"{name} has {len(stored)} labels for {images} images",
            "Give one label per image, in the same order.",
        )
    values = np.asarray(stored)
    if values.ndim == 2 and values.shape[1] != 1:
        return _from_one_hot(values, name)
    return _from_numbers(values.reshape(-1), name)


def _from_one_hot(stored: NDArray[Any], name: str) -> IntArray:
    wrong = ((stored != 0).sum(axis=1) != 1) | ((stored == 1).sum(axis=1) != 1)
    if wrong.any():
        raise LabelError(
            f"{name} has {stored.shape[1]} columns, but row {wrong.argmax()} is not one-hot "
            "(a single 1, else 0)",
            _ADVICE,
        )
    return np.asarray(stored.argmax(axis=1), dtype=np.int64)


def _from_numbers(stored: NDArray[Any], name: str) -> IntArray:
    if stored.dtype.kind == "f":
        stored = stored.astype(np.float64)  # in which the limit can be told
    # NaN compares false, so it counts as wrong too.
    right = (stored >= 0) & (stored < _LABEL_LIMIT)
    right[right] = stored[right] == np.trunc(stored[right])
    if not right.all():
        first = right.argmin()
        raise LabelError(
            f"{name}: label {first} is {stored[first]}, which is not a class number", _ADVICE
        )
    return stored.astype(np.int64)
