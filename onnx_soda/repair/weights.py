"""Marks the weights of a graph, so that each becomes one parameter of the torch module."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import onnx_ir as ir

from onnx_soda.repair.graphs import is_weight, replace_uses

__all__ = ["WEIGHT", "Marked", "mark_weights"]

# The operator that stands for a weight. Its input is the initializer, its output what nodes read.
WEIGHT = "Weight"


@dataclass(frozen=True)
class Marked:
    """A weight of the prepared graph.

    Attributes:
        name: Name of the initializer, or of the output of the Constant or DequantizeLinear node.
        node: Name of the node that stands for it.
        stored: The file stores it as it is; a dequantized weight is not.
    """

    name: str
    node: str
    stored: bool


def mark_weights(
    graph: ir.Graph, domain: str, stored: Container[str], dequantized: Container[str]
) -> tuple[Marked, ...]:
    """Put a node between each weight and the nodes that read it; changes the graph.

    All of a weight's readers share the node, so what is tied in the file is tied in torch: also
    where one of them reads it as a setting, since a changed value will reach that one too.

    Args:
        graph: The graph, with all constants as initializers.
        domain: Domain of the new nodes.
        stored: Names of the tensors that the file stores.
        dequantized: Names of the tensors that were dequantized. What is in neither was computed
            from constants and is no weight.
    """
    found, nodes = list[Marked](), list[ir.Node]()
    # In the order of their first use: that of `graph.initializers` is not always the same.
    read = (value for node in graph for value in node.inputs if value is not None)
    for value in [value for value in dict.fromkeys(read) if value.is_initializer()]:
        name = value.name or ""
        if not is_weight(value) or not (name in stored or name in dequantized):
            continue
        node = ir.node(WEIGHT, [value], domain=domain, name=f"weight_{len(nodes)}")
        node.outputs[0].name = f"{name} (weight)"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        replace_uses(value, node.outputs[0])
        nodes.append(node)
        found.append(Marked(name, node.name or "", name in stored))
    if nodes:
        graph.insert_before(graph[0], nodes)
    return tuple(found)
