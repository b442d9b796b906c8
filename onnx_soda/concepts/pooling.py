"""Brings a hidden tensor to one row of numbers per image: averages over a coarse grid of places.

The same arithmetic in NumPy, to fit reference heads, and as graph nodes, to read them in a probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda.concepts.wiring import Wiring

__all__ = ["Pooling", "make_pooling"]

FloatArray = NDArray[np.float64]

# A head is fitted to at most this many numbers per image: the fit's time grows with them.
_MOST_FEATURES = 768
_FINEST_GRID = 4


@dataclass(frozen=True, eq=False)
class Pooling:
    """How a tensor becomes features.

    Attributes:
        name: The tensor.
        axis: Its axis of neurons.
        rank: Its number of axes.
        matrix: Share of each place in each cell, shape (places, cells); None where the tensor has
            one row of neurons per image already.
    """

    name: str
    axis: int
    rank: int
    matrix: FloatArray | None

    def apply(self, values: NDArray[np.generic]) -> FloatArray:
        """Return features, shape (images, neurons x cells), of values (images, ...)."""
        if self.matrix is None:
            return values.astype(np.float64)
        rows = np.moveaxis(values, self.axis, 1)
        cells = rows.reshape(*rows.shape[:2], -1).astype(np.float64) @ self.matrix
        return cells.reshape(len(cells), -1)

    def wire(self, wiring: Wiring, value: ir.Value) -> ir.Value:
        """Add the nodes that compute the same."""
        if self.matrix is None:
            return value
        if self.axis != 1:
            order = [0, self.axis, *(i for i in range(1, self.rank) if i != self.axis)]
            value = wiring.op("Transpose", value, perm=order)
        rows = wiring.op("Reshape", value, wiring.constant([0, 0, -1], np.int64))
        cells = wiring.op("MatMul", rows, wiring.constant(self.matrix))
        return wiring.op("Reshape", cells, wiring.constant([0, -1], np.int64))


def make_pooling(name: str, axis: int, shape: tuple[int, ...], grid: bool) -> Pooling:
    """Choose how a tensor becomes features.

    Args:
        name: The tensor.
        axis: Its axis of neurons.
        shape: Its shape, images first.
        grid: Keep up to 4 x 4 cells of a feature map apart, as far as the number of features
            allows; else, and for token sequences, average over all places.
    """
    places = tuple(size for i, size in enumerate(shape) if i not in (0, axis))
    if not places:
        return Pooling(name, axis, len(shape), None)
    if not grid or len(places) != 2:
        return Pooling(name, axis, len(shape), np.full((prod(places), 1), 1 / prod(places)))
    finest = max(int(np.sqrt(_MOST_FEATURES / shape[axis])), 1)
    lines = [_cells(size, min(_FINEST_GRID, finest, size)) for size in places]
    return Pooling(name, axis, len(shape), np.asarray(np.kron(*lines), np.float64))


def _cells(size: int, count: int) -> FloatArray:
    """Return the share of each position in each of a number of cells along one direction."""
    cell = np.arange(size) * count // size
    member = (cell[:, None] == np.arange(count)).astype(np.float64)
    shares: FloatArray = member / member.sum(axis=0)
    return shares
