"""Small questions and changes that the passes over a graph have in common."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

__all__ = ["constant", "is_constant", "is_weight", "replace_uses"]

_FLOATS = frozenset({
    ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE
})  # fmt: skip

# Inputs that say how an operator computes, or hold statistics: not weights, though floating point.
_SETTINGS: dict[str, frozenset[int]] = {
    "BatchNormalization": frozenset({3, 4}),
    "Clip": frozenset({1, 2}),
    "DequantizeLinear": frozenset({1, 2}),
    "Dropout": frozenset({1, 2}),
    "OneHot": frozenset({1, 2}),
    "Pad": frozenset({1, 2, 3}),
    "QuantizeLinear": frozenset({1, 2}),
    "Resize": frozenset({1, 2, 3}),
    "Upsample": frozenset({1}),
}


def is_constant(value: ir.Value | None) -> bool:
    """Tell whether a tensor is an initializer."""
    return value is not None and value.is_initializer()


def is_weight(value: ir.Value) -> bool:
    """Tell whether an initializer is a weight: what training would change.

    Floating point, and read by a node as something else than a setting. A number without axes is
    taken for a constant of a formula (the 0.5 and the square root of 2 in a GELU written out).
    """
    tensor = value.const_value
    if tensor is None or tensor.dtype not in _FLOATS or not tensor.shape.rank():
        return False
    return any(position not in _SETTINGS.get(node.op_type, ()) for node, position in value.uses())


def constant(graph: ir.Graph, name: str, array: np.ndarray) -> ir.Value:
    """Add an initializer to a graph."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def replace_uses(old: ir.Value, new: ir.Value) -> None:
    """Let all nodes that read a tensor, and the graph's outputs, read another one.

    The node that computes the other one from the first goes on reading it.
    """
    for node, position in tuple(old.uses()):
        if node is not new.producer():
            node.replace_input_with(position, new)
    graph = old.graph
    if graph is not None:
        for index, output in enumerate(graph.outputs):
            if output is old:
                graph.outputs[index] = new
