"""Whether two programs compute the same: torch's module and ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["relative_difference", "tolerance_of"]

# What float32 loses in a deep network; what half precision does.
_TOLERANCE = 1e-4
_HALF_TOLERANCE = 1e-2


def relative_difference(found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]]) -> float:
    """Return the largest difference, as a share of the largest value wanted.

    A share of the largest value of the same tensor, not of each value by itself: scores near zero
    are differences of large numbers, and untrained networks have huge or tiny ones throughout. Of
    tensors of integers (labels) it is the share of unequal elements. Of several tensors, the worst
    counts.

    Args:
        found: Tensors to judge.
        wanted: What they should be; all may be of any floating point or integer type.

    Returns:
        0 if equal, infinity where a shape differs or one is no number where the other is.
    """
    pairs = list(zip(found, wanted, strict=True))
    return max((_difference(one, other) for one, other in pairs), default=0.0)


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    if found.shape != wanted.shape:
        return float("inf")
    if not np.issubdtype(wanted.dtype, np.floating):
        return float((found != wanted).mean()) if wanted.size else 0.0
    one, other = found.astype(np.float64), wanted.astype(np.float64)
    finite = np.isfinite(other)
    if not np.array_equal(np.where(finite, 0, one), np.where(finite, 0, other), equal_nan=True):
        return float("inf")
    if not np.isfinite(one[finite]).all():
        return float("inf")
    difference = float(np.abs(one[finite] - other[finite]).max(initial=0))
    largest = float(np.abs(other[finite]).max(initial=0))
    return difference / largest if largest else difference


def tolerance_of(outputs: Sequence[NDArray[Any]]) -> float:
    """Return the largest relative difference that rounding explains, by the outputs' type."""
    half = any(array.dtype == np.float16 for array in outputs)
    return _HALF_TOLERANCE if half else _TOLERANCE
