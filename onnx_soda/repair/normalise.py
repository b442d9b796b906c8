"""Prepares a graph for onnx2torch: what it stumbles over is put in a form that it takes.

The prepared graph computes the same as the given one, but for the rounding of a quantized one.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import (
    LiftConstantsToInitializersPass,
    RemoveInitializersFromInputsPass,
    RemoveUnusedNodesPass,
)

from onnx_soda.repair.constants import fold_constants
from onnx_soda.repair.quantized import dequantize, is_quantized
from onnx_soda.repair.weights import Marked, mark_weights

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A graph that onnx2torch can read.

    Attributes:
        model: The graph.
        reference: The same as plain ONNX, for ONNX Runtime: what the torch module has to compute.
        weights: Its weights.
        nodes: Operator and name, as in the file, of each node of `model`, by the name there.
        quantized: The given graph was quantized; `reference` is not.
    """

    model: onnx.ModelProto
    reference: ir.Model
    weights: tuple[Marked, ...]
    nodes: Mapping[str, str]
    quantized: bool


def prepare(
    part: ir.Model, stored: Container[str], own_domain: str, own_operators: Mapping[str, int]
) -> Prepared:
    """Prepare a graph.

    Args:
        part: The graph, without functions; stays as it is.
        stored: Names of the tensors that the file stores.
        own_domain: Domain of the operators that have a converter of ours for all revisions.
        own_operators: These operators, with the first revision that it covers.

    Raises:
        ConversionError: It is quantized in a way that cannot be undone.
        InferenceError: ONNX Runtime cannot compute a constant.
    """
    model = part.clone()
    RemoveInitializersFromInputsPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    quantized = is_quantized(model)
    dequantized = dequantize(model) if quantized else frozenset[str]()
    reference = model.clone() if quantized else part
    fold_constants(model)
    RemoveUnusedNodesPass()(model)
    graph = model.graph
    _separate_outputs(graph)
    names = {node: _describe(node, graph.opset_imports) for node in graph}
    _take_over(graph, own_domain, own_operators)
    weights = mark_weights(graph, own_domain, stored, dequantized)
    described = {}
    for index, (node, description) in enumerate(names.items()):
        node.name = f"{node.op_type}_{index}"
        described[node.name] = description
    graph.opset_imports[own_domain] = 1
    return Prepared(ir.to_proto(model), reference, weights, described, quantized)


def _describe(node: ir.Node, opsets: Mapping[str, int]) -> str:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    opset = opsets.get(node.domain, "unknown")
    return f"{operator} (opset {opset}) of node {node.name or node.outputs[0].name!r}"


def _separate_outputs(graph: ir.Graph) -> None:
    """Give each output a node of its own.

    onnx2torch hands out all outputs of a node where one is asked for, and none that is an input.
    """
    for index, value in enumerate(tuple(graph.outputs)):
        node = ir.node("Identity", [value], name=f"output {value.name}")
        node.outputs[0].name = f"{value.name} (output {index})"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        graph.append(node)
        graph.outputs[index] = node.outputs[0]


def _take_over(graph: ir.Graph, domain: str, operators: Mapping[str, int]) -> None:
    """Move the operators that have a converter of ours into its domain."""
    opset = graph.opset_imports.get("", 0)
    for node in graph:
        since = operators.get(node.op_type)
        if since is None or node.domain not in ("", "ai.onnx"):
            continue
        schema = onnx.defs.get_schema(node.op_type, opset)
        if schema.since_version >= since:
            node.domain = domain
