"""The operator that stands for a weight of the file: a module with one parameter."""

from __future__ import annotations

from onnx2torch.onnx_graph import OnnxGraph
from onnx2torch.onnx_node import OnnxNode
from torch import Tensor, nn

from onnx_soda.repair.operators.registry import register_module
from onnx_soda.repair.weights import WEIGHT

__all__ = ["StoredWeight"]


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
