"""Splits a graph into a body (image to layer and logits) and a head (layer to logits).

The head is where interventions happen: the body runs once per image, the head once per
intervention. A head may need more than the layer: activations on paths that go round it, and the
shape of earlier tensors (an exporter that reshapes by the batch size of the image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_soda.model.graph import GraphView

__all__ = ["Head", "SideInput", "SubModel", "extract_body", "extract_head", "serialise"]


@dataclass(frozen=True)
class SubModel:
    """A model cut out of a graph, ready for a session.

    Attributes:
        content: Serialised model; its external data stays in `folder`.
        folder: Where external data lies; None without any.
        inputs: Names of its inputs.
        outputs: Names of its outputs.
    """

    content: bytes
    folder: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class SideInput:
    """A tensor that the head needs besides the layer.

    Attributes:
        name: Name of the tensor.
        shape_only: The head reads only its shape, so zeros do.
    """

    name: str
    shape_only: bool


@dataclass(frozen=True, eq=False)
class Head:
    """The part of a graph from a layer to the logits.

    Attributes:
        model: The part as a model of its own, still to be serialised.
        layer: Name of the layer's tensor, the first input.
        logits: Name of the logits, the only output.
        sides: Further inputs.
    """

    model: ir.Model
    layer: str
    logits: str
    sides: tuple[SideInput, ...]


def serialise(model: ir.Model, folder: Path | None) -> SubModel:
    """Serialise a model; tensors in external files are referred to, not copied."""
    graph = model.graph
    return SubModel(
        ir.to_proto(model).SerializeToString(),
        folder,
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
    )


def extract_body(view: GraphView, outputs: Sequence[str]) -> ir.Model:
    """Cut out what computes some tensors from the image.

    Args:
        view: The graph.
        outputs: Names of the tensors to expose, in the order wanted; duplicates are dropped.
    """
    names = list(dict.fromkeys(outputs))
    return _as_model(view, [view.image_value], [view.values[name] for name in names])


def extract_head(view: GraphView, layer: ir.Value, logits: ir.Value) -> Head:
    """Cut out what computes the logits from a layer.

    Args:
        view: The graph.
        layer: The tensor that interventions set.
        logits: The tensor that is read.
    """
    downstream = _downstream(view, layer, logits)
    data = _borders(view, downstream, layer)
    shapes = _shape_sources(view, downstream, layer, data)
    sides = (
        *(SideInput(name, False) for name in data),
        *(SideInput(name, True) for name in shapes),
    )
    inputs = [layer, *(view.values[side.name] for side in sides)]
    model = _as_model(view, inputs, [logits])
    return Head(model, layer.name or "", logits.name or "", sides)


def _downstream(view: GraphView, layer: ir.Value, logits: ir.Value) -> set[ir.Node]:
    path = view.ancestors(logits)
    reached, nodes = {layer}, set[ir.Node]()
    for node in view.model.graph:
        if node in path and any(v in reached for v in view.activation_inputs(node)):
            nodes.add(node)
            reached.update(node.outputs)
    return nodes


def _borders(view: GraphView, nodes: set[ir.Node], layer: ir.Value) -> list[str]:
    """Return the activations that nodes of the head read but do not compute, except the layer."""
    found: dict[str, None] = {}
    for node in view.model.graph:
        if node in nodes:
            for value in view.activation_inputs(node):
                if value is not layer and value.producer() not in nodes:
                    found[value.name or ""] = None
    return list(found)


def _shape_sources(
    view: GraphView, nodes: set[ir.Node], layer: ir.Value, known: Sequence[str]
) -> list[str]:
    """Return the activations before the layer whose shape the head's constants are made from."""
    stack = [v for node in nodes for v in node.inputs if v and v not in view.activations]
    seen, found = set[ir.Value](), dict[str, None]()
    while stack:
        value = stack.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        for source in node.inputs:
            if source is None:
                continue
            if source not in view.activations:
                stack.append(source)
            elif source is not layer and source.producer() not in nodes:
                found[source.name or ""] = None
    return [name for name in found if name not in known]


def _as_model(view: GraphView, inputs: Sequence[ir.Value], outputs: Sequence[ir.Value]) -> ir.Model:
    graph = ir.convenience.extract(view.model.graph, list(inputs), list(outputs))
    graph.name = graph.name or "part"
    graph.opset_imports.update(view.model.graph.opset_imports)
    return ir.Model(graph, ir_version=view.model.ir_version)
