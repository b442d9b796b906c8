"""Takes quantization out of a graph: QuantizeLinear and DequantizeLinear become float.

A pair around an activation rounds it and bounds it to what the integers can say. The bounds stay:
quantization tools rely on them to cut off what a ReLU did, which they leave out. The rounding goes,
since it has no gradient.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from onnx_soda.errors import ConversionError
from onnx_soda.repair.constants import fold_dequantized
from onnx_soda.repair.graphs import constant, is_constant, replace_uses

__all__ = ["dequantize", "is_quantized"]

_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})


def is_quantized(model: ir.Model) -> bool:
    """Tell whether a graph has quantized weights or activations."""
    return any(node.op_type in _QUANTIZERS for node in model.graph)


def dequantize(model: ir.Model) -> frozenset[str]:
    """Make a graph with quantized weights and activations one of floats; changes the model.

    Returns:
        Names of the initializers that were dequantized; they bear the names of the outputs of
        their DequantizeLinear nodes.

    Raises:
        ConversionError: A scale is computed, or activations are not quantized to integers.
        InferenceError: ONNX Runtime cannot dequantize a weight.
    """
    weights = fold_dequantized(model)
    # Tensors that held integers, with their type then.
    floating: dict[ir.Value, ir.DataType | None] = {}
    for node in tuple(model.graph):
        held = [value for value in node.inputs if value is not None and value in floating]
        if node.op_type == "QuantizeLinear" and node.inputs[0] is not None:
            kind = node.outputs[0].dtype
            floating[_bound(model.graph, node, node.inputs[0])] = kind
        elif node.op_type == "DequantizeLinear" and held:
            replace_uses(node.outputs[0], held[0])
        elif held:
            _carry(node, floating, held[0])
    RemoveUnusedNodesPass()(model)
    return weights


def _carry(node: ir.Node, floating: dict[ir.Value, ir.DataType | None], source: ir.Value) -> None:
    """Let a node that moves integers about (Reshape, MaxPool, Concat) move floats."""
    for value in node.outputs:
        if value.dtype == floating[source]:
            floating[value] = value.dtype
            value.type = source.type


def _bound(graph: ir.Graph, node: ir.Node, value: ir.Value) -> ir.Value:
    """Put bounds in the place of a QuantizeLinear of a tensor; return the bounded tensor."""
    name = node.outputs[0].name or ""
    for operator, limit in zip(("Max", "Min"), _limits(node), strict=True):
        bound = constant(graph, f"{name} {operator}", limit)
        inner = ir.node(operator, [value, bound], name=f"{name} {operator}")
        inner.outputs[0].name = f"{name} {operator} (float)"
        inner.outputs[0].type = value.type
        inner.outputs[0].shape = node.outputs[0].shape
        graph.insert_before(node, inner)
        value = inner.outputs[0]
    replace_uses(node.outputs[0], value)
    return value


def _limits(node: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest and the largest value that the integers of a QuantizeLinear can say.

    https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
    """
    scale, zero = _array(node, 1), _array(node, 2)
    dtype = zero.dtype if zero is not None else _default_type(node)
    if scale is None or dtype.kind not in "iu":
        raise ConversionError(
            f"the QuantizeLinear node {node.name!r} has a computed scale, or does not quantize to "
            "integers of 8 to 32 bits",
            "Give the model before quantization.",
        )
    offset = np.zeros((), dtype) if zero is None else zero
    source = node.inputs[0]
    shape = source.shape if source is not None else None
    if scale.ndim and shape is not None:  # one scale per channel
        axis = node.attributes.get_int("axis", 1)
        wide = [-1 if index == axis % len(shape) else 1 for index in range(len(shape))]
        scale, offset = scale.reshape(wide), offset.reshape(wide)
    kind = np.iinfo(dtype)
    low, high = (limit - offset.astype(np.float64) for limit in (kind.min, kind.max))
    return (low * scale).astype(scale.dtype), (high * scale).astype(scale.dtype)


def _default_type(node: ir.Node) -> np.dtype:
    named = node.attributes.get_int("output_dtype", 0)
    return np.dtype(ir.DataType(named).numpy() if named else np.uint8)


def _array(node: ir.Node, position: int) -> np.ndarray | None:
    value = node.inputs[position] if len(node.inputs) > position else None
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    return value.const_value.numpy()
