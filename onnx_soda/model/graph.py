"""A graph ready for analysis: functions inlined, shapes inferred, and what depends on the image.

Whether a tensor is a weight or an activation is decided by one question: do its values depend on
the image? Weights behind Identity, Constant, Cast or DequantizeLinear nodes are then weights
like any other, and no exporter needs a rule of its own. `Shape` and `Size` read only the shape of
their input, so what is computed from them does not depend on the image's values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
from onnx_ir.passes.common import ShapeInferencePass

from onnx_soda.errors import NotAClassifierError, TensorNotFoundError
from onnx_soda.model.inline import inlined
from onnx_soda.model.inputs import ImageInput, find_image_input
from onnx_soda.model.load import OnnxModel
from onnx_soda.model.room import check_batch, check_computed, check_followed
from onnx_soda.model.upgrade import upgraded

__all__ = ["GraphView", "inputs_of", "view_graph"]

_SHAPE_READERS = frozenset({"Shape", "Size"})


@dataclass(frozen=True, eq=False)
class GraphView:
    """The graph of a model, prepared for questions about it.

    Attributes:
        model: A copy with functions inlined and types inferred; batch and size as in the file.
        image: The image input.
        shapes: Shape of each tensor for a batch of the smallest size the model takes (1 where
            the batch is free); None for a dimension that inference cannot tell.
    """

    model: ir.Model
    image: ImageInput
    shapes: dict[str, tuple[int | None, ...]]

    @cached_property
    def values(self) -> dict[str, ir.Value]:
        """Every named tensor of the main graph: inputs, initializers and node outputs."""
        graph = self.model.graph
        outputs = (value for node in graph for value in node.outputs)
        named = (*graph.inputs, *graph.initializers.values(), *outputs)
        return {value.name: value for value in named if value.name}

    @cached_property
    def image_value(self) -> ir.Value:
        """The graph input that takes the image."""
        return self.values[self.image.name]

    @cached_property
    def activations(self) -> frozenset[ir.Value]:
        """Tensors whose values depend on the image."""
        found = {self.image_value}
        for node in self.model.graph:
            if node.op_type not in _SHAPE_READERS and any(v in found for v in inputs_of(node)):
                found.update(node.outputs)
        return frozenset(found)

    def activation_inputs(self, node: ir.Node) -> list[ir.Value]:
        """Return the inputs of a node that depend on the image, each once, in order."""
        return [v for v in dict.fromkeys(inputs_of(node)) if v in self.activations]

    def shape(self, value: ir.Value) -> tuple[int | None, ...] | None:
        """Return the shape of a tensor for the smallest batch; None where the rank is unknown."""
        return self.shapes.get(value.name or "")

    def value(self, name: str) -> ir.Value:
        """Return the tensor of this name.

        Raises:
            TensorNotFoundError: There is none, or it does not depend on the image.
        """
        if name not in self.values:
            raise TensorNotFoundError(
                f"the graph has no tensor named {name!r}",
                "`onnx-soda inspect MODEL` lists the tensors to choose from.",
            )
        value = self.values[name]
        if value not in self.activations:
            raise TensorNotFoundError(
                f"the tensor {name!r} does not depend on the image",
                "Name an activation; `onnx-soda inspect MODEL` lists candidates.",
            )
        return value

    def ancestors(self, value: ir.Value) -> frozenset[ir.Node]:
        """Return the nodes that compute a tensor from the image, not those of constants."""
        found: set[ir.Node] = set()
        stack = [value]
        while stack:
            node = stack.pop().producer()
            if node is not None and node not in found:
                found.add(node)
                stack.extend(self.activation_inputs(node))
        return frozenset(found)

    def cuts(self, value: ir.Value) -> list[ir.Value]:
        """Return the tensors through which every path from the image to a tensor passes.

        From the image on; the image itself first, the tensor itself last. Walking the nodes
        in order, a tensor is a cut if it is the only one that later nodes still read.
        """
        region = self.ancestors(value)
        order = [node for node in self.model.graph if node in region]
        readers: dict[ir.Value, int] = {value: 1}
        for node in order:
            for source in self.activation_inputs(node):
                readers[source] = readers.get(source, 0) + 1
        live = {self.image_value}
        found = [self.image_value]
        for node in order:
            for source in self.activation_inputs(node):
                readers[source] -= 1
                if not readers[source]:
                    live.discard(source)
            live.update(output for output in node.outputs if readers.get(output))
            if len(live) == 1:
                found.extend(live - {found[-1]})
        return found


def inputs_of(node: ir.Node) -> Iterator[ir.Value]:
    """Yield all tensors that a node reads, those that its subgraphs take from outside too."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            yield from _captured(attribute.as_graph())
        elif attribute.type == ir.AttributeType.GRAPHS:
            for graph in attribute.as_graphs():
                yield from _captured(graph)


def _captured(graph: ir.Graph) -> Iterator[ir.Value]:
    own = {*graph.inputs, *graph.initializers.values()}
    own.update(value for node in graph for value in node.outputs)
    for node in graph:
        yield from (value for value in inputs_of(node) if value not in own)
    yield from (value for value in graph.outputs if value not in own)


def view_graph(model: OnnxModel) -> GraphView:
    """Prepare a model's graph for analysis.

    Raises:
        NotAClassifierError: The model has no image input, or several inputs.
        UnsupportedModelError: It computes tensors over the limits, or is of an old opset that onnx
            cannot convert.
    """
    working = upgraded(inlined(model), model.file)
    image = find_image_input(working.graph)
    check_batch(image, model)
    fixed = working.clone()
    _fix_batch(fixed.graph, image)
    check_followed(_infer(fixed, data_prop=False).graph, model)
    working = _infer(working)
    shapes = {
        value.name: _static(value.shape)
        for value in _all_values(_infer(fixed).graph)
        if value.name and value.shape is not None
    }
    check_computed(shapes, image, model)
    view = GraphView(working, image, shapes)
    if not any(output in view.activations for output in working.graph.outputs):
        raise NotAClassifierError(
            f"no output of {model.file} depends on its input {image.name!r}",
            "It answers the same whatever the image shows: it is no classifier.",
        )
    return view


def _all_values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _infer(model: ir.Model, data_prop: bool = True) -> ir.Model:
    infer = ShapeInferencePass(check_type=False, strict_mode=False, data_prop=data_prop)
    return infer(model).model


def _fix_batch(graph: ir.Graph, image: ImageInput) -> None:
    """Give the free dimensions of the image input numbers, so that inference gets further."""
    value = next(v for v in graph.inputs if v.name == image.name)
    value.shape = ir.Shape(image.concrete_shape(image.batch or 1))
    for node in graph:
        for output in node.outputs:
            output.shape = None


def _static(shape: ir.Shape) -> tuple[int | None, ...]:
    return tuple(size if isinstance(size, int) else None for size in shape)
