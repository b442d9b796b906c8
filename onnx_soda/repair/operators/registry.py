"""How converters are written here, and how onnx2torch gets to know them.

A converter is a function that reads the attributes of a node and returns a function of the node's
input tensors. Weights are inputs like any other: no module holds a copy of its own, so that a
weight that several nodes read stays one parameter, and one behind Transpose or Cast is trained
through them.

onnx2torch refuses a second converter for a revision that it has. Where its own one will not do,
the graph is prepared so that the node lies in `OWN_DOMAIN`, of which onnx2torch knows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import nn

__all__ = [
    "OWN_DOMAIN",
    "OWN_OPERATORS",
    "Attributes",
    "Computation",
    "Converter",
    "converter",
    "own_converter",
    "register_module",
]

# Operators of this domain have one revision; its converters tell apart the forms of ONNX's.
OWN_DOMAIN = "onnx_soda"
_OWN_REVISION = 1

# Operators that are moved to `OWN_DOMAIN`, each with the first ONNX revision that its converter
# covers. Filled by `own_converter`.
OWN_OPERATORS: dict[str, int] = {}

Computed = Callable[..., Any]


class Attributes:
    """Attributes of a node, with their types.

    Args:
        node: The node as onnx2torch sees it.

    Attributes:
        operator: Name of the operator.
        inputs: Number of inputs, those left out in the middle included.
        outputs: Number of outputs.
    """

    def __init__(self, node: OnnxNode) -> None:
        self._attributes: Any = node.attributes
        self.operator: str = node.operation_type
        self.inputs: int = len(node.input_values)
        self.outputs: int = len(node.output_values)

    def number(self, name: str, default: float) -> float:
        """Return a floating-point attribute."""
        return float(self._attributes.get(name, default))

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        return int(self._attributes.get(name, default))

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        return str(self._attributes.get(name, default))

    def integers(self, name: str) -> list[int] | None:
        """Return an attribute that is a list of integers; None where it is not set."""
        # onnx2torch hands out an empty list as a protobuf message.
        found = self._attributes.get(name)
        return None if found is None else list(found) if isinstance(found, list) else []

    def bound(self, name: str) -> float | None:
        """Return a floating-point attribute; None where it is not set."""
        found = self._attributes.get(name)
        return None if found is None else float(found)


# Reads the attributes of a node; may raise NotImplementedError, with what it refuses.
Converter = Callable[[Attributes], Computed]


class Computation(nn.Module):
    """Calls a function with the inputs of a node, and with None for those that it leaves out.

    Args:
        function: What the node computes.
        present: For each input whether the node has it.
    """

    def __init__(self, function: Computed, present: Sequence[bool]) -> None:
        super().__init__()
        self._function = function
        self._present = tuple(present)

    def forward(self, *tensors: Any) -> Any:
        """Compute the output, or a tuple of outputs."""
        given = iter(tensors)
        return self._function(*(next(given) if there else None for there in self._present))


def converter(operator: str, *revisions: int) -> Callable[[Converter], Converter]:
    """Register a converter for revisions of an ONNX operator that onnx2torch does not have."""

    def register(function: Converter) -> Converter:
        for revision in revisions:
            add_converter(operator, revision)(_as_onnx2torch(function))
        return function

    return register


def own_converter(operator: str, since: int) -> Callable[[Converter], Converter]:
    """Register a converter for all revisions of an ONNX operator, in place of onnx2torch's.

    Args:
        operator: Name of the operator.
        since: First revision that the converter covers; older ones stay with onnx2torch.
    """

    def register(function: Converter) -> Converter:
        add_converter(operator, _OWN_REVISION, OWN_DOMAIN)(_as_onnx2torch(function))
        OWN_OPERATORS[operator] = since
        return function

    return register


def register_module(operator: str, build: Callable[[OnnxNode, OnnxGraph], nn.Module]) -> None:
    """Register an operator of `OWN_DOMAIN` whose module takes no inputs."""

    def convert(node: OnnxNode, graph: OnnxGraph) -> OperationConverterResult:
        mapping = OnnxMapping(inputs=(), outputs=node.output_values)
        return OperationConverterResult(build(node, graph), mapping)

    add_converter(operator, _OWN_REVISION, OWN_DOMAIN)(convert)


def _as_onnx2torch(function: Converter) -> Callable[..., OperationConverterResult]:
    def convert(node: OnnxNode, _graph: OnnxGraph) -> OperationConverterResult:
        present = [bool(name) for name in node.input_values]
        mapping = OnnxMapping(
            inputs=tuple(name for name in node.input_values if name), outputs=node.output_values
        )
        return OperationConverterResult(Computation(function(Attributes(node)), present), mapping)

    return convert
