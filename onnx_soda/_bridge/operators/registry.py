"""How converters are written here, and how onnx2torch gets to know them.

A converter is a function that reads the attributes of a node and returns a function of the node's
input tensors. Weights are inputs like any other: no module holds a copy of its own, so that a
weight that several nodes read stays one parameter, and one behind Transpose or Cast is trained
through them.

onnx2torch refuses a second converter for a revision that it has. Where its own one will not do,
the graph is prepared so that the node lies in `OWN_DOMAIN`, of which onnx2torch knows nothing.

Revisions of operators that mean the same as one that onnx2torch converts.

Nothing in the ONNX changelog (https://onnx.ai/onnx/operators/) but the element types differs
between them: inputs, outputs, attributes and their defaults are equal, which a test compares with
the schemas of the installed onnx.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx2torch.node_converters import get_converter
from onnx2torch.node_converters.registry import add_converter
from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from onnx2torch.utils.common import OnnxMapping, OperationConverterResult
from torch import Tensor, nn

from onnx_soda._bridge.normalise import WEIGHT

# Each operator with a revision that onnx2torch converts and the others that mean the same.
SAME_MEANING: dict[str, tuple[int, tuple[int, ...]]] = {
    # 16 adds bfloat16.
    "GreaterOrEqual": (12, (16,)),
    "LessOrEqual": (12, (16,)),
    # 19 adds strings.
    "Equal": (13, (19,)),
    # 19 adds 8-bit floats, 21 4-bit integers, 23 4-bit floats, 24 8-bit exponents, 25 2-bit
    # integers.
    "ConstantOfShape": (9, (20, 21, 23, 24, 25)),
    "Constant": (13, (19, 21, 23, 24, 25)),
    "Identity": (16, (19, 21, 23, 24, 25)),
    "Shape": (15, (19, 21, 23, 24, 25)),
    "Transpose": (13, (21, 23, 24, 25)),
    # 20 adds 8-bit floats, 13 and 22 bfloat16.
    "IsInf": (10, (20,)),
    "IsNaN": (13, (9, 20)),
    "Acos": (7, (22,)),
    "Asin": (7, (22,)),
    "Atan": (7, (22,)),
    "Cos": (7, (22,)),
    "Elu": (6, (22,)),
    "EyeLike": (9, (22,)),
    "HardSigmoid": (6, (22,)),
    "HardSwish": (14, (22,)),
    "RoiAlign": (16, (22,)),
    "Round": (11, (22,)),
    "Sin": (7, (22,)),
    "Softplus": (1, (22,)),
    "Softsign": (1, (22,)),
    "Tan": (7, (22,)),
    # 24 and 28 add bfloat16 and the like.
    "TopK": (11, (24,)),
    "Celu": (12, (28,)),
    "Einsum": (12, (28,)),
}

for _operator, (_known, _others) in SAME_MEANING.items():
    for _revision in _others:
        add_converter(_operator, _revision)(get_converter(_operator, _known))


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


class StoredWeight(nn.Module):
    """A weight as the file stores it.

    Args:
        value: The weight.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self) -> Tensor:
        """Return the weight."""
        return self.value


def _build(node: OnnxNode, graph: OnnxGraph) -> nn.Module:
    return StoredWeight(graph.initializers[node.input_values[0]].to_torch())


register_module(WEIGHT, _build)
