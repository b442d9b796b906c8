"""The parts of a classifier as models and sessions: image to layer, layer to logits.

Splits a graph into a body (image to layer and logits) and a tail (layer to logits). Or cuts it in
two halves at a layer, the first of which need not be run again where the image stays the same.

The tail is where interventions happen: the body runs once per image, the tail once per
intervention. A tail may need more than the layer: activations on paths that go round it, and the
shape of earlier tensors (an exporter that reshapes by the batch size of the image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from onnx_soda._errors import InferenceError
from onnx_soda._model.anatomy import Anatomy
from onnx_soda._model.graph import GraphView
from onnx_soda._model.runtime import (
    Arrays,
    Meter,
    Session,
    SubModel,
    choose_batch_size,
    run_batches,
)
from onnx_soda._options import RuntimeOptions


@dataclass(frozen=True)
class SideInput:
    """A tensor that the tail needs besides the layer.

    Attributes:
        name: Name of the tensor.
        shape_only: The tail reads only its shape, so zeros do.
    """

    name: str
    shape_only: bool


@dataclass(frozen=True, eq=False)
class TailGraph:
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
    stored = (value.const_value for value in graph.initializers.values())
    return SubModel(
        ir.to_proto(model).SerializeToString(),
        folder,
        tuple(value.name or "" for value in graph.inputs),
        tuple(value.name or "" for value in graph.outputs),
        sum(tensor.nbytes for tensor in stored if isinstance(tensor, ir.ExternalTensor)),
    )


def extract_body(view: GraphView, outputs: Sequence[str]) -> ir.Model:
    """Cut out what computes some tensors from the image.

    Args:
        view: The graph.
        outputs: Names of the tensors to expose, in the order wanted; duplicates are dropped.
    """
    names = list(dict.fromkeys(outputs))
    return _as_model(view, [view.image_value], [view.values[name] for name in names])


def extract_tail(view: GraphView, layer: ir.Value, logits: ir.Value) -> TailGraph:
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
    return TailGraph(model, layer.name or "", logits.name or "", sides)


@dataclass(frozen=True, eq=False)
class Halves:
    """A graph cut in two at a layer.

    Attributes:
        first: From the image to the layer, and to whatever else the second half needs: all its
            outputs are inputs of the second, the layer is the first of them.
        second: From there to the tensors wanted; those that come before the layer are inputs.
        share: Share of the multiplications that are in the second half.
    """

    first: ir.Model
    second: ir.Model
    share: float


def cut_in_two(view: GraphView, layer: ir.Value, outputs: Sequence[str]) -> Halves:
    """Cut a graph at a layer.

    Args:
        view: The graph.
        layer: A hidden tensor.
        outputs: Names of the tensors wanted.
    """
    targets = [view.values[name] for name in dict.fromkeys(outputs)]
    downstream = set[ir.Node]().union(*(_downstream(view, layer, one) for one in targets))
    borders = _borders(view, downstream, layer)
    sides = [*borders, *_shape_sources(view, downstream, layer, borders)]
    early = [one.name or "" for one in targets if one.producer() not in downstream]
    between = [view.values[name] for name in dict.fromkeys([layer.name or "", *sides, *early])]
    first = _as_model(view, [view.image_value], between)
    second = _as_model(view, between, [one for one in targets if one.producer() in downstream])
    return Halves(first, second, share_behind(view, layer, outputs))


def share_behind(view: GraphView, layer: ir.Value, outputs: Sequence[str]) -> float:
    """Return the share of a graph's multiplications that come after a layer.

    Args:
        view: The graph.
        layer: A hidden tensor.
        outputs: Names of the tensors wanted.
    """
    targets = [view.values[name] for name in outputs]
    every = set[ir.Node]().union(*(view.ancestors(one) for one in targets))
    behind = set[ir.Node]().union(*(_downstream(view, layer, one) for one in targets))
    work = {node: _multiplications(view, node) for node in every}
    return sum(work[node] for node in behind) / max(sum(work.values()), 1)


_CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv", "FusedConv"})
_PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul", "FusedMatMul"})


def _multiplications(view: GraphView, node: ir.Node) -> int:
    """Return how many numbers a node multiplies and adds; where it does not, those that it makes.

    Sizes that inference cannot tell count as 1.
    """
    made = _elements(view, node.outputs[0])
    if node.op_type in _CONVOLUTIONS:
        # The filters are the only input of several axes besides the image: out, in, places.
        ranks = [_shape_of(view, value) for value in node.inputs[1:] if value is not None]
        return made * max((prod(shape[1:]) for shape in ranks if len(shape) > 1), default=1)
    if node.op_type in _PRODUCTS and node.inputs[0] is not None:
        return made * (_shape_of(view, node.inputs[0]) or (1,))[-1]
    return made


def _elements(view: GraphView, value: ir.Value) -> int:
    return prod(_shape_of(view, value))


def _shape_of(view: GraphView, value: ir.Value) -> tuple[int, ...]:
    known = view.shape(value)
    if known is None and value.shape is not None:
        known = tuple(size if isinstance(size, int) else None for size in value.shape)
    return tuple(size or 1 for size in known or ())


def _downstream(view: GraphView, layer: ir.Value, logits: ir.Value) -> set[ir.Node]:
    path = view.ancestors(logits)
    reached, nodes = {layer}, set[ir.Node]()
    for node in view.model.graph:
        if node in path and any(v in reached for v in view.activation_inputs(node)):
            nodes.add(node)
            reached.update(node.outputs)
    return nodes


def _borders(view: GraphView, nodes: set[ir.Node], layer: ir.Value) -> list[str]:
    """Return the activations that nodes of the tail read but do not compute, except the layer."""
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
    """Return the activations before the layer whose shape the tail's constants are made from."""
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


