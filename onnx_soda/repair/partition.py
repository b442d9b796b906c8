"""Splits the clean images, so that a repair is not measured by what it was made from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from onnx_soda.data.datasets import CleanSet
from onnx_soda.data.sources import IntArray, SubsetSource

__all__ = ["Partition", "partition", "subset"]

# Share of each class to measure with; the rest is split evenly into folds.
_MEASURE, _FOLDS = 0.25, 3
# The most images of one fold, and to measure with. More teach a last layer little and cost time.
_MOST = 2000


@dataclass(frozen=True, eq=False)
class Partition:
    """Positions in a clean set; no two parts share one.

    Attributes:
        folds: What weights are trained on. Each setting is judged on each fold after training on
            the others (cross-validation); the one chosen is trained on all.
        measure: What the result is measured with; nothing else sees it.
    """

    folds: tuple[IntArray, ...]
    measure: IntArray

    @property
    def train(self) -> IntArray:
        """All folds together."""
        return np.sort(np.concatenate(self.folds))


def partition(labels: IntArray, seed: int) -> Partition:
    """Split each class: a quarter to measure with, three folds to train on and to choose by.

    Args:
        labels: Shape (images,).
        seed: For the draw.
    """
    rng = np.random.default_rng(seed)
    parts: tuple[list[IntArray], ...] = tuple([] for _ in range(_FOLDS + 1))
    present = np.unique(labels)
    most = max(_MOST // len(present), 2)
    for label in present:
        own = rng.permutation(np.flatnonzero(labels == label))
        measure, rest = np.split(own, [round(_MEASURE * len(own))])
        for part, rows in zip(parts, (measure, *np.array_split(rest, _FOLDS)), strict=True):
            part.append(rows[:most])
    measured, *folds = (np.sort(np.concatenate(part)).astype(np.int64) for part in parts)
    return Partition(tuple(folds), measured)


def subset(clean: CleanSet, rows: IntArray) -> CleanSet:
    """Return some images of a clean set as a clean set."""
    return replace(clean, labels=clean.labels[rows], images=SubsetSource(clean.images, rows))
