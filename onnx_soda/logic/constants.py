"""Reads the constants of a graph that are small enough to be part of a decision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["constant_of", "size_of"]

# Larger tensors are weights. A stored pattern over a whole image of 224 x 224 would be read still.
_MOST_ELEMENTS = 160_000
_CARRIERS = frozenset({
    "Identity", "Cast", "CastLike", "Reshape", "Unsqueeze", "Squeeze", "Flatten", "Expand",
})  # fmt: skip
_DEEPEST = 8


def constant_of(value: ir.Value | None, depth: int = 0) -> NDArray[Any] | None:
    """Return the values of a constant, up to its shape; None where it is large or computed."""
    if value is None or depth > _DEEPEST:
        return None
    tensor = value.const_value
    node = value.producer()
    if tensor is None and node is not None and node.op_type == "Constant":
        tensor = _attribute(node)
    if tensor is not None:
        small = tensor.size <= _MOST_ELEMENTS and tensor.dtype != ir.DataType.STRING
        return np.asarray(tensor.numpy()) if small else None
    if node is not None and node.op_type in _CARRIERS and node.inputs:
        return constant_of(node.inputs[0], depth + 1)
    return None


def _attribute(node: ir.Node) -> ir.TensorProtocol | None:
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.TENSOR:
            return attribute.as_tensor()
        if attribute.name in ("value_float", "value_floats", "value_int", "value_ints"):
            return ir.tensor(np.asarray(attribute.value), name=attribute.name)
    return None


def size_of(value: ir.Value) -> int:
    """Return the number of elements of a tensor; unknown dimensions count as one."""
    if value.const_value is not None:
        return int(value.const_value.size)
    if value.shape is None:
        return 1
    return int(
        np.prod([size if isinstance(size, int) else 1 for size in value.shape], dtype=np.int64)
    )
