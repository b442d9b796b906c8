"""Hidden layers: how they are pooled to features, and how they get the style of another image.

Pooling brings a hidden tensor to one row of numbers per image: averages over a coarse grid of
places. It is there twice with the same arithmetic: in NumPy, to fit reference heads, and as graph
nodes, to read them in a probe.

Style is the mean and the standard deviation of each channel over all places; what is where stays.
Each channel is brought to the donor's (adaptive instance normalisation: Huang and Belongie 2017,
arXiv:1703.06868), or a share of the way:

    y = x + strength ((x - mean(x)) / deviation(x) donor_deviation + donor_mean - x)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._detect.concepts.pipeline import Wiring, graph_input

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


# Keeps a channel that is the same everywhere from being divided by 0.
_LEAST_VARIANCE = 1e-4


@dataclass(frozen=True)
class StyleLayer:
    """A hidden tensor whose style can be changed.

    Attributes:
        name: The tensor.
        axis: Its axis of channels.
        rank: Its number of axes.
        channels: Number of channels.
    """

    name: str
    axis: int
    rank: int
    channels: int

    def measure(self, values: NDArray[np.generic]) -> NDArray[np.float32]:
        """Return mean and deviation per channel, shape (images, 2, channels)."""
        rows = np.moveaxis(values, self.axis, 1).reshape(len(values), self.channels, -1)
        rows = rows.astype(np.float64)
        style = np.stack([rows.mean(axis=2), rows.std(axis=2)], axis=1)
        return style.astype(np.float32)

    def unchanged(self) -> dict[str, NDArray[np.float32]]:
        """Return values of the inputs that leave the tensor as it is."""
        return self.feeds(np.zeros((2, self.channels), np.float32), 0.0)

    def feeds(self, style: NDArray[np.float32], strength: float) -> dict[str, NDArray[np.float32]]:
        """Return values of the inputs.

        Args:
            style: The donor's mean and deviation, shape (2, channels).
            strength: Share of the way.
        """
        return {
            "hidden_strength": np.asarray(strength, np.float32),
            "hidden_mean": style[0].reshape(1, -1, 1),
            "hidden_deviation": style[1].reshape(1, -1, 1),
        }

    def inputs(self) -> dict[str, ir.Value]:
        """Return the graph inputs."""
        return {name: graph_input(name, array.shape) for name, array in self.unchanged().items()}

    def wire(self, wiring: Wiring, value: ir.Value, inputs: dict[str, ir.Value]) -> ir.Value:
        """Add the nodes; return the tensor with the style that the inputs say.

        Only operators whose form has not changed since opset 8 are used.
        """
        order = [0, self.axis, *(i for i in range(1, self.rank) if i != self.axis)]
        back = [order.index(axis) for axis in range(self.rank)]
        floats = value
        if value.dtype != ir.DataType.FLOAT:
            floats = wiring.op("Cast", value, to=int(ir.DataType.FLOAT))
        planes = floats if self.axis == 1 else wiring.op("Transpose", floats, perm=order)
        rows = wiring.op("Reshape", planes, wiring.constant([0, 0, -1], np.int64))
        centred = wiring.op("Sub", rows, wiring.op("GlobalAveragePool", rows))
        variance = wiring.op("GlobalAveragePool", wiring.op("Mul", centred, centred))
        deviation = wiring.op("Sqrt", wiring.op("Add", variance, wiring.constant(_LEAST_VARIANCE)))
        scaled = wiring.op("Mul", centred, wiring.op("Div", inputs["hidden_deviation"], deviation))
        styled = wiring.op("Add", scaled, inputs["hidden_mean"])
        way = wiring.op("Mul", inputs["hidden_strength"], wiring.op("Sub", styled, rows))
        moved = wiring.op("Add", rows, way)
        result = wiring.op("Reshape", moved, wiring.op("Shape", planes))
        if self.axis != 1:
            result = wiring.op("Transpose", result, perm=back)
        if value.dtype not in (None, ir.DataType.FLOAT):
            result = wiring.op("Cast", result, to=int(value.dtype))
        return result


def find_style_layer(
    poolings: Sequence[Pooling], shapes: Sequence[tuple[int, ...]]
) -> StyleLayer | None:
    """Return the earliest layer that has a style: channels with several places each.

    Args:
        poolings: Of the layers, the earliest last.
        shapes: Their shapes, images first.
    """
    for pooling, shape in zip(reversed(poolings), reversed(shapes), strict=True):
        if prod(size for i, size in enumerate(shape) if i not in (0, pooling.axis)) > 1:
            return StyleLayer(pooling.name, pooling.axis, len(shape), shape[pooling.axis])
    return None
