"""How many outputs a model and its nodes have: what looks at each of them takes time for each."""

from __future__ import annotations

from onnx_soda.preflight.inventory import Inventory
from onnx_soda.preflight.limits import Limits
from onnx_soda.preflight.refusal import over_limit

__all__ = ["check_outputs"]


def check_outputs(inventory: Inventory, file: str, limits: Limits) -> None:
    """Refuse a model with more outputs than models have.

    Raises:
        UnsupportedModelError: Of a graph or a node there are too many.
    """
    if max(len(graph.output) for graph in inventory.graphs) > limits.graph_outputs:
        raise over_limit(f"{file} has too many outputs of a graph", limits.graph_outputs)
    if max((len(node.output) for node in inventory.nodes), default=0) > limits.node_outputs:
        raise over_limit(f"{file} has too many outputs of a node", limits.node_outputs)