class Body:
    """A classifier as a session with the logits and hidden tensors as outputs.

    Args:
        anatomy: The classifier.
        options: How sessions run.
        sides: Names of further tensors to expose.
        meter: Counts the images.

    Attributes:
        anatomy: The classifier.
        batch_size: Images per run.
        row_elements: Elements of all outputs for one image; unknown sizes count as 1.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        options: RuntimeOptions,
        sides: tuple[str, ...] = (),
        meter: Meter | None = None,
    ) -> None:
        view = anatomy.view
        self.anatomy = anatomy
        self._logits = anatomy.logits.value.name or ""
        self._layer = anatomy.layer.name
        self._sides = sides
        model = serialise(
            extract_body(view, [self._logits, self._layer, *sides]), anatomy.model.folder
        )
        self._session = Session(model, options, view.image.batch, meter)
        shapes = [view.shapes[v.name] for v in view.activations if v.name in view.shapes]
        self.batch_size = view.image.batch or choose_batch_size(shapes, options)
        given = (view.shapes.get(name) or () for name in (self._logits, self._layer, *sides))
        self.row_elements = sum(prod(size or 1 for size in shape[1:]) for shape in given)

    @property
    def providers(self) -> tuple[str, ...]:
        """Execution providers that ONNX Runtime really uses."""
        return self._session.providers

    def logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """Return the logits, shape (images, classes), of preprocessed images.

        They may be infinite or no numbers, where a wrong preprocessing overflows the model.
        """
        (scores,) = self._run(images, (self._logits,))
        return _as_rows(scores, len(images))

    def observe(self, images: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[Any], Arrays]:
        """Return logits, layer and side tensors of preprocessed images.

        Raises:
            InferenceError: The model does not run, or its logits are not numbers.
        """
        names = (self._logits, self._layer, *self._sides)
        logits, layer, *sides = self._run(images, names)
        scores = _as_rows(logits, len(images))
        _check_finite(scores)
        return scores, layer, dict(zip(self._sides, sides, strict=True))

    def _run(self, images: NDArray[Any], names: tuple[str, ...]) -> list[NDArray[Any]]:
        feeds = {self.anatomy.view.image.name: images}
        return run_batches(self._session, feeds, self.batch_size, outputs=names)


def _as_rows(logits: NDArray[Any], rows: int) -> NDArray[np.float32]:
    return logits.reshape(rows, -1).astype(np.float32, copy=False)


def _check_finite(scores: NDArray[np.float32]) -> None:
    broken = int((~np.isfinite(scores).all(axis=1)).sum())
    if broken:
        raise InferenceError(
            f"the logits of {broken} of {len(scores)} images are not numbers",
            "Check the preprocessing; the model may be damaged.",
        )


class Tail:
    """The part of a classifier from a layer to the logits, as a session.

    Args:
        anatomy: The classifier.
        options: How sessions run.

    Attributes:
        graph: The graph.
        axis: Axis of the neurons in the layer's tensor.
        element_shape: Shape of the layer for one image; None where inference cannot tell it.
        layer_dtype: Element type of the layer.
        dtype: The same, as NumPy has it.
    """

    def __init__(self, anatomy: Anatomy, options: RuntimeOptions) -> None:
        view, layer = anatomy.view, anatomy.layer
        self.anatomy = anatomy
        self.options = options
        self.graph: TailGraph = extract_tail(view, layer.value, anatomy.logits.value)
        self.axis = layer.axis
        self.element_shape = _known(layer.shape)
        self.layer_dtype = layer.value.dtype or ir.DataType.FLOAT
        self.dtype: np.dtype[np.generic] = np.dtype(self.layer_dtype.numpy())
        self.session = Session(
            serialise(self.graph.model, anatomy.model.folder), options, view.image.batch
        )
        names = (output.name or "" for node in self.graph.model.graph for output in node.outputs)
        shapes = [view.shapes[name] for name in names if name in view.shapes]
        self.batch_size = choose_batch_size([*shapes, layer.shape or ()], options)

    def learn_shape(self, activations: NDArray[np.generic]) -> None:
        """Take the layer's shape from real activations, where inference could not tell it."""
        self.element_shape = activations.shape[1:]

    @property
    def needed(self) -> tuple[str, ...]:
        """Names of the further tensors whose values the tail needs for each image."""
        return tuple(
            side.name
            for side in self.graph.sides
            if not side.shape_only or not self._size(side.name)
        )

    @property
    def reads_layer_alone(self) -> bool:
        """Whether the logits depend on the image through the layer alone."""
        return not self.needed and self.element_shape is not None

    def _size(self, name: str) -> tuple[int, ...] | None:
        return _known(self.anatomy.view.shapes.get(name))

    def feeds(self, layer: NDArray[np.generic], sides: Arrays | None = None) -> Arrays:
        """Return what to feed for some values of the layer; zeros where only a shape is read."""
        fed: Arrays = {self.graph.layer: layer.astype(self.dtype, copy=False)}
        for side in self.graph.sides:
            if sides is not None and side.name in sides:
                fed[side.name] = sides[side.name]
            else:
                shape = (len(layer), *(self._size(side.name) or ()))
                dtype = self.anatomy.view.values[side.name].dtype
                fed[side.name] = np.zeros(shape, dtype.numpy() if dtype else np.float32)
        return fed

    def logits(
        self, layer: NDArray[np.generic], sides: Arrays | None = None
    ) -> NDArray[np.float64]:
        """Compute the logits, shape (rows, classes), for values of the layer.

        Args:
            layer: Values, shape (rows, *element_shape).
            sides: Values of `needed`, with as many rows.
        """
        outputs = run_batches(self.session, self.feeds(layer, sides), self.batch_size)
        return outputs[0].reshape(len(layer), -1).astype(np.float64)


def _known(shape: tuple[int | None, ...] | None) -> tuple[int, ...] | None:
    """Return a shape without its batch axis; None where a size is not known."""
    if shape is None:
        return None
    sizes = [size for size in shape[1:] if size is not None]
    return tuple(sizes) if len(sizes) == len(shape) - 1 else None
