"""Operators that make much out of little: how large their result is, told from their arguments.

A model of 171 bytes can ask ONNX Runtime for gigabytes while it loads, and onnx's shape inference
too. So before either sees the model, the sizes that follow from its constants alone are computed
here; what follows from shape inference is checked afterwards (`check_elements`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, prod

import numpy as np
import onnx

from onnx_soda.preflight.constants import Constants, Vector
from onnx_soda.preflight.inventory import Inventory
from onnx_soda.preflight.limits import Limits
from onnx_soda.preflight.refusal import over_limit

__all__ = ["MAKING", "check_elements", "check_made", "check_nodes", "check_vectors"]


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


def check_made(inventory: Inventory, file: str, limits: Limits) -> None:
    """Refuse operators whose constant arguments make something too large.

    Raises:
        UnsupportedModelError: Names the operator and the number of elements.
    """
    constants = Constants()
    for graph in inventory.graphs:
        constants.add_tensors(graph.initializer)
    check_nodes(_in_order(inventory), constants, file, limits)


def check_nodes(
    nodes: Iterable[onnx.NodeProto], constants: Constants, file: str, limits: Limits
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
        check_elements(f"the result of {_name(node)} in {file}", elements, limits)
        total += elements
        lines += elements if is_vector else 0
    if total > limits.total_elements:
        raise over_limit(f"{file} makes {total:.3g} elements of constants", limits.total_elements)
    check_vectors(lines, file, limits)


def check_elements(what: str, elements: float, limits: Limits, images: int = 1) -> None:
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


def check_vectors(elements: float, file: str, limits: Limits) -> None:
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


def _check_rank(node: onnx.NodeProto, constants: Constants, file: str, limits: Limits) -> None:
    place = _SHAPE_ARGUMENT.get(node.op_type)
    if place is None or place >= len(node.input):
        return
    axes = constants.length(node.input[place])
    if axes > limits.rank:
        raise over_limit(f"the result of {_name(node)} in {file} has {axes} axes", limits.rank)


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


def _name(node: onnx.NodeProto) -> str:
    return f"{node.op_type} {(node.name or next(iter(node.output), ''))[:80]!r}"
