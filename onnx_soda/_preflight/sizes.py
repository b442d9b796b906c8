"""Operators that make much out of little: how large their result is, told from their arguments.

A model of 171 bytes can ask ONNX Runtime for gigabytes while it loads, and onnx's shape inference
too. So before either sees the model, the sizes that follow from its constants alone are computed
here; what follows from shape inference is checked afterwards (`check_elements`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf, prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from onnx_soda._preflight.inventory import Inventory, node_label
from onnx_soda._preflight.limits import FileLimits, over_limit

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
            # A signalling NaN, of a damaged file, warns when it is cast.
            with np.errstate(invalid="ignore"):
                self._add(name, numpy_helper.to_array(tensor).astype(np.float64))

    def _add(self, name: str, value: Vector) -> None:
        # Four are enough for honest graphs; a dishonest one cannot make this list long.
        known = self._values.setdefault(name, [])
        if value.size <= MOST_VALUES:
            known[3:] = []
            known.append(value)


def _product(sizes: Vector) -> float:
    with np.errstate(all="ignore"):
        return float(np.prod(np.maximum(sizes, 1.0)))


def _count(start: Vector, limit: Vector, step: Vector) -> float:
    with np.errstate(all="ignore"):
        return float(np.max((limit - start) / step))


def _padded(pads: Vector) -> float:
    """Return the least size after padding an axis of one element each."""
    half = len(pads.reshape(-1)) // 2
    before, after = pads.reshape(-1)[:half], pads.reshape(-1)[half:][:half]
    return _product(1 + before + after)


def _largest(value: Vector) -> float:
    return float(np.max(value, initial=0))


# Positions of the arguments that say how large the result is, and the least number of elements.
_SIZED: dict[str, tuple[tuple[int, ...], Callable[..., float]]] = {
    "ConstantOfShape": ((0,), _product),
    "Expand": ((1,), _product),
    "Tile": ((1,), _product),
    # Cannot make more than it is given, but shape inference believes what it is told.
    "Reshape": ((1,), _product),
    "Range": ((0, 1, 2), _count),
    "Pad": ((1,), _padded),
    "Upsample": ((1,), _product),
    "OneHot": ((1,), _largest),
    "CenterCropPad": ((1,), _product),
    "MaxUnpool": ((2,), _product),
    "AffineGrid": ((1,), _product),
    "HannWindow": ((0,), _largest),
    "HammingWindow": ((0,), _largest),
    "BlackmanWindow": ((0,), _largest),
}
_RESIZED = {2: _product, 3: _product}  # Resize takes factors or sizes
# Operators with the shape of their result in an attribute.
_SHAPED = {"RandomNormal": "shape", "RandomUniform": "shape", "ConstantFill": "shape"}
# Operators whose argument is a shape: as many axes as it has elements.
_SHAPE_ARGUMENT = {"ConstantOfShape": 0, "Expand": 1, "Reshape": 1, "Tile": 1, "CenterCropPad": 1}
# Their result has one axis where the argument has one element.
_VECTORS = frozenset({"Range", "ConstantOfShape", "Expand", "Tile", "Reshape"})
MAKING = frozenset({*_SIZED, *_SHAPED, *_SHAPE_ARGUMENT, "Resize"})
"""Operators that are looked at here."""


def check_made(inventory: Inventory, file: str, limits: FileLimits) -> None:
    """Refuse operators whose constant arguments make something too large.

    Raises:
        UnsupportedModelError: Names the operator and the number of elements.
    """
    constants = Constants()
    for graph in inventory.graphs:
        constants.add_tensors(graph.initializer)
    check_nodes(_in_order(inventory), constants, file, limits)


def check_nodes(
    nodes: Iterable[onnx.NodeProto], constants: Constants, file: str, limits: FileLimits
) -> None:
    """Refuse nodes that make something too large of what is known.

    Args:
        nodes: The nodes, arguments before what reads them.
        constants: What is known; the nodes' own results are added.
        file: File name to show.
        limits: The limits.

    Raises:
        UnsupportedModelError: Names the operator and the number of elements.
    """
    total, lines = 0.0, 0.0
    for node in nodes:
        constants.add_node(node)
        _check_rank(node, constants, file, limits)
        elements, is_vector = _made(node, constants)
        check_elements(f"the result of {node_label(node)} in {file}", elements, limits)
        total += elements
        lines += elements if is_vector else 0
    if total > limits.total_elements:
        raise over_limit(f"{file} makes {total:.3g} elements of constants", limits.total_elements)
    check_vectors(lines, file, limits)


def check_elements(what: str, elements: float, limits: FileLimits, images: int = 1) -> None:
    """Refuse a tensor with too many elements.

    Args:
        what: The tensor, as the subject of a sentence.
        elements: How many it has.
        limits: The limits.
        images: Images in the batch that it belongs to.

    Raises:
        UnsupportedModelError: It has too many.
    """
    # "not <=" also catches what is no number
    if not elements / images <= limits.intermediate_elements:
        raise over_limit(f"{what} has {elements:.3g} elements", limits.intermediate_elements)


def check_vectors(elements: float, file: str, limits: FileLimits) -> None:
    """Refuse whole-number vectors that shape inference would follow element by element.

    Raises:
        UnsupportedModelError: They have too many elements altogether.
    """
    if elements > limits.vector_elements:
        raise over_limit(
            f"{file} computes vectors of {elements:.3g} whole numbers", limits.vector_elements
        )


def _in_order(inventory: Inventory) -> list[onnx.NodeProto]:
    """Return all nodes, those of one graph in their order: arguments before what reads them."""
    bodies = [*(g.node for g in inventory.graphs), *(f.node for f in inventory.model.functions)]
    return [node for body in bodies for node in body]


def _check_rank(node: onnx.NodeProto, constants: Constants, file: str, limits: FileLimits) -> None:
    place = _SHAPE_ARGUMENT.get(node.op_type)
    if place is None or place >= len(node.input):
        return
    axes = constants.length(node.input[place])
    if axes > limits.rank:
        raise over_limit(f"the result of {node_label(node)} in {file} has {axes} axes", limits.rank)


def _made(node: onnx.NodeProto, constants: Constants) -> tuple[float, bool]:
    """Return the least number of elements of a node's result, and whether it is a vector."""
    if node.op_type in _SHAPED:
        shapes = [a.ints for a in node.attribute if a.name == _SHAPED[node.op_type]]
        return max((float(prod(shape)) for shape in shapes), default=0.0), False
    if node.op_type == "Resize":
        found = [
            most(value)
            for place, most in _RESIZED.items()
            if place < len(node.input)
            for value in constants.of(node.input[place])
        ]
        return max(found, default=0.0), False
    if node.op_type not in _SIZED:
        return 0.0, False
    places, count = _SIZED[node.op_type]
    if max(places) >= len(node.input):
        return 0.0, False
    arguments = [constants.of(node.input[place]) for place in places]
    if not all(arguments):
        return 0.0, False
    largest = 0.0
    for first in arguments[0]:
        elements = count(first, *(one[-1] for one in arguments[1:]))
        largest = max(largest, inf if np.isnan(elements) else elements)
    single = node.op_type in _VECTORS and all(one.size == 1 for one in arguments[0])
    return largest, single
