"""Puts the bodies of a model's own functions in the place of their calls."""

from __future__ import annotations

import graphlib
from collections.abc import Iterable

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnx_soda.errors import UnsupportedModelError
from onnx_soda.model.wellformed import well_formed

__all__ = ["inlined"]

# A classifier has some thousands of nodes. A few kilobytes of functions that each call another
# one twice can make billions.
_MOST_NODES = 200_000


def inlined(model: ir.Model, file: str) -> ir.Model:
    """Return the model without functions; itself where it has none.

    Args:
        model: The model; changed where it has functions.
        file: File name to show.

    Raises:
        ModelFileError: A function is called wrongly.
        UnsupportedModelError: The graph would be too large.
    """
    if not model.functions:
        return model
    with well_formed(file):
        nodes = _size(model)
    if nodes > _MOST_NODES:
        raise UnsupportedModelError(
            f"{file} has {nodes} nodes once its functions are put in, over {_MOST_NODES}",
            "No image classifier is that large; do not trust this file.",
        )
    with well_formed(file):
        return InlinePass()(model).model


def _size(model: ir.Model) -> int:
    """Return the number of nodes that the model will have."""
    bodies = {
        name: [node.op_identifier() for node in function.all_nodes()]
        for name, function in model.functions.items()
    }
    sizes: dict[ir.OperatorIdentifier, int] = {}

    def total(operators: Iterable[ir.OperatorIdentifier]) -> int:
        return sum(sizes.get(operator, 1) for operator in operators)

    called = {name: [other for other in body if other in bodies] for name, body in bodies.items()}
    for name in graphlib.TopologicalSorter(called).static_order():
        sizes[name] = total(bodies[name])
    return total(node.op_identifier() for node in model.graph.all_nodes())
