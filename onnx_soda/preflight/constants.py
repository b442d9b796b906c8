"""Small constants of a graph, as far as sizes can be computed from them without running it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

__all__ = ["FOLLOWED", "MOST_VALUES", "Constants", "Vector"]

Vector = NDArray[np.float64]
"""Float, so that what overflows an integer becomes very large instead of wrapping round."""

MOST_VALUES = 64
"""Longer constants are no sizes."""

# Sizes are whole numbers, and factors to resize by are real ones.
_TYPES = (TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT)
_CONSTANT_ATTRIBUTES = ("value", "value_int", "value_ints", "value_float", "value_floats")
_SAME = ("Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape", "Flatten")


def _joined(*parts: Vector) -> Vector:
    return np.concatenate([part.reshape(-1) for part in parts])


def _taken(values: Vector, places: Vector) -> Vector:
    return np.asarray(values.reshape(-1)[places.astype(np.int64)])


_ARITHMETIC: dict[str, Callable[..., Vector]] = {
    "Add": np.add,
    "Sub": np.subtract,
    "Mul": np.multiply,
    "Div": np.divide,
    "Pow": np.power,
    "Neg": np.negative,
    "Max": np.maximum,
    "Concat": _joined,
    "Gather": _taken,
    "ReduceProd": lambda value, *_: np.array([value.prod()]),
}

FOLLOWED = frozenset({"Constant", "Shape", "Size", "Slice", *_SAME, *_ARITHMETIC})
"""Operators whose results are computed here."""


class Constants:
    """Values of the small constant tensors of a graph, by name.

    A name may stand for several values, of which subgraphs and functions see one each; all are
    kept, and a size that any of them makes too large is too large.

    Args:
        shapes: Shapes of tensors, where some are known already.
    """

    def __init__(self, shapes: Mapping[str, tuple[int | None, ...]] | None = None) -> None:
        self._shapes = shapes or {}
        self._values: dict[str, list[Vector]] = {}
        self._lengths: dict[str, int] = {}

    def of(self, name: str) -> list[Vector]:
        """Return the values that a name may stand for; none where they are not known."""
        return self._values.get(name, [])

    def length(self, name: str) -> int:
        """Return the number of elements of a stored tensor; 0 where it is not stored."""
        return self._lengths.get(name, 0)

    def add_tensors(self, tensors: Iterable[onnx.TensorProto]) -> None:
        """Take in stored tensors."""
        for tensor in tensors:
            self._add_tensor(tensor.name, tensor)

    def add_node(self, node: onnx.NodeProto) -> None:
        """Take in the output of a node, where it can be computed from what is known."""
        if len(node.output) != 1:
            return
        if node.op_type == "Constant":
            self._add_constant(node)
            return
        known = [self.of(name) for name in node.input[:2]]
        if node.op_type in ("Shape", "Size"):
            self._add_shape(node)
        elif node.op_type == "Slice":
            self._slice(node)
        elif node.op_type in _SAME and known and known[0]:
            self._add(node.output[0], known[0][0])
        elif node.op_type == "Concat":
            self._compute(node, [self.of(name) for name in node.input[:MOST_VALUES]])
        elif node.op_type in _ARITHMETIC:
            self._compute(node, known)

    def _compute(self, node: onnx.NodeProto, known: list[list[Vector]]) -> None:
        if not known or not all(known):
            return
        operator = _ARITHMETIC[node.op_type]
        for first in known[0]:
            try:
                with np.errstate(all="ignore"):
                    self._add(node.output[0], operator(first, *(one[-1] for one in known[1:])))
            except (IndexError, TypeError, ValueError):  # shapes or arguments that do not fit
                return

    def _add_shape(self, node: onnx.NodeProto) -> None:
        shape = self._shapes.get(node.input[0] if node.input else "")
        if shape is None or None in shape:
            return
        limits = {a.name: a.i for a in node.attribute if a.name in ("start", "end")}
        sizes = np.array(shape, np.float64)[limits.get("start") : limits.get("end")]
        self._add(node.output[0], sizes if node.op_type == "Shape" else np.array(sizes.prod()))

    def _slice(self, node: onnx.NodeProto) -> None:
        parts = [self.of(name) for name in node.input]
        if len(parts) < 3 or not all(parts[:3]) or any(one[0].size != 1 for one in parts[1:3]):
            return
        start, end = (int(np.clip(one[0].item(), -MOST_VALUES, MOST_VALUES)) for one in parts[1:3])
        self._add(node.output[0], parts[0][0].reshape(-1)[start:end])

    def _add_constant(self, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name not in _CONSTANT_ATTRIBUTES:
                continue
            if attribute.name == "value":
                self._add_tensor(node.output[0], attribute.t)
                continue
            numbers = [*attribute.ints, *attribute.floats] or [attribute.i or attribute.f]
            self._add(node.output[0], np.array(numbers, np.float64))

    def _add_tensor(self, name: str, tensor: onnx.TensorProto) -> None:
        elements = prod(tensor.dims)
        self._lengths[name] = max(self.length(name), elements)
        inside = tensor.data_location != TensorProto.EXTERNAL
        if elements <= MOST_VALUES and inside and tensor.data_type in _TYPES:
            self._add(name, numpy_helper.to_array(tensor).astype(np.float64))

    def _add(self, name: str, value: Vector) -> None:
        # Four are enough for honest graphs; a dishonest one cannot make this list long.
        known = self._values.setdefault(name, [])
        if value.size <= MOST_VALUES:
            known[3:] = []
            known.append(value)
