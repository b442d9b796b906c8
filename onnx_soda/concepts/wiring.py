"""Makes the nodes and constants that are put around a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

__all__ = ["PREFIX", "Wiring", "graph_input"]

# Keeps these names apart from those in the model.
PREFIX = "onnx_soda_"


class Wiring:
    """Makes nodes and constants, and remembers them in order."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(self, kind: str, *inputs: ir.Value, **attributes: Any) -> ir.Value:
        """Add a node and return its output."""
        node = ir.node(kind, inputs, attributes=attributes)
        node.outputs[0].name = f"{PREFIX}{len(self.nodes)}_{kind}_{id(self):x}"
        self.nodes.append(node)
        return node.outputs[0]

    def constant(self, array: Any, dtype: Any = np.float32) -> ir.Value:
        """Add a constant."""
        name = f"{PREFIX}c{len(self.constants)}_{id(self):x}"
        numbers = np.asarray(array, dtype=dtype)
        tensor = ir.tensor(numbers, name=name)
        kind = ir.TensorType(tensor.dtype)
        value = ir.Value(name=name, type=kind, shape=ir.Shape(numbers.shape))
        value.const_value = tensor
        self.constants.append(value)
        return value


def graph_input(name: str, shape: Sequence[int | str]) -> ir.Value:
    """Return a float graph input."""
    kind = ir.TensorType(ir.DataType.FLOAT)
    return ir.Value(name=PREFIX + name, type=kind, shape=ir.Shape(shape))
