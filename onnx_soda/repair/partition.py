"""Splits the clean images in three, so that a repair is not measured by what it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.sources import IntArray, SubsetSource

__all__ = ["Partition", "partition", "subset"]

# Shares of each class to train on and to choose by; the rest is to measure with.
_TRAIN, _CHOOSE = 0.5, 0.25
# The most images of one part. More teach a last layer little and cost time.
_MOST = 3000


@dataclass(frozen=True, eq=False)
class Partition:
    """Positions in a clean set; no two parts share one.

    Attributes:
        train: What weights are trained on.
        choose: What settings are chosen by; trained on, too, once they are.
        measure: What the result is measured with; nothing else sees it.
    """

    train: IntArray
    choose: IntArray
    measure: IntArray


def partition(labels: IntArray, seed: int) -> Partition:
    """Split each class: half to train on, a quarter to choose by, a quarter to measure with.

    Args:
        labels: Shape (images,).
        seed: For the draw.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = ([], [], [])
    present = np.unique(labels)
    most = max(_MOST // len(present), 2)
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))
        first, second = round(_TRAIN * len(own)), round((_TRAIN + _CHOOSE) * len(own))
        for part, rows in zip(parts, np.split(own, [first, second]), strict=True):
            part.append(rows[:most])
    return Partition(*(np.sort(np.concatenate(part)).astype(np.int64) for part in parts))


def subset(clean: CleanSet, rows: IntArray) -> CleanSet:
    """Return some images of a clean set as a clean set."""
    return replace(clean, labels=clean.labels[rows], images=SubsetSource(clean.images, rows))
