"""Labels against the model's classes, and a sample that has as many images of each class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnx_soda.data.sources import IntArray
from onnx_soda.errors import LabelError

__all__ = ["balanced_sample", "check_labels"]

_SHOWN = 8  # most classes named in one error message


def balanced_sample(
    labels: IntArray, n_classes: int, per_class: int, rng: np.random.Generator
) -> IntArray:
    """Draw images, the same number of each class as far as there are enough.

    Args:
        labels: (N,) classes.
        n_classes: Number of classes of the model.
        per_class: Most images to draw of each class.
        rng: Source of randomness; the same state gives the same sample.

    Returns:
        Positions in increasing order, drawn without replacement.
    """
    drawn = [
        rng.permutation(np.flatnonzero(labels == class_number))[:per_class]
        for class_number in range(n_classes)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def check_labels(
    labels: IntArray,
    n_classes: int,
    class_names: Sequence[str] | None = None,
    *,
    allow_missing: bool = False,
) -> None:
    """Check that labels are classes of the model, and that each class has images.

    Args:
        labels: (N,) classes, none negative.
        n_classes: Number of classes of the model.
        class_names: Names for the error message.
        allow_missing: Accept classes without images.

    Raises:
        LabelError: A label is not among 0..n_classes - 1, or a class has no images.
    """
    found = np.unique(labels)
    outside = found[(found < 0) | (found >= n_classes)]
    if outside.size:
        raise LabelError(
            f"labels outside the model's classes 0..{n_classes - 1}: "
            f"{_listed(outside, class_names)}",
            "Use the data set whose classes the model was trained on, numbered in the same order.",
        )
    missing = np.setdiff1d(np.arange(n_classes), found)
    if missing.size and not allow_missing:
        raise LabelError(
            f"classes without images: {_listed(missing, class_names)}",
            "Add images of these classes, or allow them to be missing: --allow-missing-classes.",
        )


def _listed(classes: IntArray, class_names: Sequence[str] | None) -> str:
    named = class_names or ()
    shown = [
        f"{number} ({named[number]})" if 0 <= number < len(named) else str(number)
        for number in map(int, classes[:_SHOWN])
    ]
    more = f" and {len(classes) - _SHOWN} more" if len(classes) > _SHOWN else ""
    return ", ".join(shown) + more
